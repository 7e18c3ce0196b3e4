"""How the time of a training step grows: with batch, network, attack steps and image side.

The time of the calls alone is that of the same step on two images of one pixel: the same layers
in the same order with next to nothing to compute. (On one, BatchNorm has no variance.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch

from bench.archs import build
from bench.archs.arch import Arch, ArchSpec
from bench.archs.wrn import WideResNet
from bench.machine import describe_machine
from bench.progress import Reporter
from bench.registry import get_method
from bench.report.published import REFERENCE
from bench.speed.layers import layers_of
from bench.speed.made import made_step
from bench.speed.peak import seconds_of
from bench.training.passes import passes

N_ROUNDS = 3
"""Over all points of an axis in turn, after one that warms up."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What one step is made on."""

    arch: str = "cnn"
    """A registered network, or WRN-DEPTH-WIDEN of any depth and width."""
    n_images: int = 16
    image_size: int = 32
    """Pixels a side."""
    steps: int = 10
    """Of the attack."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One quantity that varies while the others stay."""

    name: str
    values: tuple[int, ...]
    made: tuple[Made, ...]
    """What each value means."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured step."""

    value: int
    flops: int
    """Of its convolutions and linear layers, all passes together."""
    seconds: float
    """Median."""
    empty_seconds: float
    """Median of the same step on next to nothing."""

    @property
    def rate(self) -> float:
        """FLOP a second."""
        return self.flops / self.seconds

    @property
    def calls_share(self) -> float:
        """Of the time, what the calls alone take."""
        return self.empty_seconds / self.seconds


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One axis, measured."""

    name: str
    fixed: str
    """What stays the same."""
    points: tuple[Point, ...]

    def exponents(self) -> list[float]:
        """Between neighbours, of the time against the FLOP: 1 is linear, 0 is for nothing."""
        return [
            math.log(b.seconds / a.seconds) / math.log(b.flops / a.flops)
            for a, b in zip(self.points, self.points[1:], strict=False)
        ]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """All axes on one machine."""

    machine: Mapping[str, Any]
    method: str
    precision: str
    curves: tuple[Curve, ...]

    def to_json(self) -> str:
        """`from_json` is the inverse."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Scaling:
        """What `to_json` wrote."""
        values = json.loads(text)
        curves = tuple(
            Curve(**(curve | {"points": tuple(Point(**point) for point in curve["points"])}))
            for curve in values.pop("curves")
        )
        return cls(**values, curves=curves)


def axes(*, largest: bool = True) -> list[Axis]:
    """The five axes; without their two largest values where `largest` is not asked for."""
    base = Made()
    found = [
        _axis(
            "batch size (images)",
            (1, 2, 4, 8, 16, 32, 64, 128),
            lambda n: replace(base, n_images=n),
        ),
        _axis("attack steps", (1, 2, 5, 10, 20, 40), lambda n: replace(base, steps=n)),
        _axis("image side (pixels)", (4, 8, 16, 32, 64), lambda n: replace(base, image_size=n)),
        _axis(
            "depth of WRN-depth-1 (layers)",
            (10, 16, 28, 40),
            lambda n: replace(base, arch=f"wrn-{n}-1", n_images=8),
        ),
        _axis(
            "width of WRN-10-width",
            (1, 2, 4, 8),
            lambda n: replace(base, arch=f"wrn-10-{n}", n_images=4),
        ),
    ]
    if largest:
        return found
    return [replace(a, values=a.values[:-2], made=a.made[:-2]) for a in found]


def _axis(name: str, values: Sequence[int], made: Callable[[int], Made]) -> Axis:
    return Axis(name=name, values=tuple(values), made=tuple(made(value) for value in values))


def measure_scaling(
    device: torch.device,
    reporter: Reporter,
    *,
    precision: str = "fp32",
    chosen: Sequence[Axis] | None = None,
    n_rounds: int = N_ROUNDS,
) -> Scaling:
    """Minutes on two cores."""
    chosen = axes() if chosen is None else chosen
    with reporter.task("scaling", len(chosen)) as task:
        curves = []
        for axis in chosen:
            task.advance(0, axis.name)
            curves.append(_curve(axis, device, precision, n_rounds))
            task.advance()
    return Scaling(
        machine=describe_machine(device),
        method=get_method(REFERENCE).title,
        precision=precision,
        curves=tuple(curves),
    )


def _curve(axis: Axis, device: torch.device, precision: str, n_rounds: int) -> Curve:
    """The points take turns, so that a busy machine slows all of them."""
    full = [_step(made, device, precision) for made in axis.made]
    empty = [
        _step(replace(made, n_images=2, image_size=1), device, precision) for made in axis.made
    ]
    seconds: list[list[float]] = [[] for _ in (*full, *empty)]
    for number in range(1 + n_rounds):
        for place, step in enumerate((*full, *empty)):
            taken = seconds_of(step, 1, device)
            if number > 0:  # the first warms up
                seconds[place].append(taken)
    medians = [median(found) for found in seconds]
    points = zip(axis.values, axis.made, medians, medians[len(full) :], strict=False)
    return Curve(
        name=axis.name,
        fixed=_fixed(axis),
        points=tuple(
            Point(value=value, flops=_flops(made), seconds=whole, empty_seconds=least)
            for value, made, whole, least in points
        ),
    )


def _step(made: Made, device: torch.device, precision: str) -> Callable[[], float]:
    method = get_method(REFERENCE, steps=made.steps)
    return made_step(_network(made.arch), method, made.n_images, made.image_size, device, precision)


def _network(name: str) -> Arch:
    """Drawn from a seed of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if not name.startswith("wrn-"):
            return build(name)
        depth, widen = map(int, name.split("-")[1:])
        return WideResNet(ArchSpec(), depth=depth, widen=widen)


def _flops(made: Made) -> int:
    """Of a whole step; each pass of a layer multiplies as often as the others."""
    with torch.device("meta"):
        network = _network(made.arch)
        x = torch.empty(made.n_images, 3, made.image_size, made.image_size)
    count = passes(get_method(REFERENCE, steps=made.steps))
    once = sum(layer.flops for layer in layers_of(network, x))
    return round(once * (count.forward + count.backward + 1))  # 1: the weights of the update


def _fixed(axis: Axis) -> str:
    """What all points of an axis share, in words."""
    first, last = asdict(axis.made[0]), asdict(axis.made[-1])
    words = {
        "arch": "{}",
        "n_images": "batch {}",
        "image_size": "images of {0}x{0} pixels",
        "steps": "{} attack steps",
    }
    return ", ".join(words[k].format(v) for k, v in first.items() if last[k] == v)
