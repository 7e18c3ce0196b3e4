"""Evaluations of one checkpoint joined image by image. Legend: n images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean, stdev

import numpy as np

from bench.records import EvaluationRecord
from bench.report.interval import paired_difference, wilson


def of_images(values: np.ndarray, own: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(m,) the values of the images `index`, all of which are in `own`; both ascending.

    values: (n,), aligned with `own`.
    """
    if len(index) == len(own):
        return values
    chosen: np.ndarray = values[np.searchsorted(own, index)]
    return chosen


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Which images survive."""

    index: np.ndarray
    """(n,) dataset indices, ascending."""
    survived: np.ndarray
    """(n,) bool, aligned with `index`."""
    n_expected: int
    """Images that were asked for."""

    def at(self, index: np.ndarray) -> np.ndarray:
        """The flags of the images `index`, all of which must be there."""
        return of_images(self.survived, self.index, index)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number of one run: a fraction of n images with its 95% interval."""

    value: float
    low: float
    high: float
    n: int
    n_expected: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table over the seeds that have it; the tuples hold one entry a seed."""

    value: float | None
    """Mean over the seeds; None where no image has an outcome."""
    low: float | None = None
    high: float | None = None
    """95% interval over the images; None for several seeds."""
    std: float | None = None
    """Sample standard deviation over the seeds; None for one seed."""
    n: tuple[int, ...]
    n_expected: tuple[int, ...]


def survivors(evaluations: Sequence[EvaluationRecord]) -> Flags:
    """One attack. Evaluations that overlap (another seed, more images) count as restarts."""
    return _merged([(e.index, e.survived, e.spec.n_examples) for e in evaluations])


def clean_flags(evaluations: Sequence[EvaluationRecord]) -> Flags:
    """Correct without an attack, which every evaluation records."""
    return _merged([(e.index, e.clean, e.spec.n_examples) for e in evaluations])


def after_flags(evaluations: Sequence[EvaluationRecord]) -> Flags | None:
    """Right on the attacked image, whatever before; None where no evaluation records it."""
    parts = [(e.index, e.after, e.spec.n_examples) for e in evaluations if e.after is not None]
    return _merged(parts) if parts else None


def _merged(parts: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> Flags:
    if len(parts) == 1:
        index, flags, n_expected = parts[0]
        return Flags(index=index, survived=flags, n_expected=n_expected)
    joined = np.concatenate([part[0] for part in parts])
    by_index = np.argsort(joined, kind="stable")
    index, starts = np.unique(joined[by_index], return_index=True)
    flags = np.concatenate([part[1] for part in parts])[by_index]
    merged = np.logical_and.reduceat(flags, starts) if len(index) else flags
    return Flags(index=index, survived=merged, n_expected=max(part[2] for part in parts))


def worst_case(attacks: Sequence[Flags]) -> Flags:
    """Images that survive every attack, among the images that all attacks share."""
    index = shared(attacks)
    survived = np.logical_and.reduce([attack.at(index) for attack in attacks])
    n_expected = min(attack.n_expected for attack in attacks)
    return Flags(index=index, survived=survived, n_expected=n_expected)


def lowest_seen(attacks: Sequence[Flags], index: np.ndarray) -> Flags:
    """Images of `index` that survive every attack that was run on them.

    An attack need not cover all of `index`; images that no attack covers are left out.
    """
    survived, seen = np.ones(len(index), bool), np.zeros(len(index), bool)
    for attack in attacks:
        there = np.isin(index, attack.index, assume_unique=True)
        survived[there] &= attack.at(index[there])
        seen |= there
    return Flags(index=index[seen], survived=survived[seen], n_expected=len(index))


def restricted(flags: Flags, index: np.ndarray) -> Flags:
    """The flags of those images that are in `index`; no others count as asked for then."""
    kept = common(flags.index, index)
    if len(kept) == len(flags.index):
        return flags
    return Flags(index=kept, survived=flags.at(kept), n_expected=len(kept))


def shared(parts: Sequence[Flags]) -> np.ndarray:
    """(n,) indices, ascending, of the images that all parts have."""
    return reduce(common, [part.index for part in parts])


def common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) what is in both of two ascending indices; `a` itself where they are equal."""
    # mostly the same images, where sorting them would be nearly all the time of a large report
    return a if a is b or np.array_equal(a, b) else np.intersect1d(a, b, assume_unique=True)


def accuracy(flags: Flags) -> Estimate | None:
    """The surviving fraction; None without images."""
    n, n_correct = len(flags.index), int(flags.survived.sum())
    if n == 0:
        return None
    low, high = wilson(n_correct, n)
    return Estimate(value=n_correct / n, low=low, high=high, n=n, n_expected=flags.n_expected)


def difference(first: Flags, second: Flags) -> Estimate | None:
    """Accuracy under the first attack minus under the second, on the images they share."""
    index = shared([first, second])
    if len(index) == 0:
        return None
    a, b = first.at(index), second.at(index)
    counts = [int(part.sum()) for part in (a & b, a & ~b, ~a & b, ~a & ~b)]
    low, high = paired_difference(*counts)
    n_expected = min(first.n_expected, second.n_expected)
    value = (counts[1] - counts[2]) / len(index)
    return Estimate(value=value, low=low, high=high, n=len(index), n_expected=n_expected)


def mean_accuracy(seeds: Sequence[Flags]) -> Cell:
    """The cell of one attack, from the flags of each seed."""
    return over_seeds([accuracy(f) for f in seeds], max(f.n_expected for f in seeds))


def over_seeds(estimates: Sequence[Estimate | None], n_expected: int) -> Cell:
    """The cell of one row; an estimate is None where an evaluation holds no image yet."""
    found = [estimate for estimate in estimates if estimate is not None]
    if not found:
        return Cell(value=None, n=(0,), n_expected=(n_expected,))
    n = tuple(estimate.n for estimate in found)
    expected = tuple(estimate.n_expected for estimate in found)
    if len(found) == 1:
        one = found[0]
        return Cell(value=one.value, low=one.low, high=one.high, n=n, n_expected=expected)
    values = [estimate.value for estimate in found]
    return Cell(value=fmean(values), std=stdev(values), n=n, n_expected=expected)
