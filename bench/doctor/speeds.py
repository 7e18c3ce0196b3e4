"""Training images a second that this machine can reach, for each network."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from bench.archs import build, list_archs
from bench.data.folder import IMAGE_SIZE
from bench.doctor.floors import Floors, layers_of_arch
from bench.listing import aligned
from bench.machine import has_fast_bf16
from bench.progress import Reporter
from bench.registry import get_method
from bench.report.published import REFERENCE
from bench.speed.layers import Layer
from bench.speed.made import made_step
from bench.speed.peak import seconds_of
from bench.training.passes import Passes, passes

SIDES = {"resnet-50": IMAGE_SIZE}
"""Pixels a side of the images that a network is for; SIDE of the others."""
SIDE = 32
CHANNELS = 3
MEASURED = ("cnn", "resnet-18")
"""Networks of which a whole step is timed as well."""
STEP_FLOPS = {"cpu": 1e11, "cuda": 1e14}
"""Of that step, by kind of device: it is on so many images."""
LINE = 96
"""Letters of a line of text."""
N_STEPS = 2
"""After one that warms up."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Training images a second of one network; None where the time was up."""

    arch: str
    image_size: int
    at_most: dict[str, float | None]
    """Precision -> convolutions alone, at their fastest."""
    measured: float | None = None
    """A step in fp32 as it is."""
    n_images: int | None = None
    """Of that step."""

    @property
    def share(self) -> float | None:
        """What the measured step reaches of the most."""
        most = self.at_most.get("fp32")
        return self.measured / most if self.measured and most else None


def speeds(floors: Floors, reporter: Reporter) -> list[Speed]:
    """Of every network that has convolutions, the cheapest first; MEASURED take the first turns."""
    archs = sorted((a for a in list_archs() if _convolves(a)), key=_flops)
    in_turn = sorted(archs, key=lambda arch: (arch not in MEASURED, arch in SIDES))
    precisions = ("fp32", *(["bf16"] if has_fast_bf16(floors.device) else []))
    at_most: dict[str, dict[str, float | None]] = {arch: {} for arch in archs}
    now: dict[str, tuple[int, float]] = {}
    with reporter.task("measuring this machine", len(archs) * len(precisions)) as task:
        for precision in precisions:
            for arch in in_turn:
                task.advance(0, detail=arch)
                floor = floors.of(arch, _side(arch), CHANNELS, precision)
                at_most[arch][precision] = 1 / floor.step(counted()) if floor else None
                if arch in MEASURED and precision == "fp32" and not floors.time_is_up:
                    now[arch] = _step(arch, floors.device)
                task.advance()
    return [
        Speed(
            arch=arch,
            image_size=_side(arch),
            at_most=at_most[arch],
            n_images=now[arch][0] if arch in now else None,
            measured=now[arch][1] if arch in now else None,
        )
        for arch in archs
    ]


@cache
def counted() -> Passes:
    """Of a step of the method that costs are relative to."""
    return passes(get_method(REFERENCE))


def table(found: Sequence[Speed]) -> str:
    """A line for each network, then what the columns are."""
    precisions = list(found[0].at_most)
    rows = [("network", "images", *(f"{p}, at most" for p in precisions), "a step in fp32, now")]
    for speed in found:
        most = (_rate(speed.at_most[precision]) for precision in precisions)
        rows.append((speed.arch, f"{speed.image_size}x{speed.image_size}", *most, _now(speed)))
    method = get_method(REFERENCE)
    count = counted()
    legend = (
        f"Training images a second of {method.title}, whose step has {count.forward:g} forward and "
        f"{count.backward:g} backward passes an image. At most: a share of 100%, its convolutions "
        "alone at the fastest that was measured here; in brackets the share that a whole step "
        "reaches. -: there was no time to measure it (--seconds)."
    )
    return f"{aligned(rows)}\n{textwrap.fill(legend, LINE)}"


def largest_share(found: Sequence[Speed]) -> tuple[str, float] | None:
    """The largest network of which a step was measured, and its share."""
    shares = [(speed.arch, speed.share) for speed in found if speed.share]
    return shares[-1] if shares else None


def _step(arch: str, device: torch.device) -> tuple[int, float]:
    """Images of a step in fp32, a power of two up to 128, and how many a second."""
    most = STEP_FLOPS.get(device.type, STEP_FLOPS["cpu"])
    an_image = _flops(arch) * (counted().forward + counted().backward)
    n = int(2 ** max(0, min(7, math.floor(math.log2(most / an_image)))))
    network = build(arch, image_size=_side(arch), in_channels=CHANNELS)
    step = made_step(network, get_method(REFERENCE), n, _side(arch), device)
    step()  # warms up
    return n, n / min(seconds_of(step, 1, device) for _ in range(N_STEPS))


def _flops(arch: str) -> int:
    return sum(layer.flops for layer in _layers(arch))


def _convolves(arch: str) -> bool:
    return any(not layer.is_linear for layer in _layers(arch))


def _layers(arch: str) -> list[Layer]:
    return layers_of_arch(arch, _side(arch), CHANNELS)


def _side(arch: str) -> int:
    return SIDES.get(arch, SIDE)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _now(speed: Speed) -> str:
    if speed.measured is None:
        return "-"
    share = f" ({speed.share:.0%})" if speed.share else ""
    return f"{_rate(speed.measured)}{share}, batch {speed.n_images}"
