"""The radius as people write it: what is read, to the bit, and what is refused in one line."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.eps import parse_eps, parse_number
from bench.errors import ConfigError
from bench.registry import get_method
from bench.study import AskedAttack


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5/255", 0.5 / 255),
        ("8 / 255", 8 / 255),
        ("8/255.", 8 / 255),
        ("8.0/255.0", 8 / 255),
        ("1e-3", 0.001),
        (".03", 0.03),
        ("0.0156862745", 0.0156862745),
        (" 8/255 ", 8 / 255),
        ("\t8/ 255\n", 8 / 255),
        ("+8/255", 8 / 255),
        ("255/255", 1.0),
        ("0", 0.0),
    ],
)
def test_what_people_write(text: str, value: float) -> None:
    assert parse_eps(text) == value


def test_fractions_and_decimals_are_rounded_once() -> None:
    """Run ids hash the radius: it is the float next to what was written."""
    for below in (10, 64, 255, 256, 1000):
        for above in range(below + 1):
            assert parse_eps(f"{above}/{below}") == float(Fraction(above, below))
    for number in range(1001):
        assert parse_eps(f"0.{number:04}") == float(Fraction(number, 10_000))
    for eps in (8 / 255, 0.2, 0.031, math.pi / 100):
        assert parse_eps(str(eps)) == eps


def test_zero_has_one_sign() -> None:
    assert [math.copysign(1, parse_eps(text)) for text in ("0", "-0", "0/255", "-0/255")] == [1] * 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8", "eps 8: pixels are in [0, 1]; did you mean 8/255?"),
        ("8.0", "eps 8.0: pixels are in [0, 1]; did you mean 8/255?"),
        ("1.5", "eps 1.5: pixels are in [0, 1]; did you mean 1.5/255?"),
        ("16/2", "eps 16/2: pixels are in [0, 1]; did you mean 8/255?"),
        ("256", "eps 256: pixels are in [0, 1]"),
        ("-1/255", "eps -1/255: must not be negative"),
        *(
            (text, f"eps '{text}' is not a number; write 8/255 or 0.03")
            for text in (
                *("eight", "", " ", "/", "8/", "/255", "8//255", "8/255/1", "1/0", "0/0", "8 255"),
                *("4/255,8/255", "nan", "inf", "-inf", "1/inf", "nan/255", "1e308/1e-308"),
                *("1e999", "8/255px", "1" * 400),
            )
        ),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_eps(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize("text", ["pgd-20@0.5/255", "pgd-20@0.5 / 255", " pgd-20 @ 0.5/255."])
def test_an_attack_has_an_eps_of_its_own(text: str) -> None:
    assert AskedAttack.parse(text) == AskedAttack(name="pgd-20", eps=0.5 / 255)


@pytest.mark.parametrize("text", ["pgd-20@", "pgd-20@8/255@4/255", "pgd-20@eps"])
def test_an_attack_whose_eps_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a number"):
        AskedAttack.parse(text)
    assert AskedAttack.parse("pgd-20").eps is None


def test_a_length_of_a_method_is_read_alike() -> None:
    """By one division of floats, as ever: run ids hash it too."""
    for text in ("8/255", "0.5/255", "8 / 255", "0.056/7.905", "1e-3", "-1/4"):
        above, _, below = text.partition("/")
        assert parse_number(text) == float(above) / float(below or 1)
    method = get_method("madry", step_size="0.5 / 255.", steps="20/2")
    assert (method.step_size, method.steps) == (0.5 / 255, 10)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [["run"], ["evaluate", "--model", "mine.py:make"]])
@pytest.mark.parametrize("text", ["", "8", "nan", "4/255,8/255"])
def test_the_command_line_refuses_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], text: str
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\n"
        "def make():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    more = ["--dataset", "digits", "--eps", text, "--device", "cpu", "--quiet"]
    result = CliRunner().invoke(main, [*command, *more])
    assert result.exit_code == 2, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: eps")
