"""Intervals and exact tests for counts of images. Legend: n images.

The interval of a paired difference contains 0 exactly where its test has p >= 1 - confidence.
`mcnemar` and `mcnemar_interval` are of two trained models: the images are the sample, and nothing
is said about another training seed. `crossed_mean` takes the seeds for a sample too.
"""

from collections.abc import Sequence
from functools import cache
from math import inf, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, ndtr, stdtr, stdtrit
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.05
"""Significance level: a p-value below it counts as significant."""
SMALLEST = 1e-90
"""Smaller p-values are reported as this one."""
_SCORES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_WEIGHTS = _WEIGHTS * np.exp(-((8 * _SCORES) ** 2) / 2)
_WEIGHTS, _LEVELS = _WEIGHTS / _WEIGHTS.sum(), ndtr(8 * _SCORES)
"""Quadrature of an expectation over a quantile's level, uniform on [0, 1]."""


@cache
def wilson(n_correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of n_correct / n; (0, 1) where n is 0.

    It keeps its level near 0 and 1, where robust accuracies often are. Raises ValueError unless
    0 <= n_correct <= n. Source: E. B. Wilson (1927).
    """
    if not 0 <= n_correct <= n:
        raise ValueError(f"{n_correct} correct of {n} images is impossible")
    if n == 0:
        return 0.0, 1.0
    low, high = proportion_confint(n_correct, n, alpha=1 - confidence, method="wilson")
    return (0.0 if n_correct == 0 else float(low)), (1.0 if n_correct == n else float(high))


@cache
def mcnemar_interval(
    first_only: int, second_only: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the first accuracy minus the second that inverts `mcnemar`.

    first_only, second_only: images that only one of the methods gets right, of n on which both
    were evaluated. The difference is s (2 q - 1): a share s of the images is discordant, and of
    these a share q is the first's. The test conditions on the number of discordant images, so it
    speaks of q alone, and 0 is in the interval exactly where Clopper and Pearson's limits of q
    have 1/2 between them. The interval conditions on nothing: it also allows for the error of s
    by combining ("melding") the confidence distributions of both. Its coverage is at least
    `confidence` wherever it was enumerated; nobody has proved it.
    Source: M. P. Fay and K. Lumbard, Statistics in Medicine 40 (2021) 1147-1159. (-1, 1) without
    images.
    """
    if n == 0:
        return -1.0, 1.0
    tail = (1 - confidence) / 2
    low = _melded(first_only, second_only, n, tail)
    return low, -_melded(second_only, first_only, n, tail)


def _melded(b: int, c: int, n: int, tail: float) -> float:
    """Return the lower limit of s (2 q - 1), missed from above with probability `tail`."""
    if b == 0:  # q may be 0, so only the upper limit of s counts
        return -float(betaincinv(c + 1, n - c, 1 - tail)) if c < n else -1.0
    above = bool(betainc(b, c + 1, 0.5) < tail)
    # the limit grows with s where it is positive, so there the lower distribution of s counts
    if above:
        shares = betaincinv(b + c, n - b - c + 1, _LEVELS)
    elif b + c < n:
        shares = betaincinv(b + c + 1, n - b - c, _LEVELS)
    else:
        shares = np.ones(len(_LEVELS))

    def excess(limit: float) -> float:
        q = np.clip((1 + limit / shares) / 2, 0, 1)
        return float(_WEIGHTS @ betainc(b, c + 1, q)) - tail

    return float(brentq(excess, *((0, 1) if above else (-1, 0))))


def mean_difference(differences: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of the mean of `differences`, (n,) in [-1, 1]; (-1, 1) without images.

    Adds two images, one at -1 and one at 1, and takes the normal interval; with one seed this is
    D. G. Bonett and R. M. Price, Journal of Educational and Behavioral Statistics 37 (2012)
    479-488. It has a width even where no image differs.
    """
    padded = np.concatenate([differences, (-1.0, 1.0)])
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre, half = float(padded.mean()), z * float(padded.std()) / sqrt(len(padded))
    return max(-1.0, centre - half), min(1.0, centre + half)


@cache
def mcnemar(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p-value of McNemar's test; 1 without discordant images.

    The arguments count the images that only one of the methods gets right. Raises ValueError for
    a negative count. Source: Q. McNemar, Psychometrika 12 (1947), with the binomial distribution.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"{first_only} and {second_only} discordant images are impossible")
    if first_only == second_only:
        return 1.0
    p = float(_mcnemar([[0, first_only], [second_only, 0]], exact=True).pvalue)
    return max(SMALLEST, min(1.0, p))


def holm(p_values: Sequence[float], left_out: int = 0) -> list[float]:
    """Return Holm-adjusted p-values of one family of tests, in the order of the arguments.

    `left_out` counts tests of the family whose p-values are unknown; each is taken for larger
    than any known one, which makes no adjusted p-value smaller than the whole family's would.
    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    # not statsmodels' multipletests: it collects garbage on every call, 0.1 s each
    order = np.argsort(p_values, kind="stable")
    factors = len(order) + left_out - np.arange(len(order))
    raised = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, raised)
    return [float(p) for p in adjusted]


class CrossedMean(NamedTuple):
    """A mean over seeds and images, with an error that covers new ones of both."""

    value: float
    error: float
    """Standard error."""
    freedom: float
    """Degrees of freedom."""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Student's interval."""
        half = self.error * float(stdtrit(self.freedom, 0.5 + confidence / 2))
        return self.value - half, self.value + half

    def p(self, bound: float = 0.0) -> float:
        """Return the two-sided p-value of "the mean is `bound`"."""
        distance = abs(self.value - bound)
        if not self.error:
            return SMALLEST if distance else 1.0
        return max(SMALLEST, 2 * float(stdtr(self.freedom, -distance / self.error)))

    def detectable(self, level: float = LEVEL, power: float = 0.8) -> float:
        """Return the least distance from a bound that a test at `level` finds with this power."""
        limits = stdtrit(self.freedom, (1 - level / 2, power))
        return self.error * float(limits.sum())


def crossed_mean(values: np.ndarray, *, images: bool, rounding: float = 0.0) -> CrossedMean:
    """Return the mean of values, an axis per sampled factor, and its error over all factors.

    The factors: seeds of the first method, seeds of the second, images; an axis of length 1 adds no
    variance, and nothing is said about new members of it. images: whether the last axis is of
    images, with values in [-1, 1]; two more, one at -1 and one at 1, keep an error where no image
    differs. rounding: the unit that each seed's value is rounded to; the variance of that error is
    the least one over seeds, which may all round alike. The variance is the sum over the axes of
    the variance of the mean of the axis's means, which counts the interaction of seeds and images
    twice, and so is too large if anything; degrees of freedom by F. E. Satterthwaite, Biometrics
    Bulletin 2 (1946) 110-114.
    """
    parts = []
    for axis in range(values.ndim):
        means = values.mean(tuple(other for other in range(values.ndim) if other != axis))
        if images and axis == values.ndim - 1:
            means = np.concatenate([means, (-1.0, 1.0)])
        if len(means) > 1:
            spread = max(float(means.var(ddof=1)), rounding**2 / 12)
            parts.append((spread / len(means), len(means) - 1))
    variance = sum(part for part, _ in parts)
    weights = sum(part**2 / free for part, free in parts)
    freedom = variance**2 / weights if weights else inf
    return CrossedMean(float(values.mean()), sqrt(variance), freedom)
