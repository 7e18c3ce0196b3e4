"""Gradients summed over parts of a batch: those of the batch; and what to do without memory."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.api import Batch, Method, TrainState
from bench.archs.arch import Arch
from bench.archs.inference_copy import InferenceCopy
from bench.data import Dataset, load_dataset
from bench.errors import ConfigError, MemoryLimit
from bench.progress import Reporter
from bench.records.spec import Recipe, TrainSpec
from bench.registry import list_methods
from bench.threat import Threat
from bench.training.batching import micro_batches
from bench.training.checkpoint import has_state
from bench.verify.baselines import _Doubled
from bench.verify.networks import one_thread
from methods.cat import CatCE
from tests.commands import bench, refused
from tests.harness import raises_line
from tests.trained import short_spec, trainer_of

CPU = torch.device("cpu")
OWN_STEP = ("awp-madry", "awp-trades", "fast", "free", "ikl", "mlcat-wp", "yopo")
"""Methods with a training step of their own."""
DRAW_TWICE = ("adv-ls", "cat-ce", "cat-mix", "iaat")
"""They draw more than once per batch, so parts of a batch draw in another order."""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("digits", train_size=100, test_size=20)


def with_micro(spec: TrainSpec, n: int | None) -> TrainSpec:
    return replace(spec, recipe=replace(spec.recipe, micro_batch=n))


def weights(spec: TrainSpec, dataset: Dataset, results: Path) -> list[Tensor]:
    """After two epochs in float64, on a network without BatchNorm."""
    with one_thread(torch.float64):
        trainer = trainer_of(spec, dataset, results)
        trainer.data, trainer.val = _Doubled(trainer.data), _Doubled(trainer.val)
        trainer.run(Reporter(quiet=True))
        return [p.detach().clone() for p in trainer.network.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(list_methods()) - set(OWN_STEP)))
def test_without_batchnorm_the_steps_are_those_of_the_whole_batch(
    name: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in DRAW_TWICE:
        monkeypatch.setattr(Threat, "uniform", lambda _, x, *__: 0.3 * torch.ones_like(x))
        monkeypatch.setattr(CatCE, "_dirichlet", lambda _, __, b: torch.full((len(b.x), 10), 0.1))
    spec = replace(short_spec(name), arch="linear")
    whole, parts = (weights(with_micro(spec, n), dataset, tmp_path) for n in (None, 7))
    for one, two in zip(whole, parts, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", OWN_STEP)
def test_a_method_with_its_own_step_is_refused(name: str, dataset: Dataset, tmp_path: Path) -> None:
    with raises_line(ConfigError, "cannot be trained with a micro-batch", "--batch-size"):
        trainer_of(with_micro(short_spec(name), 8), dataset, tmp_path)
    asked = ("--methods", name, "--micro-batch", "8", "--results", tmp_path / "r", "--dry-run")
    refused(bench("run", *asked), "cannot be trained with a micro-batch")


def test_batchnorm_takes_the_statistics_of_a_micro_batch(dataset: Dataset, tmp_path: Path) -> None:
    trainer = trainer_of(with_micro(short_spec("natural", batch_size=20), 10), dataset, tmp_path)
    norm = next(m for m in trainer.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen: list[int] = []
    norm.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    trainer._batch(torch.arange(20), 0)
    assert seen == [10, 10]
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 2
    assert trainer.optimiser.sgd.state[norm.weight]["momentum_buffer"].abs().sum() > 0


@pytest.mark.parametrize(
    ("n", "size", "parts"),
    [(20, None, [20]), (20, 7, [7, 7, 6]), (3, 2, [3]), (5, 2, [3, 2]), (1, 4, [1]), (8, 20, [8])],
)
def test_the_parts_of_a_batch(n: int, size: int | None, parts: list[int]) -> None:
    assert [len(rows) for rows in micro_batches(torch.arange(n), size)] == parts


def test_it_enters_the_id_only_where_it_is_set() -> None:
    spec = short_spec("natural")
    assert with_micro(spec, None).run_id == spec.run_id
    assert with_micro(spec, 5).run_id != spec.run_id
    assert with_micro(spec, 5).to_dict()["recipe"]["micro_batch"] == 5
    assert TrainSpec.from_dict(with_micro(spec, 5).to_dict()) == with_micro(spec, 5)
    for wrong in (20, 21):  # 1 in test_spec.py
        with raises_line(ConfigError, f"micro_batch = {wrong} must be below batch_size = 20"):
            Recipe(epochs=1, batch_size=20, lr=0.1, micro_batch=wrong)


@dataclass(frozen=True, kw_only=True)
class Hungry(Method):
    """Runs out of memory where more than `limit` images are in one forward pass."""

    limit: int = 6

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return batch.x

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        if len(x_adv) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        loss: Tensor = state.model(x_adv).square().mean()
        return loss


@dataclass(frozen=True, kw_only=True)
class HungryStep(Hungry):
    """The same with a step of its own."""

    def train_step(self, state: TrainState, batch: Batch) -> dict[str, Tensor]:
        return {**super().train_step(state, batch)}


@pytest.mark.parametrize(
    ("method", "micro", "words"),
    [
        (Hungry(), None, ["a batch of 20 images", "5 do: add --micro-batch 5", "BatchNorm"]),
        (Hungry(limit=3), 5, ["a batch of 5 images", "2 do: add --micro-batch 2"]),
        (Hungry(limit=1), None, ["neither do 2", "--arch"]),
        (HungryStep(), None, ["5 do: add --batch-size 5", "another recipe"]),
    ],
)
def test_a_training_without_memory_names_what_fits(
    method: Method, micro: int | None, words: list[str], dataset: Dataset, tmp_path: Path
) -> None:
    spec = with_micro(short_spec("natural"), micro)
    with raises_line(MemoryLimit, spec.run_id, "the memory of cpu", *words):
        trainer_of(spec, dataset, tmp_path, method=method).run(Reporter(quiet=True))
    assert not (tmp_path / spec.run_id / "train.json").exists()


def test_what_fits_is_tried_on_whole_steps(dataset: Dataset, tmp_path: Path) -> None:
    spec = short_spec("natural")
    trainer = trainer_of(spec, dataset, tmp_path, method=Hungry())
    seen: list[int] = []
    trainer.network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with pytest.raises(MemoryLimit):
        trainer.run(Reporter(quiet=True))
    assert seen == [5] * 4 * 2


def test_validation_without_memory_is_not_taken_for_the_batch(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(InferenceCopy, "forward", starve)
    spec = short_spec("natural")
    with raises_line(MemoryLimit, spec.run_id, "16 validation images", "--arch"):
        trainer_of(spec, dataset, tmp_path).run(Reporter(quiet=True))


def test_a_saved_state_outlives_a_lack_of_memory(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = short_spec("natural")
    whole = trainer_of(spec, dataset, tmp_path / "whole").run(Reporter(quiet=True))
    trainer = trainer_of(spec, dataset, tmp_path / "cut")
    forward = Arch.__call__

    def starve(self: Arch, *args: Any) -> Any:
        if trainer.state.batch_number == 7 and len(args[0]) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Arch, "__call__", starve)
        with pytest.raises(MemoryLimit):
            trainer.run(Reporter(quiet=True))
    assert has_state(tmp_path / "cut" / spec.run_id)
    again = trainer_of(spec, dataset, tmp_path / "cut").run(Reporter(quiet=True))
    assert again["checkpoints"] == whole["checkpoints"]
