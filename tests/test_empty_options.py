"""An option that names nothing is a mistake, and not the option left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import bench, done

GIVEN = (
    *(("run", f"--{name}") for name in ("methods", "attacks", "seeds", "against")),
    *(("evaluate", f"--{name}") for name in ("attacks", "checkpoints")),
    *(("speed", f"--{name}") for name in ("only", "arch", "precision")),
    ("verify", "--only"),
)


@pytest.mark.parametrize("text", ["", ",", " , "])
@pytest.mark.parametrize(("command", "option"), GIVEN, ids=lambda given: given.strip("-"))
def test_a_list_without_names_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = bench(command, option, text)
    assert result.exit_code == 2
    assert result.output == (
        f"error: {option} '{text}' names nothing; "
        "give one or several, separated by commas, or leave the option out\n"
    )
    assert not list(tmp_path.iterdir())


def test_an_option_that_is_left_out_takes_the_suite_s(tmp_path: Path) -> None:
    arguments = ["run", "--dry-run", "--quiet", "--device", "cpu", "--results", str(tmp_path)]
    result = done(*arguments, "--no-checks")
    for method in ("natural", "madry", "trades", "mart", "iaat", "cat-ce", "cat-mix"):
        assert method in result.output
    one = done(*arguments, "--methods", "madry,", "--seeds", " 3 ,,")
    assert "madry" in one.output
    assert "trades" not in one.output
