"""What is pinned of a method and of an attack: short runs, and how two of them differ.

A method: the losses of a short training by the engine, in float64. The training is small and still
reaches what differs between methods: three classes of digits are learnt in a few steps, so that
thresholds on losses are passed; ten epochs of two batches let radii reach their cap, warm-ups end
and the rate drop. An attack takes the sign of a gradient, 200,000 of them in a training; processors
round them 1e-15 apart, so a flipped sign has odds of one to millions, since no gradient here is
zero by symmetry. Between flips the images do not depend on the weights: rounding is not amplified.

An attack: the surviving images and the margins on a network that is kept as a file. Our attacks run
in float64, where every processor finds the same images. AutoAttack computes in float32 and breaks
near-ties differently on different processors, so a few images may differ. The same holds for
attacks on a bf16 copy, which only a float32 network has.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from bench.attacks import attack_params, get_attack
from bench.data import Dataset, load_dataset
from bench.data.dataset import StoredSplit
from bench.data.loader import Loader, loader
from bench.evaluation import attack_chunk
from bench.folder import RunFolder
from bench.losses import margin
from bench.method import Batch, Method, TrainState
from bench.plan import make_plan
from bench.progress import Reporter
from bench.spec import TrainSpec
from bench.storage import sha256_file
from bench.study import Study
from bench.training.engine import Trainer
from bench.verify.networks import THREAT, load_network, network_file, one_thread, traced_arch

FLOAT64 = {"rel_tol": 1e-9, "abs_tol": 1e-12}
"""Processors round sums in another order: at most 1e-13 apart after 20 steps, as measured. The
absolute tolerance is for numbers near 0, such as the margin of an image on the boundary."""
FLOAT32 = {"rel_tol": 1e-3, "abs_tol": 1e-5}
"""Two processors of one name are 1e-5 apart, as measured."""
MOST_NAMED = 3
"""Settings that a line names."""
N_IMAGES = 32
N_COSTLY, COSTLY = 16, 2000
"""Images for an attack of more passes than COSTLY, such as AutoAttack."""
ELSEWHERE = 2
"""Images that may differ under AutoAttack with other software or on another processor."""
CLASSES = (0, 1, 4)
N_TRAIN = 30
"""Batches of 16 and 14 in an epoch."""
N_VAL = 3
STUDY = Study(
    suite="verify",
    title="A short training of each method",
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
class Baseline(ABC):
    """The outcome of a short run; the fields are what a pin holds."""

    kind: ClassVar[str]
    """method or attack."""
    asked: Mapping[str, Any]
    """Every setting of the run, as plain JSON values."""

    @property
    @abstractmethod
    def numbers(self) -> Sequence[float]:
        """All that is compared as a number."""

    @abstractmethod
    def moved(self, was: Self, *, elsewhere: bool) -> str:
        """Return what is not as it was; empty if all is.

        elsewhere: whether `was` was found with other software or on another processor.
        """

    def _said(self, was: Self, numbers: Sequence[str], causes: tuple[str, str]) -> str:
        settings = settings_moved(self.asked, was.asked)
        if not settings and not numbers:
            return ""
        return f"{'; '.join([*settings, *numbers])}: {causes[not settings]} changed"


@dataclass(frozen=True, kw_only=True)
class TrainingBaseline(Baseline):
    """What is pinned of a method."""

    kind = "method"
    losses: Sequence[float]
    """Of every step."""
    weights: float
    """Euclidean length of the weights that would be evaluated."""

    @property
    def numbers(self) -> Sequence[float]:
        return (*self.losses, self.weights)

    def moved(self, was: Self, *, elsewhere: bool) -> str:
        """Return what is not as it was; equal on every machine."""
        numbers = first_moved("loss at step", self.losses, was.losses, FLOAT64) or first_moved(
            "length of the final weights", (self.weights,), (was.weights,), FLOAT64
        )
        causes = "its defaults or its recipe", "its loss, attack, state or seeds"
        return self._said(was, numbers, causes)


@dataclass(frozen=True, kw_only=True)
class AttackBaseline(Baseline):
    """What is pinned of an attack."""

    kind = "attack"
    survivors: str
    """A digit per image: 1 where the network is right without and under the attack."""
    margins: Sequence[float]
    """Of the attacked images, max_{j != y} Z_j - Z_y: what the attack reached on each."""

    @property
    def numbers(self) -> Sequence[float]:
        return self.margins

    def moved(self, was: Self, *, elsewhere: bool) -> str:
        """Return what is not as it was; in float32 and elsewhere, ELSEWHERE images may differ."""
        single = self.asked["precision"] == "fp32"
        rounded = elsewhere and single
        pairs = zip(self.survivors, was.survivors, strict=False)
        changed = [str(image) for image, (new, old) in enumerate(pairs) if new != old]
        numbers: Sequence[str] = []
        if len(changed) > (ELSEWHERE if rounded else 0):
            now, before = self.survivors.count("1"), was.survivors.count("1")
            numbers = [
                f"{now} of {len(self.survivors)} images survive and {before} did "
                f"(other: {', '.join(changed)})"
            ]
        elif not rounded:
            tolerance = FLOAT32 if single else FLOAT64
            numbers = first_moved("margin of image", self.margins, was.margins, tolerance)
        causes = "its definition", "its steps, loss, seeds or the evaluator"
        return self._said(was, numbers, causes)


def settings_moved(now: Mapping[str, Any], was: Mapping[str, Any]) -> list[str]:
    """Return the settings that changed: `beta is 5.0 and was 6.0`, each by its own name."""
    new, old = dict(_flat(now)), dict(_flat(was))
    moved = [
        f"{key} is {new.get(key, 'gone')} and was {old.get(key, 'not there')}"
        for key in {**new, **old}
        if key not in new or key not in old or new[key] != old[key]
    ]
    more = len(moved) - MOST_NAMED
    return moved[:MOST_NAMED] + ([f"{more} more settings"] if more > 0 else [])


def first_moved(
    what: str, now: Sequence[float], was: Sequence[float], tolerance: Mapping[str, float]
) -> list[str]:
    """Return the first of the numbers that is not what it was; nothing where all are."""
    if len(now) != len(was):
        return [f"there are {len(now)} of {what} and were {len(was)}"]
    return [
        f"{what} {place} is {new:.12g} and was {old:.12g}"
        for place, (new, old) in enumerate(zip(now, was, strict=True))
        if not math.isclose(new, old, **tolerance)
    ][:1]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as one level: `recipe.lr`, `parts.0.part`."""
    if isinstance(value, Mapping | list):
        for key, below in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flat(below, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def run_attack(name: str, folder: Path) -> AttackBaseline:
    """Run the attack `name`, as an evaluation does, on the networks in `folder`."""
    attack = get_attack(name)
    n = N_COSTLY if sum(attack.passes) > COSTLY else N_IMAGES
    single = attack.is_autoattack or attack.search == "bf16"
    dtype = torch.float32 if single else torch.float64
    with one_thread(dtype):
        digits = load_dataset("digits", test_size=n)
        split, index = loader(digits.test, digits.scale, "cpu"), torch.arange(n)
        x, y = split.images(index).to(dtype), split.labels(index)
        model = load_network(folder, "model").to(dtype)
        other = load_network(folder, "surrogate").to(dtype)
        source = [other] if attack.sources else []
        found = attack_chunk(model, x, y, index, THREAT, name, surrogate=source, keep_images=True)
        assert found.x_adv is not None
        with torch.no_grad():
            margins = margin(model(found.x_adv), y)
    asked = {
        **attack_params(name),
        "images": n,
        "precision": "fp32" if single else "fp64",
        "network_sha256": sha256_file(network_file(folder, "model"))[:10],
    }
    return AttackBaseline(
        asked=json.loads(json.dumps(asked)),
        survivors="".join(str(int(survived)) for survived in found.survived),
        margins=margins.tolist(),
    )


def run_method(name: str) -> TrainingBaseline:
    """Train the method `name` and note its losses.

    Raises NonFiniteLoss, and ConfigError for what the method cannot take.
    """
    with one_thread(torch.float64), traced_arch() as arch, TemporaryDirectory() as folder:
        plan = make_plan(replace(STUDY, arch=arch, methods=(name,)))
        spec, method = plan.cells[0].spec, plan.cells[0].method
        assert method is not None
        losses, weights = _train(spec, method, plan.dataset, Path(folder))
    asked = {**spec.params, "recipe": spec.recipe.identity(), "eps": spec.eps}
    return TrainingBaseline(asked=json.loads(json.dumps(asked)), losses=losses, weights=weights)


def _train(
    spec: TrainSpec, method: Method, dataset: Dataset, folder: Path
) -> tuple[list[float], float]:
    """The losses, and the length of the final weights."""
    few = replace(dataset, train=_first(dataset.train, N_TRAIN), val=_first(dataset.val, N_VAL))
    losses: list[float] = []
    step = method.train_step

    def noted(state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        return metrics

    object.__setattr__(method, "train_step", noted)  # methods are frozen
    trainer = Trainer(spec, method, few, RunFolder(folder, spec.run_id), torch.device("cpu"))
    trainer.data, trainer.val = _Doubled(trainer.data), _Doubled(trainer.val)
    trainer.run(Reporter(quiet=True))
    values = method.eval_model(trainer.state).state_dict().values()
    squares = [float(v.square().sum()) for v in values if v.is_floating_point()]
    return losses, sum(squares) ** 0.5


def _first(split: StoredSplit, n: int) -> StoredSplit:
    """The first n images of the three classes."""
    return split.take(np.flatnonzero(np.isin(split.y, CLASSES))[:n])


class _Doubled:
    """A loader whose images are float64: sixteenths, so nothing is rounded."""

    def __init__(self, inner: Loader) -> None:
        self.inner = inner
        self.y, self.labels, self.expect = inner.y, inner.labels, inner.expect

    def __len__(self) -> int:
        return len(self.inner)

    def images(self, index: Tensor) -> Tensor:
        return self.inner.images(index).double()

    def views(self, index: Tensor, run_seed: int, batch_number: int) -> Tensor:
        return self.inner.views(index, run_seed, batch_number).double()
