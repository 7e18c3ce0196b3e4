"""A cell that fails is told in one line, the others go on, and the same command finishes later."""

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
from tests.commands import bench

pytestmark = pytest.mark.slow

MINE = """
from dataclasses import dataclass
from bench.api import Batch, Method, TrainState, losses, register

@register("NAME")
@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    def perturb(self, state: TrainState, batch: Batch):
        return batch.x

    def loss(self, state: TrainState, batch: Batch, x_adv):
        FAULT
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()
"""
ASKED = ["--train-size", "200", "--test-size", "40", "--epochs", "1", "--no-checks"]


def run(results: Path, methods: str, *more: str, attacks: str = "clean,pgd-20") -> Result:
    where = ["--results", str(results), "--attacks", attacks]
    return bench("run", "--methods", methods, *ASKED, *where, *more)


def mine(folder: Path, fault: str) -> str:
    """A method's file; each folder's has another name, for a process reads each name once."""
    path = folder / "mine.py"
    path.write_text(MINE.replace("FAULT", fault).replace("NAME", f"mine-{folder.name}"))
    return str(path)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            "raise ZeroDivisionError('a slip')",
            "ZeroDivisionError: a slip (mine.py:12; its traceback",
        ),
        ("raise MemoryError", "MemoryError (mine.py:12; "),
        ("assert False, 'two\\nlines'", "AssertionError: two lines"),
    ],
)
def test_a_method_that_raises_is_one_line_and_the_others_go_on(
    fault: str, says: str, tmp_path: Path
) -> None:
    results, method = tmp_path / "r", mine(tmp_path, fault)
    result = run(results, f"{method},natural", "--seeds", "0,1")
    assert result.exit_code == 1, result.output
    failed = [line for line in result.stderr.splitlines() if ": failed: " in line]
    assert len(failed) == 2, "one a seed"
    assert all(says in line for line in failed)
    assert "Traceback" not in result.output
    assert "2 trained, 8 evaluations and checks made, 2 failed" in result.stdout
    for path in results.glob("mine-*/traceback.txt"):
        assert "mine.py" in path.read_text()
    status = {run.method[:4]: run.status for run in load_records(results)}
    assert status == {"mine": "unfinished", "natu": "done"}, "nothing is recorded for good"


def test_the_same_command_finishes_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "r"
    method = mine(tmp_path, "if fails.on:\n            raise ValueError(1)")
    text = Path(method).read_text()
    Path(method).write_text(f"class fails:\n    on = True\n{text}")
    first = run(results, method, "--quiet")
    assert first.exit_code == 1
    (line,) = first.stderr.splitlines()
    assert "ValueError: 1" in line
    (path,) = results.glob("*/traceback.txt")
    cls = method_class(method)
    monkeypatch.setattr(sys.modules[cls.__module__].fails, "on", False)
    again = run(results, method)
    assert again.exit_code == 0, again.output
    assert "1 trained" in again.stdout
    assert not path.exists()


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
    done = {run.method: run for run in load_records(results)}
    assert {e.spec.attack for e in done["natural"].evaluations} == {"clean"}
    assert done["trades"].status == "unfinished"


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


def test_a_method_that_exits_is_a_failure(tmp_path: Path) -> None:
    result = run(tmp_path / "r", f"{mine(tmp_path, 'raise SystemExit(0)')},natural")
    assert result.exit_code == 1, result.output
    assert "failed: SystemExit: 0" in result.stderr
    assert "1 trained" in result.stdout


@pytest.mark.parametrize("code", ["", "0", "3"])
def test_a_method_file_that_exits_is_one_line(code: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"import sys\nsys.exit({code})\n")
    result = run(tmp_path / "r", f"{path},natural")
    assert result.exit_code == 2, result.output
    assert f"error: method file {path} ends the program" in result.stderr


def test_a_method_file_may_import_another_method(tmp_path: Path) -> None:
    path = Path(mine(tmp_path, "pass"))
    path.write_text("from methods.natural import Natural\n" + path.read_text())
    result = run(tmp_path / "r", str(path), attacks="clean")
    assert result.exit_code == 0, result.output


def test_a_new_record_says_which_code_made_it(tmp_path: Path) -> None:
    results = tmp_path / "r"
    assert run(results, mine(tmp_path, "pass"), attacks="clean").exit_code == 0
    (record,) = load_records(results)
    code = record.provenance["code"]
    assert {"version", "revision", "clean", "training_sha256", "method_sha256"} == set(code)
    (evaluation, _) = record.evaluations
    found = evaluation.chunks[0].info["code"]
    assert {"version", "revision", "clean", "evaluation_sha256"} == set(found)
    assert found["revision"] == code["revision"]
