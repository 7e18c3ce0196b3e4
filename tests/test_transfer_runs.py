"""Transferred images through the command line: surrogates are trained first, once, and kept."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from bench.records import RunRecord, load_records
from bench.records.run_folder import RunFolder
from bench.training.engine import Trainer
from tests.commands import bench, done, files, forget, linear_model, refused

pytestmark = pytest.mark.slow

SMALL = ["--seeds", "0", "--train-size", "60", "--test-size", "40", "--epochs", "1"]


def run(results: Path, *arguments: str) -> None:
    done("run", "--results", results, *SMALL, "--quiet", *arguments)


def evaluate(results: Path, run_id: str, *arguments: str) -> Result:
    return bench("evaluate", run_id, "--results", str(results), "--quiet", *arguments)


def by_method(results: Path) -> dict[tuple[str, int | None], RunRecord]:
    return {(r.method, r.seed): r for r in load_records(results)}


def outcome(results: Path, attack: str) -> list[bool]:
    evaluations = by_method(results)["madry", 0].evaluations
    (found,) = (e for e in evaluations if e.spec.attack == attack)
    return [bool(flag) for flag in found.survived]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Methods in the order in which they are trained."""
    order: list[str] = []
    train = Trainer.run

    def noted(self: Trainer, *args: object) -> object:
        order.append(f"{self.spec.method} {self.spec.seed}")
        return train(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "run", noted)
    return order


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """madry under a transfer attack; its surrogate came with it."""
    results = tmp_path_factory.mktemp("transfer") / "results"
    run(results, "--methods", "madry", "--attacks", "transfer")
    return results


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy to work on."""
    return Path(shutil.copytree(made, tmp_path / "results"))


def test_the_surrogate_is_trained_first_and_once(tmp_path: Path, trained: list[str]) -> None:
    asked = ["--methods", "madry,fast", "--attacks", "transfer"]
    run(tmp_path / "r", *asked)
    assert trained == ["natural 0", "madry 0", "fast 0"]
    before = files(tmp_path / "r")
    run(tmp_path / "r", *asked)
    assert len(trained) == 3
    assert files(tmp_path / "r") == before
    runs = by_method(tmp_path / "r")
    assert runs["natural", 0].provenance["role"] == "surrogate"
    assert "role" not in runs["madry", 0].provenance
    for method in ("madry", "fast"):
        for evaluation in runs[method, 0].evaluations:
            assert evaluation.spec.surrogates == (runs["natural", 0].run_id,)


def test_a_transfer_is_counted_on_all_images_too(results: Path) -> None:
    evaluation = by_method(results)["madry", 0].evaluations[0]
    after = evaluation.after
    assert after is not None
    assert after.shape == (40,)
    assert np.array_equal(evaluation.survived, evaluation.clean & after)


def test_the_natural_network_is_attacked_from_another_seed(
    results: Path, trained: list[str]
) -> None:
    run(results, "--methods", "natural", "--attacks", "transfer")
    assert trained == ["natural 1"]
    runs = by_method(results)
    (evaluation, *_) = runs["natural", 0].evaluations
    assert evaluation.spec.surrogates == (runs["natural", 1].run_id,)


def test_several_surrogates_and_one_by_its_id(results: Path, trained: list[str]) -> None:
    madry = by_method(results)["madry", 0].run_id
    asked = ["--attacks", "transfer:natural+madry", "--test-size", "40"]
    assert evaluate(results, madry, *asked).exit_code == 0
    assert trained == ["madry 1"]  # never its own surrogate
    assert evaluate(results, madry, *asked).exit_code == 0
    assert len(trained) == 1
    runs = by_method(results)
    natural = runs["natural", 0].run_id
    both = (natural, runs["madry", 1].run_id)
    assert evaluate(results, madry, "--attacks", f"transfer:{natural}").exit_code == 0
    made = {e.spec.surrogates for e in by_method(results)["madry", 0].evaluations}
    assert made == {(natural,), both}
    assert len(trained) == 1


def test_a_surrogate_whose_weights_are_gone_is_trained_again(
    results: Path, trained: list[str]
) -> None:
    runs = by_method(results)
    natural, madry = runs["natural", 0].path, runs["madry", 0].path
    weights = (natural / "best.safetensors").read_bytes()
    for path in natural.glob("*.safetensors"):  # as in a checkout: records without weights
        path.unlink()
    same = ["--methods", "madry", "--attacks", "transfer"]
    run(results, *same)
    run(results, "--methods", "madry", "--attacks", "transfer,fgsm")
    assert trained == []  # what is missing needs no surrogate
    before = files(madry)
    expected = outcome(results, "transfer")
    forget(madry, "transfer-best")
    run(results, *same)
    assert trained == ["natural 0"]
    assert (natural / "best.safetensors").read_bytes() == weights
    assert outcome(results, "transfer") == expected
    archive = madry / "evaluations" / "best.npz"
    assert {p for p, (content, _) in files(madry).items() if content != before[p][0]} <= {archive}


def test_a_surrogate_that_another_process_trains_again_is_waited_for(
    results: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = by_method(results)
    (runs["natural", 0].path / "best.safetensors").unlink()
    forget(runs["madry", 0].path, "transfer-best")
    with ExitStack() as training:
        training.enter_context(RunFolder(results, runs["natural", 0].run_id).claimed())
        waits: list[list[str]] = []

        def done(_: float) -> None:
            waits.append(list(trained))
            training.close()

        monkeypatch.setattr("bench.jobs.driver.sleep", done)
        run(results, "--methods", "madry", "--attacks", "transfer")
    assert waits
    assert not any(waits)
    assert trained == ["natural 0"]
    assert outcome(results, "transfer")


def test_a_dry_run_lists_the_surrogates_cell(tmp_path: Path) -> None:
    asked = ["--methods", "madry", "--attacks", "transfer", "--results", str(tmp_path / "r")]
    found = done("run", *SMALL, *asked, "--dry-run")
    cells = [line.split()[0] for line in found.stdout.splitlines() if "-cnn-digits-" in line]
    assert [cell.split("-")[0] for cell in cells] == ["natural", "madry"]
    assert not (tmp_path / "r").exists()


def test_a_surrogate_that_cannot_serve_is_one_line(results: Path, tmp_path: Path) -> None:
    model = [*linear_model(tmp_path), "--dataset", "digits"]
    where = ["--results", str(results), "--quiet", "--test-size", "16"]
    done("evaluate", *model, *where, "--attacks", "clean")
    source = tmp_path / "other.npz"
    g = np.random.default_rng(0)
    np.savez(
        source,
        x_train=g.integers(0, 256, (60, 6, 6), dtype=np.uint8),
        y_train=np.arange(60) % 10,
        x_test=g.integers(0, 256, (20, 6, 6), dtype=np.uint8),
        y_test=np.arange(20) % 10,
    )
    other = ["--methods", "natural", "--dataset", f"npz:{source}", "--arch", "cnn"]
    asked = ["--seeds", "0", "--train-size", "60", "--epochs", "1", "--attacks", "clean", "--quiet"]
    done("run", "--results", results, *asked, *other)
    runs = load_records(results)
    outside = next(r.run_id for r in runs if r.kind == "model")
    elsewhere = next(r.run_id for r in runs if r.dataset not in ("digits",))
    madry = by_method(results)["madry", 0].run_id
    natural = next(r for r in runs if r.method == "natural" and r.dataset == "digits")
    before = files(results)
    refused(evaluate(results, madry, "--attacks", "transfer:natral"), "natral", "Did you mean")
    refused(evaluate(results, madry, "--attacks", f"transfer:{outside}"), "not trained here")
    refused(evaluate(results, madry, "--attacks", f"transfer:{elsewhere}"), "(1, 6, 6)")
    transfer = ["--attacks", "transfer"]
    refused(bench("evaluate", *model, *where, *transfer), "'natural'", "transfer:RUN_ID")
    refused(bench("evaluate", *model, *where, *transfer, "--surrogate", elsewhere), "(1, 6, 6)")
    (natural.path / "best.safetensors").unlink()
    before.pop(natural.path / "best.safetensors")
    again = ["--attacks", f"transfer:{natural.run_id}", "--test-size", "16"]
    refused(evaluate(results, madry, *again), "weights", natural.run_id)
    assert files(results) == before


def test_a_surrogate_that_failed_in_training_is_one_line(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.errors import NonFiniteLoss

    def fail(self: Trainer, *args: object) -> None:
        raise NonFiniteLoss(0, 3)

    monkeypatch.setattr(Trainer, "run", fail)
    madry = by_method(results)["madry", 0].run_id
    for _ in range(2):
        refused(evaluate(results, madry, "--attacks", "transfer:trades"), "trades", "failed")
