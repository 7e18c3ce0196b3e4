"""Where the time of a training step goes, by kind of operation: ours and the plain loop's.

torch's profiler says how long each operation ran itself, without those that it called; on CUDA, how
long its kernels did. What is left of the step is Python between operations and, on CUDA, a device
that waits for the next.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from statistics import median
from typing import IO, Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from bench.errors import BenchError
from bench.machine import describe_machine
from bench.progress import Reporter, Task
from bench.speed.reference import loop_for
from bench.speed.rounds import timed
from bench.speed.setting import Setting
from bench.speed.steps import PLAIN_LOOP, step_of


class Kind(StrEnum):
    """Of operations, each with its gradient, in the order in which they are shown."""

    FORWARD = "convolutions, forward"
    BACKWARD = "convolutions, backward"
    NORMALISATION = "BatchNorm"
    RELU = "ReLU"
    POOLING = "pooling"
    LINEAR = "linear layers"
    OPTIMISER = "optimiser"
    COPIES = "copies and casts"
    OTHER = "other operations"
    BETWEEN = "between"
    """None runs."""


OURS = "ours"
SURPLUS = 0.05
"""Of a step's time, by which its operations may exceed it: more is counted twice."""

_MULTIPLIES = {"aten::addmm", "aten::mm", "aten::bmm", "aten::linear", "aten::matmul"}
_RECTIFIES = {"aten::relu", "aten::relu_", "aten::threshold_backward"}
_MOVES = {"aten::copy_", "aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous"}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One side's step."""

    method: str
    arch: str
    side: str
    """`ours` or `plain loop`."""
    precision: str
    n_images: int
    image_size: int
    """Pixels a side."""
    n_rounds: int
    seconds: float
    """Of a step without the profiler: the median over rounds."""
    parts: Mapping[str, float]
    """Kind -> seconds, of the round whose step under the profiler was the median one. That has a
    cost of its own."""
    note: str | None = None
    """Why it stands alone, if it does."""

    @property
    def profiled(self) -> float:
        """Seconds of that step under the profiler."""
        return sum(self.parts.values())

    def share(self, kind: str) -> float:
        """Of that step."""
        return self.parts[kind] / self.profiled


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """Several of them on one machine."""

    machine: Mapping[str, Any]
    command: str
    steps: tuple[Profile, ...]

    def to_json(self) -> str:
        """`from_json` is the inverse."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Profiles:
        """What `to_json` wrote."""
        values = json.loads(text)
        steps = tuple(Profile(**step) for step in values.pop("steps"))
        return cls(**values, steps=steps)


def measure_profiles(
    methods: Sequence[str], settings: Sequence[Setting], reporter: Reporter, command: str
) -> Profiles:
    """Of each method and network: the plain loop, where there is one, and ours in each setting."""
    archs = dict.fromkeys(setting.arch for setting in settings)
    panels = [
        (method, [setting for setting in settings if setting.arch == arch])
        for method in methods
        for arch in archs
    ]
    found: list[Profile] = []
    n_sides = sum(len(_sides(method, chosen)) for method, chosen in panels)
    with reporter.task("profiling", n_sides * (1 + settings[0].n_rounds)) as task:
        for method, chosen in panels:
            found += _panel(method, chosen, task)
    machine = describe_machine(settings[0].device)
    return Profiles(machine=machine, command=command, steps=tuple(found))


def _sides(method: str, settings: Sequence[Setting]) -> list[tuple[str, Setting]]:
    plain = replace(settings[0], precision="fp32")
    beside = [(PLAIN_LOOP, plain)] if loop_for(method)[0] is not None else []
    return [*beside, *((OURS, setting) for setting in settings)]


def _panel(method: str, settings: Sequence[Setting], task: Task) -> list[Profile]:
    """The sides of one method and network, in turns, after a round that warms up."""
    sides = _sides(method, settings)
    steps = [step_of(method, setting, plain=side == PLAIN_LOOP) for side, setting in sides]
    alone: list[list[float]] = [[] for _ in sides]
    parts: list[list[dict[str, float]]] = [[] for _ in sides]
    for number in range(1 + settings[0].n_rounds):
        for place, (side, setting) in enumerate(sides):
            task.advance(0, f"{method} {setting.arch} {side} {setting.precision}")
            seconds = timed(steps[place], setting.device)
            if number > 0:
                alone[place].append(seconds)
                parts[place].append(profiled(steps[place], setting.device))
            task.advance()
    return [
        Profile(
            method=method,
            arch=setting.arch,
            side=side,
            precision=setting.precision,
            n_images=setting.sizes.batch_size,
            image_size=setting.image_size,
            n_rounds=setting.n_rounds,
            seconds=median(alone[place]),
            parts=_median_one(parts[place]),
            note=loop_for(method)[1] or None,
        )
        for place, (side, setting) in enumerate(sides)
    ]


def _median_one(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """By their totals, of an even number the lower: its parts belong together."""
    return sorted(rounds, key=lambda parts: sum(parts.values()))[(len(rounds) - 1) // 2]


def profiled(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds by kind of one step under the profiler; together they are its time.

    Raises BenchError where the profiler saw nothing of a GPU, or more than the step's time.
    """
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    profiler = profile(activities=activities)
    with tempfile.TemporaryFile("w+", errors="replace") as notices:
        with _stderr_into(notices):
            profiler.start()
        try:
            seconds = timed(step, device)
        finally:
            with _stderr_into(notices):
                profiler.stop()
        notices.seek(0)
        said = " ".join(notices.read().split()) or "nothing"
    events: Sequence[FunctionEvent] = profiler.events() or ()  # type: ignore[no-untyped-call]
    parts = by_kind(events, on_cuda=on_cuda)
    total = sum(parts.values())
    if on_cuda and total == 0:
        raise BenchError(
            f"the profiler saw no kernel of {device}: end other profilers, and allow users the "
            f"GPU's performance counters. Its library said: {said}"
        )
    if total > (1 + SURPLUS) * seconds:
        raise BenchError(
            f"the profiler counted {total:.3g} s of operations in a step of {seconds:.3g} s, so "
            "some of them twice: there is no profile with this build of torch"
        )
    parts[Kind.BETWEEN] = max(0.0, seconds - total)
    return parts


def by_kind(events: Sequence[FunctionEvent], *, on_cuda: bool) -> dict[str, float]:
    """Seconds of the operations themselves, or of their kernels on CUDA; nothing is between."""
    parts: dict[str, float] = {str(kind): 0.0 for kind in Kind}
    for event in events:
        if event.device_type.name == "CPU":  # a kernel's time is in its operation's too
            own = event.self_device_time_total if on_cuda else event.self_cpu_time_total
            parts[kind_of(event)] += own / 1e6
    return parts


def kind_of(event: FunctionEvent) -> str:
    """By the operation's own name, or that of the one that called it."""
    names = [event.name]
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    if any(name.startswith("Optimizer.") for name in names):
        return Kind.OPTIMISER
    for name in names:
        if "convolution" in name or name == "aten::conv2d":
            return Kind.BACKWARD if any("Backward" in n for n in names) else Kind.FORWARD
        if "batch_norm" in name:
            return Kind.NORMALISATION
        if name in _RECTIFIES:
            return Kind.RELU
        if "pool" in name:
            return Kind.POOLING
        if name in _MULTIPLIES:
            return Kind.LINEAR
    return Kind.COPIES if any(name in _MOVES for name in names) else Kind.OTHER


@contextmanager
def _stderr_into(file: IO[str]) -> Iterator[None]:
    """Of the whole process: the profiler's library writes there of its own start and end."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
