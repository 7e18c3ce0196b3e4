"""A method's trace: the losses of a short training by the engine itself, in float64.

The training is small and still goes where methods differ: three classes of digits are learnt in a
few steps, so that leads and losses pass the thresholds that methods set; ten epochs of two batches,
so that radii of images reach their cap, warm-ups end, and the rate drops.

An attack takes the sign of a gradient. Over all steps of a trace that is 200,000 signs, of numbers
that two processors round apart by 1e-15 of their size; one of the other sign has odds of one to
millions, since no gradient here is zero by symmetry. Between flips the images do not depend on the
weights, so that rounding is not amplified.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from bench.data import Dataset
from bench.data.dataset import StoredSplit
from bench.data.loader import Loader
from bench.folder import RunFolder
from bench.method import Batch, Method, TrainState
from bench.plan import make_plan
from bench.progress import Reporter
from bench.spec import TrainSpec
from bench.study import Study
from bench.threat import Threat
from bench.training.engine import Trainer
from bench.verify.arithmetic import arithmetic
from bench.verify.fact import Fact, first_moved, settings_moved
from bench.verify.network import traced_arch

CLASSES = (0, 1, 4)
N_TRAIN = 30
"""A batch of 16 and one of 14 an epoch."""
N_VAL = 3
STUDY = Study(
    suite="verify",
    title="A trace of each method",
    methods=(),
    arch="",
    dataset="digits",
    eps=0.1,
    seeds=(0,),
    recipe="common",
    attacks=(),
    training={"epochs": 10, "batch_size": 16, "pad": 1, "flip": True},
)
"""The common recipe, but short, and with the augmentation that digits do without."""


@dataclass(frozen=True, kw_only=True)
class MethodTrace(Fact):
    """What is pinned of a method."""

    kind = "method"
    losses: Sequence[float]
    """Of every step."""
    weights: float
    """Euclidean length of the weights that would be evaluated."""

    @property
    def numbers(self) -> Sequence[float]:
        """The losses and the weights."""
        return (*self.losses, self.weights)

    def moved(self, was: Self, *, elsewhere: bool) -> str:
        """What is not as it was; equal on every machine."""
        settings = settings_moved(self.asked, was.asked)
        numbers = first_moved("loss at step", self.losses, was.losses) or first_moved(
            "length of the final weights", (self.weights,), (was.weights,)
        )
        if not settings and not numbers:
            return ""
        cause = "its defaults or its recipe" if settings else "its loss, attack, state or seeds"
        return f"{'; '.join([*settings, *numbers])}: {cause} changed"


def trace(name: str, **params: object) -> MethodTrace:
    """Train the method `name`, with `params` in place of its own, and note what it does.

    Raises NonFiniteLoss, and ConfigError for what it cannot take.
    """
    text = {name: {key: str(value) for key, value in params.items()}}
    with arithmetic(torch.float64), traced_arch() as arch, TemporaryDirectory() as folder:
        plan = make_plan(replace(STUDY, arch=arch, methods=(name,), params=text if params else {}))
        spec, method = plan.cells[0].spec, plan.cells[0].method
        assert method is not None
        losses, weights = _train(spec, method, _few(plan.dataset), Path(folder))
    asked = {**spec.params, "recipe": spec.recipe.identity(), "eps": spec.eps}
    return MethodTrace(asked=json.loads(json.dumps(asked)), losses=losses, weights=weights)


def _train(
    spec: TrainSpec, method: Method, dataset: Dataset, folder: Path
) -> tuple[list[float], float]:
    """The losses, and the length of the final weights."""
    noted = _Noted(method)
    trainer = Trainer(spec, noted, dataset, RunFolder(folder, spec.run_id), torch.device("cpu"))
    trainer.data, trainer.val = _Doubled(trainer.data), _Doubled(trainer.val)
    trainer.run(Reporter(quiet=True))
    values = method.eval_model(trainer.state).state_dict().values()
    squares = [float(v.square().sum()) for v in values if v.is_floating_point()]
    return noted.losses, sum(squares) ** 0.5


def _few(dataset: Dataset) -> Dataset:
    """The first images of the three classes."""
    return replace(dataset, train=_first(dataset.train, N_TRAIN), val=_first(dataset.val, N_VAL))


def _first(split: StoredSplit, n: int) -> StoredSplit:
    return split.take(np.flatnonzero(np.isin(split.y, CLASSES))[:n])


class _Noted(Method):
    """Another method, whose losses are noted."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.losses: list[float] = []

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        metrics = self.method.train_step(state, batch)
        self.losses.append(float(metrics["loss"]))
        return metrics

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        return self.method.example_state(n, threat)

    def end_epoch(self, state: TrainState) -> None:
        self.method.end_epoch(state)

    def eval_model(self, state: TrainState) -> nn.Module:
        return self.method.eval_model(state)

    def validate(self, threat: Threat, num_classes: int) -> None:
        self.method.validate(threat, num_classes)


class _Doubled:
    """Another loader, whose images are float64: sixteenths, so nothing is rounded."""

    def __init__(self, inner: Loader) -> None:
        self.inner = inner
        self.y = inner.y

    def __len__(self) -> int:
        return len(self.inner)

    def images(self, index: Tensor) -> Tensor:
        return self.inner.images(index).double()

    def labels(self, index: Tensor) -> Tensor:
        return self.inner.labels(index)

    def views(self, index: Tensor, run_seed: int, batch_number: int) -> Tensor:
        return self.inner.views(index, run_seed, batch_number).double()

    def expect(self, parts: Sequence[Tensor], batch_number: int) -> None:
        self.inner.expect(parts, batch_number)
