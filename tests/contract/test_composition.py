"""Every method composes with what the engine may put around it: resume and bf16."""

from pathlib import Path

import pytest
import torch

from bench.archs.weights import read_weights
from bench.data import Dataset, load_dataset
from bench.progress import Reporter
from bench.registry import list_methods
from bench.training import engine
from bench.training.engine import Trainer
from tests.trained import Stopped, short_spec, stop_at, trainer_of

pytestmark = pytest.mark.slow

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("digits", train_size=50, test_size=10)


def trainer(name: str, dataset: Dataset, results: Path) -> Trainer:
    """Two epochs of three batches, the last of 5 images."""
    return trainer_of(short_spec(name, n_train=50), dataset, results)


@pytest.mark.parametrize("name", list_methods())
def test_resumed_in_the_middle_of_an_epoch_is_bit_equal(
    name: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer(name, dataset, tmp_path / "whole")
    expected = whole.run(QUIET)
    monkeypatch.setattr(engine, "SAVE_SECONDS", -1.0)
    cut = trainer(name, dataset, tmp_path / "cut")
    stop_at(cut, 4)
    with pytest.raises(Stopped):
        cut.run(QUIET)
    resumed = trainer(name, dataset, tmp_path / "cut")
    assert resumed.run(QUIET)["checkpoints"] == expected["checkpoints"]
    one, two = (read_weights(t.folder.weights("last")) for t in (whole, resumed))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", list_methods())
def test_bf16_trains_and_leaves_fp32_weights(name: str, dataset: Dataset, tmp_path: Path) -> None:
    spec = short_spec(name, n_train=50, precision="bf16")
    bf16 = trainer_of(spec, dataset, tmp_path)
    assert bf16.run(QUIET)["status"] == "done"
    weights = read_weights(bf16.folder.weights("last"))
    assert all(value.isfinite().all() for value in weights.values())
    assert {v.dtype for v in weights.values() if v.is_floating_point()} == {torch.float32}
