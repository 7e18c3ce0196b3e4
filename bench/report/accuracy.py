"""Accuracies from outcomes per image: joins of attacks, intervals, means over seeds.

Legend: n images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean, stdev

import numpy as np

from bench.report.statistics import crossed_mean, mcnemar, mcnemar_interval, wilson


@dataclass(frozen=True, kw_only=True)
class ImageOutcomes:
    """Which images are correct, under an attack or without one."""

    index: np.ndarray
    """(n,) dataset indices, ascending."""
    correct: np.ndarray
    """(n,) bool, aligned with `index`."""
    n_expected: int
    """Images of the finished evaluation."""

    def at(self, index: np.ndarray) -> np.ndarray:
        """Return (m,) the outcomes of the images `index`, all of which must have one."""
        if len(index) == len(self.index):
            return self.correct
        chosen: np.ndarray = self.correct[np.searchsorted(self.index, index)]
        return chosen


@dataclass(frozen=True, kw_only=True)
class AccuracyEstimate:
    """An accuracy over the seeds that have it; the tuples hold one entry per seed."""

    value: float
    """Mean over the seeds."""
    low: float | None = None
    high: float | None = None
    """95% interval over the images; None for several seeds."""
    std: float | None = None
    """Sample standard deviation over the seeds; None for one seed."""
    n: tuple[int, ...]
    n_expected: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The first accuracy minus the second, on the images that all seeds of both share."""

    first: float
    """Mean over the seeds, like `second`."""
    second: float
    low: float
    high: float
    """95% interval; it contains 0 exactly where p is at least 5%."""
    p: float
    """Of McNemar's exact test for one seed each, else of the t test of `crossed_mean`."""
    n: int
    first_only: int | None
    second_only: int | None
    """Images that only one of them gets right; None for several seeds."""

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second

    @property
    def fractions(self) -> dict[str, float]:
        """The accuracies, their difference and its interval, by their columns in a .csv."""
        return {
            "robust_first": self.first,
            "robust_second": self.second,
            "difference": self.difference,
            "difference_low": self.low,
            "difference_high": self.high,
        }


def worst_case(attacks: Sequence[ImageOutcomes]) -> ImageOutcomes:
    """Return which images survive every attack, among the images that all attacks share."""
    index = shared(attacks)
    correct = np.logical_and.reduce([attack.at(index) for attack in attacks])
    n_expected = min(attack.n_expected for attack in attacks)
    return ImageOutcomes(index=index, correct=correct, n_expected=n_expected)


def lowest_seen(attacks: Sequence[ImageOutcomes], index: np.ndarray) -> ImageOutcomes:
    """Return which images of `index` survive every attack that was run on them.

    An attack need not cover all of `index`; images that no attack covers are left out.
    """
    correct, seen = np.ones(len(index), bool), np.zeros(len(index), bool)
    for attack in attacks:
        there = np.isin(index, attack.index, assume_unique=True)
        correct[there] &= attack.at(index[there])
        seen |= there
    return ImageOutcomes(index=index[seen], correct=correct[seen], n_expected=len(index))


def restricted(flags: ImageOutcomes, index: np.ndarray) -> ImageOutcomes:
    """Return the outcomes of only the images in `index`, which then are all that is expected."""
    kept = common(flags.index, index)
    if len(kept) == len(flags.index):
        return flags
    return ImageOutcomes(index=kept, correct=flags.at(kept), n_expected=len(kept))


def shared(parts: Sequence[ImageOutcomes]) -> np.ndarray:
    """Return (n,) the ascending indices of the images that all parts have."""
    return reduce(common, [part.index for part in parts])


def common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (n,) the intersection of two ascending indices; `a` itself where they are equal."""
    # the images are mostly the same, and sorting them would dominate a large report
    return a if a is b or np.array_equal(a, b) else np.intersect1d(a, b, assume_unique=True)


def accuracy(flags: ImageOutcomes) -> AccuracyEstimate | None:
    """Return the fraction of correct images; None without images."""
    n, n_correct = len(flags.index), int(flags.correct.sum())
    if n == 0:
        return None
    return _of_one_seed(n_correct / n, wilson(n_correct, n), n, flags.n_expected)


def difference(first: ImageOutcomes, second: ImageOutcomes) -> AccuracyEstimate | None:
    """Return the first accuracy minus the second, on the images that both have."""
    index = shared([first, second])
    if len(index) == 0:
        return None
    a, b, n = first.at(index), second.at(index), len(index)
    first_only, second_only = int((a & ~b).sum()), int((b & ~a).sum())
    interval = mcnemar_interval(first_only, second_only, n)
    n_expected = min(first.n_expected, second.n_expected)
    return _of_one_seed((first_only - second_only) / n, interval, n, n_expected)


def _of_one_seed(
    value: float, interval: tuple[float, float], n: int, n_expected: int
) -> AccuracyEstimate:
    low, high = interval
    return AccuracyEstimate(value=value, low=low, high=high, n=(n,), n_expected=(n_expected,))


def paired_comparison(
    first: Sequence[ImageOutcomes], second: Sequence[ImageOutcomes]
) -> PairedComparison | None:
    """Compare two methods over their seeds on the images that all seeds share; None without any.

    With several seeds the error is over new seeds and new images; a side of one seed is fixed.
    """
    index = shared([*first, *second])
    if len(index) == 0:
        return None
    a, b = (np.array([seed.at(index) for seed in side]) for side in (first, second))
    alone: tuple[int, int] | tuple[None, None] = (None, None)
    if len(first) == len(second) == 1:
        alone = int((a & ~b).sum()), int((b & ~a).sum())
        p, (low, high) = mcnemar(*alone), mcnemar_interval(*alone, len(index))
    else:
        mean = crossed_mean(a[:, None].astype(float) - b, images=True)
        p, (low, high) = mean.p(), mean.interval()
    return PairedComparison(
        first=float(a.mean()),
        second=float(b.mean()),
        low=low,
        high=high,
        p=p,
        n=len(index),
        first_only=alone[0],
        second_only=alone[1],
    )


def mean_accuracy(seeds: Iterable[ImageOutcomes]) -> AccuracyEstimate | None:
    """Return the accuracy over the seeds under one attack; None without an image."""
    return over_seeds(map(accuracy, seeds))


def over_seeds(estimates: Iterable[AccuracyEstimate | None]) -> AccuracyEstimate | None:
    """Return the mean of estimates of one seed each; None where no seed has one."""
    found = [estimate for estimate in estimates if estimate is not None]
    if len(found) < 2:
        return found[0] if found else None
    values = [estimate.value for estimate in found]
    return AccuracyEstimate(
        value=fmean(values),
        std=stdev(values),
        n=tuple(n for estimate in found for n in estimate.n),
        n_expected=tuple(n for estimate in found for n in estimate.n_expected),
    )


def bars_text(several: Iterable[bool]) -> str:
    """Return what a figure's error bars are; `several`: whether each is over several seeds."""
    texts = "95% interval over the images (Wilson)", "sample standard deviation over seeds"
    return ", or ".join(texts[kind] for kind in sorted(set(several)))


def error_limits(cell: AccuracyEstimate) -> tuple[float, float]:
    """Return the ends of an error bar: Wilson's interval, or one standard deviation over seeds."""
    if cell.low is not None and cell.high is not None:
        return cell.low, cell.high
    return cell.value - (cell.std or 0.0), cell.value + (cell.std or 0.0)
