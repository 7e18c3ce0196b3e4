"""Two ways to do the same work, timed in turn, so that a busy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Rounds:
    """Seconds of every round."""

    ours: tuple[float, ...]
    reference: tuple[float, ...]
    """Empty where there is none."""
    floors: tuple[float, ...] = ()
    """Least seconds that ours could take, measured at the end of each round; or none."""

    @property
    def seconds(self) -> float:
        """Median of ours."""
        return median(self.ours)

    @property
    def reference_seconds(self) -> float | None:
        """Median of the reference's."""
        return median(self.reference) if self.reference else None

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times faster ours is in each round; empty without a reference."""
        pairs = zip(self.ours, self.reference, strict=False)
        return tuple(reference / ours for ours, reference in pairs)

    @property
    def ratio(self) -> float | None:
        """Their median."""
        return median(self.ratios) if self.ratios else None

    @property
    def share(self) -> float | None:
        """Of the time of ours that its floor takes: the median over rounds."""
        pairs = zip(self.floors, self.ours, strict=False)
        shares = [floor / ours for floor, ours in pairs]
        return median(shares) if shares else None


def in_rounds(
    ours: Work,
    reference: Work | None,
    n_rounds: int,
    device: torch.device,
    *,
    warm_up: bool = True,
    floor: Callable[[], float] | None = None,
) -> Rounds:
    """Run both n_rounds times; the first to go alternates. `warm_up` runs each once before.

    floor: gives the least seconds that ours could take now.
    """
    sides = [ours] if reference is None else [ours, reference]
    seconds: list[list[float]] = [[] for _ in sides]
    floors: list[float] = []
    if warm_up:
        for work in sides:
            timed(work, device)
    for number in range(n_rounds):
        order = range(len(sides))
        for side in reversed(order) if number % 2 else order:
            seconds[side].append(timed(sides[side], device))
        if floor is not None:
            floors.append(floor())
    other = tuple(seconds[1]) if reference is not None else ()
    return Rounds(tuple(seconds[0]), other, tuple(floors))


def timed(work: Work, device: torch.device) -> float:
    """Seconds until the device has done it."""
    _wait(device)
    since = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - since


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
