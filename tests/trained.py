"""Networks for digits that the real engine trains in seconds, each once in a test process."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bench.archs.state_dict import load_state
from bench.archs.weights import read_weights
from bench.data import Dataset
from bench.evaluation.store import Images
from bench.experiments.plan import make_plan
from bench.experiments.suite import load_suite
from bench.method import Method
from bench.progress import Reporter
from bench.records.run_folder import RunFolder
from bench.records.spec import TrainSpec
from bench.registry import get_method, method_class, parameters
from bench.threat import Threat
from bench.training.engine import Trainer, initial_model

N_TEST = 200
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network in eval mode and what it is tested on."""

    model: nn.Module
    x: Tensor
    """(N_TEST, 1, 8, 8), the first test images."""
    y: Tensor
    threat: Threat
    """That it was trained with."""


@cache
def trained(method: str, arch: str = "cnn", epochs: int = 10) -> Trained:
    """The digits suite's run of that method, on 500 images for a while, with short attacks."""
    short = {method: {"steps": "5"}} if "steps" in parameters(method_class(method)) else {}
    suite = replace(load_suite("digits").only(), methods=(method,), params=short, train_size=500)
    plan = make_plan(replace(suite, arch=arch))
    planned = next(planned for planned in plan.runs if planned.train_spec.method == method)
    spec = replace(
        planned.train_spec, recipe=replace(planned.train_spec.recipe, epochs=epochs, batch_size=30)
    )
    assert planned.method is not None
    with TemporaryDirectory() as results:
        trainer = trainer_of(spec, plan.dataset, Path(results), planned.method)
        trainer.run(Reporter(quiet=True))
        model = initial_model(spec)
        load_state(model, read_weights(trainer.folder.weights("last")))
    x, y = Images(plan.dataset, CPU).chunk(range(N_TEST))
    return Trained(model=model.eval(), x=x, y=y, threat=Threat(spec.norm, spec.eps))


def short_spec(
    name: str, *, epochs: int = 2, batch_size: int = 20, n_train: int = 100, **changes: Any
) -> TrainSpec:
    """The digits suite's training by that method, but short: of the first images alone."""
    whole = load_suite("digits").only()
    study = replace(whole, methods=(name,), train_size=n_train, test_size=n_train // 5)
    spec = make_plan(study).runs[-1].train_spec
    recipe = replace(spec.recipe, epochs=epochs, batch_size=batch_size)
    return replace(spec, recipe=recipe, **changes)


def trainer_of(
    spec: TrainSpec,
    dataset: Dataset,
    results: Path,
    method: Method | None = None,
    device: torch.device = CPU,
    **options: Any,
) -> Trainer:
    """By the method of the spec unless another is given."""
    method = method or get_method(spec.method, **spec.params)
    return Trainer(spec, method, dataset, RunFolder(results, spec.run_id), device, **options)


class Stopped(Exception):
    """In place of a kill."""


def stop_at(trainer: Trainer, batch_number: int) -> None:
    """Let the training die like a killed process when that batch begins."""
    step = trainer._batch

    def dying(index: Tensor, number: int, own: Tensor) -> None:
        if trainer.state.batch_number == batch_number:
            raise Stopped
        step(index, number, own)

    trainer._batch = dying  # type: ignore[method-assign, assignment]
