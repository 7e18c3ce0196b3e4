"""A run that fails is told in one line, the others go on, and the same command finishes later."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result

from bench.attacks.pgd import PGD
from bench.records import load_records
from bench.registry import method_class
from bench.training.engine import Trainer
from tests.commands import bench, done, method, refused

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_registry_as_before")]

ASKED = ["--seeds", "0", "--train-size", "200", "--test-size", "40", "--epochs", "1", "--no-checks"]


def run(results: Path, methods: str, *more: str, attacks: str = "clean,pgd-20") -> Result:
    where = ["--results", results, "--attacks", attacks]
    return bench("run", "--methods", methods, *ASKED, *where, *more)


def mine(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raise ZeroDivisionError('a slip')", r"ZeroDivisionError: a slip \(mine.py:\d+; its trac"),
        ("assert False, 'two\\nlines'", "AssertionError: two lines"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_method_that_raises_is_one_line_and_the_others_go_on(
    fault: str, says: str, tmp_path: Path
) -> None:
    results, path = tmp_path / "r", mine(tmp_path, method(fault=fault))
    result = run(results, f"{path},natural", "--seeds", "0,1")
    assert result.exit_code == 1, result.output
    failed = [line for line in result.stderr.splitlines() if ": failed here: " in line]
    assert len(failed) == 2, "one a seed"
    assert all(re.search(says, line) for line in failed)
    assert "Traceback" not in result.output
    assert "2 trained, 8 evaluations and checks made, 2 failed" in result.stdout
    for traceback in results.glob("mine-*/traceback.txt"):
        assert "mine.py" in traceback.read_text()
    status = {run.method: run.status for run in load_records(results)}
    assert status == {"mine": "unfinished", "natural": "done"}, "nothing is recorded for good"


def test_the_same_command_finishes_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "if fails.on:\n            raise ValueError(1)"
    results = tmp_path / "r"
    path = mine(tmp_path, f"class fails:\n    on = True\n{method(fault=fault)}")
    first = run(results, path, "--quiet")
    assert first.exit_code == 1
    (line,) = first.stderr.splitlines()
    assert "ValueError: 1" in line
    (traceback,) = results.glob("*/traceback.txt")
    module = sys.modules[method_class(path).__module__]
    monkeypatch.setattr(module.fails, "on", False)
    again = run(results, path)
    assert again.exit_code == 0, again.output
    assert "1 trained" in again.stdout
    assert not traceback.exists()


def test_an_attack_that_raises_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ascend = PGD.__call__

    def fails(self: PGD, *args: object, **kwargs: object) -> torch.Tensor:
        if self.loss == "margin":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return ascend(self, *args, **kwargs)  # type: ignore[arg-type]

    results = tmp_path / "r"
    with monkeypatch.context() as patch:
        patch.setattr(PGD, "__call__", fails)
        result = run(results, "natural", attacks="clean,cw,pgd-20")
    assert result.exit_code == 1, result.output
    failed = [line for line in result.stderr.splitlines() if "was not made" in line]
    assert [line.split(": ")[0].rpartition("(")[2] for line in failed] == ["best)", "last)"]
    assert all("cw at 0.2 was not made: OutOfMemoryError: CUDA out of memory" in s for s in failed)
    (record,) = load_records(results)
    assert {e.spec.attack for e in record.evaluations} == {"clean", "pgd-20"}
    again = run(results, "natural", attacks="clean,cw,pgd-20")
    assert again.exit_code == 0, again.output
    assert "0 trained, 2 evaluations and checks made, 0 failed" in again.stdout


def test_a_surrogate_that_fails_costs_what_needs_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains = Trainer.run

    def fails(self: Trainer, *args: object) -> object:
        if self.spec.method == "trades":
            raise RuntimeError("no luck")
        return trains(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "run", fails)
    results = tmp_path / "r"
    result = run(results, "natural", attacks="clean,transfer:trades")
    assert result.exit_code == 1, result.output
    assert "RuntimeError: no luck" in result.stderr
    assert "what needs a surrogate was not made: surrogate trades-cnn-digits" in result.stderr
    found = {run.method: run for run in load_records(results)}
    assert {e.spec.attack for e in found["natural"].evaluations} == {"clean"}
    assert found["trades"].status == "unfinished"


def test_a_surrogate_that_nobody_needed_is_made_again_once_somebody_does(tmp_path: Path) -> None:
    """Its weights are gone, and those of the run that needs it too, whose new ones differ."""
    results = tmp_path / "r"
    assert run(results, "natural", attacks="clean,transfer").exit_code == 0
    for path in results.rglob("*.safetensors"):
        path.unlink()
    for path in results.rglob("train.json"):  # as another processor would have it
        path.write_text(re.sub('"sha256": "[0-9a-f]*"', '"sha256": "0"', path.read_text()))
    again = run(results, "natural", attacks="clean,transfer,pgd-20")
    assert again.exit_code == 0, again.output
    (asked,) = (r for r in load_records(results) if r.seed == 0)
    assert {e.spec.attack for e in asked.evaluations} == {"clean", "transfer", "pgd-20"}


@pytest.mark.parametrize("code", ["", "0", "3"])
def test_a_method_file_that_exits_is_one_line(code: str, tmp_path: Path) -> None:
    path = mine(tmp_path, f"import sys\nsys.exit({code})\n")
    refused(run(tmp_path / "r", f"{path},natural"), f"method file {path} ends the program")


def test_a_method_file_may_import_another_and_its_record_says_which_code_made_it(
    tmp_path: Path,
) -> None:
    path = mine(tmp_path, "from methods.natural import Natural\n" + method())
    common = ["--methods", path, *ASKED, "--attacks", "clean"]
    done("run", "--results", tmp_path / "r", *common)
    (record,) = load_records(tmp_path / "r")
    code = record.provenance["code"]
    assert {"version", "revision", "clean", "training_sha256", "method_sha256"} == set(code)
    found = record.evaluations[0].chunks[0].info["code"]
    assert {"version", "revision", "clean", "evaluation_sha256"} == set(found)
    assert found["revision"] == code["revision"]
