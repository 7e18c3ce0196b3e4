"""Training: resumed equals uninterrupted, history, selection, failure, precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.api import Batch, Method, TrainState
from bench.archs.weights import read_weights
from bench.data import Dataset, load_dataset
from bench.errors import NonFiniteLoss
from bench.folder import RunFolder
from bench.plan import make_plan
from bench.progress import Reporter
from bench.records import QUANTILES, load_history
from bench.spec import TrainSpec
from bench.suite import load_suite
from bench.training import engine
from bench.training.checkpoint import load_state
from bench.training.engine import Trainer, initial_model
from bench.training.optimiser import MixedPrecision
from bench.training.validation import Score
from methods.cat import CatCE
from methods.madry import Madry
from methods.natural import Natural
from tests.trained import Stopped, stop_at

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("digits", train_size=100, test_size=20)


def spec_for(name: str, epochs: int = 2, **changes: Any) -> TrainSpec:
    study = replace(load_suite("digits").only(), methods=(name,), train_size=100, test_size=20)
    spec = make_plan(study).cells[-1].spec
    return replace(spec, recipe=replace(spec.recipe, epochs=epochs, batch_size=20), **changes)


def trained(
    spec: TrainSpec, method: Method, dataset: Dataset, results: Path, stopped_at: int | None = None
) -> dict[str, Any]:
    folder = RunFolder(results, spec.run_id)
    trainer = Trainer(spec, method, dataset, folder, torch.device("cpu"))
    if stopped_at is not None:
        stop_at(trainer, stopped_at)
    return trainer.run(QUIET)


@pytest.mark.parametrize(
    ("name", "saves"),
    [("cat-mix", "every batch"), ("trades", "every batch"), ("cat-mix", "every epoch")],
)
def test_a_training_stopped_anywhere_ends_with_the_same_weights(
    name: str, saves: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_for(name)
    method = make_plan(replace(load_suite("digits").only(), methods=(name,))).cells[-1].method
    assert method is not None
    whole = trained(spec, method, dataset, tmp_path / "whole")
    monkeypatch.setattr(engine, "SAVE_SECONDS", -1.0 if saves == "every batch" else 1e9)
    for number in (1, 5, 7, 9):  # five batches per epoch: the middle, the border, the last
        parts = tmp_path / f"stopped-{number}"
        with pytest.raises(Stopped):
            trained(spec, method, dataset, parts, number)
        summary = trained(spec, method, dataset, parts)
        for checkpoint in ("best", "last"):
            one, two = (
                RunFolder(folder, spec.run_id).weights(checkpoint).read_bytes()
                for folder in (tmp_path / "whole", parts)
            )
            assert one == two
        assert summary["checkpoints"] == whole["checkpoints"]
        assert summary["cost"]["forward_per_image"] == whole["cost"]["forward_per_image"]
        histories = [
            [{k: v for k, v in row.items() if "second" not in k} for row in load_history(folder)]
            for folder in (tmp_path / "whole" / spec.run_id, parts / spec.run_id)
        ]
        assert histories[0] == histories[1]


@pytest.mark.parametrize(
    ("pattern", "left", "says"),
    [
        ("*/state-*.pt", -100, "damaged"),
        ("*/best-*.safetensors", -8, "begun again"),
        ("*/best-*.safetensors", None, "begun again"),
    ],
)
def test_a_training_with_a_damaged_state_or_without_its_best_weights_begins_again(
    pattern: str, left: int | None, says: str, dataset: Dataset, tmp_path: Path
) -> None:
    spec, method = spec_for("natural"), Natural()
    whole = trained(spec, method, dataset, tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(spec, method, dataset, tmp_path / "cut", stopped_at=7)
    (path,) = (tmp_path / "cut").glob(pattern)
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    summary = trained(spec, method, dataset, tmp_path / "cut")
    assert summary["checkpoints"] == whole["checkpoints"]
    assert says in summary["warnings"][0]
    assert len(list(path.parent.glob("*.damaged"))) == ("state" in pattern)


def test_the_global_seed_and_thread_of_draws_do_not_matter(
    dataset: Dataset, tmp_path: Path
) -> None:
    spec, method = spec_for("madry", epochs=1), Madry()
    sums = []
    for number in (1, 2):
        torch.manual_seed(number)
        torch.rand(number)
        before = torch.get_rng_state()
        sums.append(trained(spec, method, dataset, tmp_path / str(number))["checkpoints"])
        assert torch.equal(torch.get_rng_state(), before)
    assert sums[0] == sums[1]
    other = trained(replace(spec, seed=1), method, dataset, tmp_path / "other")
    assert other["checkpoints"] != sums[0]


def test_history_has_what_a_reader_plots(dataset: Dataset, tmp_path: Path) -> None:
    spec = spec_for("cat-ce")
    summary = trained(spec, CatCE(), dataset, tmp_path)
    rows = load_history(tmp_path / spec.run_id)
    assert [row["epoch"] for row in rows] == [0, 1]
    for row in rows:
        assert {"loss", "lr", "val_clean", "val_robust", "images_per_second"} <= row.keys()
        assert len(row["radius_quantiles"]) == len(QUANTILES)
        assert sorted(row["radius_quantiles"]) == row["radius_quantiles"]
        assert row["n_val"] == len(dataset.val)
    assert 0 < rows[1]["radius_quantiles"][-1] <= spec.eps
    # ten gradients, the success test, the update; one backward each but for the test
    assert summary["cost"]["forward_per_image"] == 12
    assert summary["cost"]["backward_per_image"] == 11


def test_radii_are_kept_by_dataset_index(dataset: Dataset, tmp_path: Path) -> None:
    spec = spec_for("cat-ce", epochs=3)
    with pytest.raises(Stopped):
        trained(spec, CatCE(), dataset, tmp_path, stopped_at=10)
    saved, _ = load_state(tmp_path / spec.run_id, torch.device("cpu"))
    assert saved is not None
    radius = saved["examples"]["radius"]
    assert radius.shape == (len(dataset.train),)
    steps = radius / (0.005 * spec.eps / (8 / 255))
    assert torch.allclose(steps, steps.round(), atol=1e-4)  # every image was seen twice
    assert steps.round().max() == 2


@dataclass(frozen=True, kw_only=True)
class Diverging(Method):
    """The loss is NaN from a given batch on."""

    at: int = 7

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return batch.x

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        loss: Tensor = state.model(x_adv).square().mean()
        return loss * float("nan") if state.batch_number >= self.at else loss


def test_a_loss_that_is_not_finite_names_its_epoch_and_step(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        trained(spec_for("natural"), Diverging(), dataset, tmp_path)
    assert (caught.value.epoch, caught.value.step) == (1, 2)


def test_best_is_chosen_by_the_accuracy_that_the_method_names() -> None:
    untrained, trained_ = Score(n_clean=3, n_robust=3, n=10), Score(n_clean=9, n_robust=0, n=10)
    assert untrained.rank("robust") > trained_.rank("robust")
    assert untrained.rank("clean") < trained_.rank("clean")
    assert Natural.selects_by == "clean"


def test_bf16_keeps_the_first_layer_in_fp32(dataset: Dataset, tmp_path: Path) -> None:
    spec = spec_for("natural", precision="bf16")
    model = MixedPrecision(initial_model(spec))
    x = torch.full((4, 1, 8, 8), 0.5)
    moved = x + 0.0005  # less than the spacing of bf16 at 0.5
    assert torch.equal(x.bfloat16(), moved.bfloat16())
    assert not torch.equal(model.stem(x), model.stem(moved))
    assert model(x).dtype == torch.float32
    summary = trained(spec, Natural(), dataset, tmp_path)
    weights = read_weights(RunFolder(tmp_path, spec.run_id).weights("last"))
    assert all(value.dtype != torch.bfloat16 for value in weights.values())
    assert summary["status"] == "done"


def test_a_last_batch_of_one_image_joins_the_one_before(dataset: Dataset, tmp_path: Path) -> None:
    spec = spec_for("natural", epochs=1)
    spec = replace(spec, recipe=replace(spec.recipe, batch_size=89))
    folder = RunFolder(tmp_path, spec.run_id)
    trainer = Trainer(spec, Natural(), dataset, folder, torch.device("cpu"))
    assert trainer.n_batches == 1
    trainer.run(QUIET)
    assert trainer.cost.forward == len(dataset.train) == 90
