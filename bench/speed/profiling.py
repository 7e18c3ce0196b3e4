"""Where the time of a training step goes, by kind of operation: ours and the plain loop's.

torch's profiler says how long each operation ran itself, without those that it called; on CUDA, how
long its kernels did. What is left of the step is Python and, on CUDA, a device that waits for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from bench.machine import describe_machine
from bench.progress import Reporter, Task
from bench.speed.reference import loop_for
from bench.speed.rounds import timed
from bench.speed.setting import Setting
from bench.speed.steps import PLAIN_LOOP, step_of

FORWARD, BACKWARD = "convolutions, forward", "convolutions, backward"
NORMALISATION, RELU, POOLING, LINEAR = "BatchNorm", "ReLU", "pooling", "linear layers"
OPTIMISER, COPIES, OTHER, BETWEEN = "optimiser", "copies and casts", "other operations", "between"
KINDS = (
    *(FORWARD, BACKWARD, NORMALISATION, RELU, POOLING, LINEAR),
    *(OPTIMISER, COPIES, OTHER, BETWEEN),
)
"""Each with its gradient. A ReLU that is done with its convolution is counted there."""
OURS = "ours"

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
    n_rounds: int
    seconds: float
    """Of a step without the profiler: the median over rounds."""
    parts: Mapping[str, float]
    """Kind of operation -> seconds of a step under the profiler, which has a cost of its own:
    medians as well."""

    @property
    def profiled(self) -> float:
        """Seconds of a step under the profiler."""
        return sum(self.parts.values())

    def share(self, kind: str) -> float:
        """Of the profiled step."""
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
            parts={kind: median(found[kind] for found in parts[place]) for kind in KINDS},
        )
        for place, (side, setting) in enumerate(sides)
    ]


def profiled(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds by kind of one step under the profiler; together they are its time."""
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    profiler = profile(activities=activities)
    with _without_notices():
        profiler.start()
    seconds = timed(step, device)
    with _without_notices():
        profiler.stop()
    parts = dict.fromkeys(KINDS, 0.0)
    events: Sequence[FunctionEvent] = profiler.events() or ()  # type: ignore[no-untyped-call]
    for event in events:
        if event.device_type.name == "CPU":  # a kernel's time is in the operation's too
            own = event.self_device_time_total if on_cuda else event.self_cpu_time_total
            parts[kind_of(event)] += own / 1e6
    parts[BETWEEN] = max(0.0, seconds - sum(parts.values()))
    return parts


def kind_of(event: FunctionEvent) -> str:
    """By the operation's own name, or that of the one that called it."""
    names = [event.name]
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    if any(name.startswith("Optimizer.") for name in names):
        return OPTIMISER
    for name in names:
        if "convolution" in name or name == "aten::conv2d":
            return BACKWARD if any("Backward" in other for other in names) else FORWARD
        if "batch_norm" in name:
            return NORMALISATION
        if name in _RECTIFIES:
            return RELU
        if "pool" in name:
            return POOLING
        if name in _MULTIPLIES:
            return LINEAR
    return COPIES if any(name in _MOVES for name in names) else OTHER


@contextmanager
def _without_notices() -> Iterator[None]:
    """The profiler's library writes of its own start and end to the process' standard error."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
