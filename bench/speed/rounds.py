"""Two ways to do the same work, timed in turn, so that a busy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
    floors: tuple[tuple[float, ...], ...] = ()
    """By kind: least seconds that ours could take, measured at the end of each round."""

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
    def shares(self) -> tuple[float, ...]:
        """By kind of floor, what it takes of the time of ours: the median over rounds."""
        return tuple(
            median(least / ours for least, ours in zip(floor, self.ours, strict=True))
            for floor in self.floors
        )


def in_rounds(
    ours: Work,
    reference: Work | None,
    n_rounds: int,
    device: torch.device,
    *,
    warm_up: bool = True,
    floors: Sequence[Callable[[], float]] = (),
) -> Rounds:
    """Run both n_rounds times; the first to go alternates. `warm_up` runs each once before.

    floors: each gives the least seconds that ours could take now, in a sense of its own.
    """
    sides = [ours] if reference is None else [ours, reference]
    seconds: list[list[float]] = [[] for _ in sides]
    least: list[list[float]] = [[] for _ in floors]
    if warm_up:
        for work in sides:
            timed(work, device)
    for number in range(n_rounds):
        order = range(len(sides))
        for side in reversed(order) if number % 2 else order:
            seconds[side].append(timed(sides[side], device))
        for found, floor in zip(least, floors, strict=True):
            found.append(floor())
    other = tuple(seconds[1]) if reference is not None else ()
    return Rounds(tuple(seconds[0]), other, tuple(map(tuple, least)))


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
