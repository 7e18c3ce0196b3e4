"""Estimate the time of trainings and attacks.

`Estimator` measures a few steps before any work: mostly an upper bound. `Forecast` tells what is
left from the jobs that are done.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bench.archs import build, resolve
from bench.attacks import FastPGD, get_attack
from bench.attacks.maximise import attack_mode
from bench.attacks.networks import MIN_ROWS, BatchedModel
from bench.data import Dataset, Split
from bench.evaluation.store import Images
from bench.experiments.plan import Plan, RunPlan
from bench.listing import aligned
from bench.method import Method
from bench.progress import Reporter, duration
from bench.records.run_folder import RunFolder
from bench.records.spec import CHUNK, EvalSpec, MeasureSpec, ModelSpec, Recipe, TrainSpec
from bench.threat import REFERENCE_EPS, Threat
from bench.training.cost import passes
from bench.training.engine import Trainer, initial_model
from bench.training.validation import ATTACK

FIRST_TRY, SLOW_SECONDS = 4, 1.0
"""Images of the first measured step, and its time from which no larger one is measured."""
UNWRITTEN = Path("unwritten")
"""Folder of a run of which only steps are measured; only a whole training writes to it."""


@dataclass(frozen=True)
class SecondsPerImage:
    """Seconds per image on one device."""

    train_step: float
    gradient: float
    forward: float

    def training(self, spec: TrainSpec) -> float:
        """Return the seconds of a whole training with its validations."""
        epochs = spec.recipe.epochs
        gradients, forwards = get_attack(ATTACK).passes
        validation = gradients * self.gradient + (forwards + 1) * self.forward
        return epochs * (spec.n_train * self.train_step + spec.n_val * validation)

    def attack(self, spec: EvalSpec) -> float:
        """Return the seconds of an attack under which every image survives."""
        gradients, forwards = get_attack(spec.attack).passes
        return spec.n_examples * (gradients * self.gradient + (forwards + 2) * self.forward)


@dataclass
class Estimator:
    """Measures each method on each network once; after the deadline, scales existing results."""

    device: torch.device
    dataset: Dataset | None = None
    """Images to measure on; made ones if None, as many as a batch."""
    deadline: float = math.inf
    """On the clock of `time.monotonic`."""
    _measured: dict[tuple[object, ...], tuple[float, SecondsPerImage]] = field(default_factory=dict)
    """By network and method: the passes of a step, and its seconds."""

    def per_image(self, spec: TrainSpec, method: Method) -> SecondsPerImage | None:
        """Return the measured seconds, or those of another method scaled by the passes of a step.

        None if the deadline has passed and nothing was measured on this network.
        """
        network = (spec.arch, spec.image_size, spec.in_channels, spec.precision)
        key = (*network, spec.method)
        count = passes(method)
        n_passes = count.forward + count.backward
        if key not in self._measured and time.monotonic() < self.deadline:
            n = max(spec.recipe.batch_size, CHUNK)
            dataset = self.dataset or made_dataset(n, spec)
            self._measured[key] = n_passes, _measure(spec, method, dataset, self.device)
        if key in self._measured:
            return self._measured[key][1]
        for (*other, _), (measured, seconds) in self._measured.items():
            if tuple(other) == network:
                return replace(seconds, train_step=n_passes / measured * seconds.train_step)
        return None


GRADIENT = 3
"""A forward and a backward pass cost as much as so many forward passes."""
MEASURE = 1500
"""Forward passes per image of a check or measure of which none was made yet: about the mean of the
14 checks of results/digits, whose seconds are compared with those of the attacks there."""


@dataclass(frozen=True)
class NetworkCost:
    """What a forward pass of one image takes; nothing is computed to count it."""

    flops: int
    n_operations: int
    """Calls into torch; on a GPU each launches about one kernel."""
    n_parameters: int


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        return func(*args, **(kwargs or {}))


@cache
def network_cost(arch: str, image_size: int, in_channels: int = 3) -> NetworkCost:
    with torch.device("meta"):
        network = build(arch, image_size=image_size, in_channels=in_channels).eval()
        calls = _Calls()  # type: ignore[no-untyped-call]
        with torch.no_grad(), FlopCounterMode(display=False) as counter, calls:
            network(torch.empty(1, in_channels, image_size, image_size))
    n_parameters = sum(p.numel() for p in network.parameters())
    return NetworkCost(int(counter.get_total_flops()), calls.n, n_parameters)


def cost_of(spec: TrainSpec) -> NetworkCost:
    return network_cost(spec.arch, spec.image_size, spec.in_channels)


def training_effort(spec: TrainSpec) -> float:
    """Return about how much a training takes, in units of `attack_effort`."""
    steps = spec.params.get("steps", 0)
    passes = GRADIENT * (1 + (steps if isinstance(steps, int) else 0))
    return spec.recipe.epochs * spec.n_train * passes * cost_of(spec).flops


def attack_effort(spec: TrainSpec | ModelSpec, made: EvalSpec | MeasureSpec, n: int) -> float:
    """Return about how much an attack or measure on n images takes, to compare and to scale."""
    size = cost_of(spec).flops if isinstance(spec, TrainSpec) else 1
    if isinstance(made, MeasureSpec):
        return n * MEASURE * size
    gradients, forwards = get_attack(made.attack).passes
    return n * (GRADIENT * gradients + forwards + 1) * size


class Forecast:
    """Seconds of jobs that are not done, from the seconds of those that are."""

    def __init__(self) -> None:
        self._done: dict[tuple[str, ...], tuple[float, float]] = {}
        """Effort and seconds; by kind of job, and by the beginnings of its name."""

    def add(self, kind: tuple[str, ...], effort: float, seconds: float) -> None:
        """kind: from the general to the special, such as (arch, attack, name)."""
        for n in range(len(kind) + 1):
            before = self._done.get(kind[:n], (0.0, 0.0))
            self._done[kind[:n]] = before[0] + effort, before[1] + seconds

    def level(self, kind: tuple[str, ...]) -> int:
        """Return how many parts of its kind such a job shares with one that is done, or -1."""
        return max((n for n in range(len(kind) + 1) if kind[:n] in self._done), default=-1)

    def seconds(self, kind: tuple[str, ...], effort: float) -> float | None:
        """Return the seconds of such a job, from the most similar ones; None before the first."""
        if (level := self.level(kind)) < 0:
            return None
        done, seconds = self._done[kind[:level]]
        return effort * seconds / done


def describe_plan(plan: Plan, results: Path, device: torch.device, reporter: Reporter) -> str:
    """Return the page of `bench run --dry-run`: each run, its finished work and the time left.

    Measures each kind of unfinished run once; writes nothing.
    """
    rows = [("run", "training", "evaluations and checks", "time, about")]
    estimator = Estimator(device, plan.dataset)
    total = 0.0
    with reporter.task("measuring", len(plan.runs)) as task:
        for run in plan.runs:
            row, seconds = _row(run, results, estimator)
            rows.append(row)
            total += seconds
            task.advance()
    return (
        f"{plan.title}\n{aligned(rows)}\n"
        f"In all about {duration(total)} on {device}; attacks are counted as if every "
        "image survived; masking checks and other measures come on top."
    )


def made_spec(
    method: str, arch: str, n: int, *, image_size: int = 32, precision: str = "fp32"
) -> TrainSpec:
    """Return the spec of a training on n made colour images of ten classes."""
    return TrainSpec(
        method=method,
        params={},
        arch=resolve(arch),
        num_classes=10,
        in_channels=3,
        image_size=image_size,
        dataset="made",
        data_sha256="",
        n_train=n,
        n_val=1,
        eps=REFERENCE_EPS,
        seed=0,
        precision=precision,
        recipe=Recipe(epochs=100, batch_size=n, lr=0.01, pad=0, flip=False),
        recipe_name="made",
    )


def made_dataset(n: int, spec: TrainSpec) -> Dataset:
    """Return n random images and labels that fit `spec`, the same every time."""
    shape = (n, spec.image_size, spec.image_size, spec.in_channels)
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    split = Split(x, np.arange(n, dtype=np.int64) % spec.num_classes)
    return Dataset(
        name="made",
        num_classes=spec.num_classes,
        train=split,
        val=split.take(np.arange(1)),
        test=split,
        scale=1 / 255,
        pad=0,
        flip=False,
    )


def _row(
    run: RunPlan, results: Path, estimator: Estimator
) -> tuple[tuple[str, str, str, str], float]:
    folder, spec = RunFolder(results, run.run_id), run.train_spec
    status = run.status(folder)
    n_all, n_missing = len(run.evaluations) + len(run.measures), status.n_missing
    evaluations = f"{n_all - n_missing} of {n_all} done"
    if status.failed:
        return (folder.run_id, "failed before", evaluations, "-"), 0.0
    training = "done" if status.trained else f"{spec.recipe.epochs} epochs"
    if status.finished:
        return (folder.run_id, training, evaluations, "-"), 0.0
    assert run.method is not None
    seconds = estimator.per_image(spec, run.method)
    assert seconds is not None
    train = 0.0 if status.trained else seconds.training(spec)
    attack = sum(seconds.attack(missing) for missing, _ in status.missing)
    shown = f"{duration(train)} training, {duration(attack)} attacks"
    return (folder.run_id, training, evaluations, shown), train + attack


def _measure(
    spec: TrainSpec, method: Method, dataset: Dataset, device: torch.device
) -> SecondsPerImage:
    trainer = Trainer(spec, method, dataset, RunFolder(UNWRITTEN, spec.run_id), device)
    n = min(FIRST_TRY, len(trainer.data))
    seconds = trainer.time_batch(n)
    if seconds < SLOW_SECONDS:  # the first step also warms up
        n = min(spec.recipe.batch_size, len(trainer.data))
        seconds = min(trainer.time_batch(n) for _ in range(3))
    gradient, forward = _attack_seconds(initial_model(spec).to(device).eval(), dataset, device)
    return SecondsPerImage(seconds / n, gradient, forward)


def _attack_seconds(
    network: nn.Module, dataset: Dataset, device: torch.device
) -> tuple[float, float]:
    """Seconds per image of a gradient and of a forward pass on the network itself.

    AutoAttack runs on it; other attacks run on a copy, which is faster.
    """
    gradient, forward = _on_rows(network, dataset, device, MIN_ROWS)
    if gradient * CHUNK < SLOW_SECONDS and len(dataset.test) > MIN_ROWS:
        return _on_rows(network, dataset, device, CHUNK)  # as an evaluation has them
    return gradient, forward


def _on_rows(
    network: nn.Module, dataset: Dataset, device: torch.device, most: int
) -> tuple[float, float]:
    n = min(most, len(dataset.test))
    x, y = Images(dataset, device).chunk(range(n))
    blocked, steps, rows = BatchedModel(network, most), 2, max(n, MIN_ROWS)
    attack = FastPGD(steps=steps, relative_step=0.2, search="network")

    def seconds(work: Callable[[], torch.Tensor]) -> float:
        found = []
        for _ in range(2):
            since = time.perf_counter()
            float(work().sum())  # waits for the device
            found.append(time.perf_counter() - since)
        return min(found) / rows

    gradient = seconds(lambda: attack(blocked, x, y, Threat())) / steps
    with attack_mode(blocked, "eval"), torch.no_grad():
        return gradient, seconds(lambda: blocked(x))
