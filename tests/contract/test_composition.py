"""Every method composes with what the engine may put around it: resume, bf16, torch.compile."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.archs import inference_copy as compiled
from bench.archs.weights import read_weights
from bench.data import Dataset, load_dataset
from bench.plan import make_plan
from bench.progress import Reporter
from bench.registry import list_methods
from bench.run_store import RunFolder
from bench.suite import load_suite
from bench.training import engine
from bench.training.engine import Trainer
from tests.trained import Stopped, stop_at

pytestmark = pytest.mark.slow

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("digits", train_size=50, test_size=10)


def trainer(
    name: str, dataset: Dataset, results: Path, precision: str = "fp32", *, compiles: bool = False
) -> tuple[Trainer, RunFolder]:
    """Two epochs of three batches, the last of 5 images."""
    study = replace(
        load_suite("digits").only(),
        methods=(name,),
        train_size=50,
        test_size=10,
        precision=precision,
    )
    cell = make_plan(study).cells[-1]
    assert cell.method is not None
    spec = cell.train_spec
    spec = replace(spec, recipe=replace(spec.recipe, epochs=2, batch_size=20))
    folder = RunFolder(results, spec.run_id)
    cpu = torch.device("cpu")
    return Trainer(spec, cell.method, dataset, folder, cpu, compiles=compiles), folder


@pytest.mark.slow
@pytest.mark.parametrize("name", list_methods())
def test_resumed_in_the_middle_of_an_epoch_is_bit_equal(
    name: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, whole_folder = trainer(name, dataset, tmp_path / "whole")
    expected = whole.run(QUIET)
    monkeypatch.setattr(engine, "SAVE_SECONDS", -1.0)
    cut, _ = trainer(name, dataset, tmp_path / "cut")
    stop_at(cut, 4)
    with pytest.raises(Stopped):
        cut.run(QUIET)
    resumed, folder = trainer(name, dataset, tmp_path / "cut")
    assert resumed.run(QUIET)["checkpoints"] == expected["checkpoints"]
    one, two = read_weights(whole_folder.weights("last")), read_weights(folder.weights("last"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False), (True, True)])
def test_a_training_records_whether_it_ran_compiled(
    first: bool, then: bool, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    monkeypatch.setattr(engine, "SAVE_SECONDS", -1.0)
    cut, _ = trainer("madry", dataset, tmp_path, compiles=first)
    stop_at(cut, 4)
    with pytest.raises(Stopped):
        cut.run(QUIET)
    resumed, _ = trainer("madry", dataset, tmp_path, compiles=then)
    assert resumed.run(QUIET)["compiled"] == (True if first and then else "partly")


def test_what_attacks_no_copy_is_not_recorded_as_compiled(dataset: Dataset, tmp_path: Path) -> None:
    natural, _ = trainer("natural", dataset, tmp_path, compiles=True)
    assert "compiled" not in natural.run(QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_methods())
def test_bf16_trains_and_leaves_fp32_weights(name: str, dataset: Dataset, tmp_path: Path) -> None:
    bf16, folder = trainer(name, dataset, tmp_path, "bf16")
    assert bf16.run(QUIET)["status"] == "done"
    weights = read_weights(folder.weights("last"))
    assert all(value.isfinite().all() for value in weights.values())
    assert {v.dtype for v in weights.values() if v.is_floating_point()} == {torch.float32}
