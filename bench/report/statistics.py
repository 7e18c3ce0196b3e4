"""Intervals and exact tests for counts of images. Legend: n images.

Wilson's interval and McNemar's test are statsmodels'. Intervals of paired differences and the
sign-flip test are here, since no library has them. The images are the sample
and the trained models are fixed: nothing is said about another training seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import comb, inf, sqrt
from statistics import NormalDist

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.05
"""Significance level: a p-value below it counts as significant."""
SMALLEST = 1e-90
"""Smaller p-values are reported as this one."""


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


def paired_difference(
    both: int, first_only: int, second_only: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return an interval of the first accuracy minus the second, on the same images.

    The arguments count the images that are correct under both attacks, under one, under neither.
    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10: Wilson's
    limits of both accuracies, combined with their correlation. (-1, 1) without images.
    """
    n = both + first_only + second_only + neither
    if n == 0:
        return -1.0, 1.0
    first, second = both + first_only, both + second_only
    low1, high1 = wilson(first, n, confidence)
    low2, high2 = wilson(second, n, confidence)
    p1, p2 = first / n, second / n
    phi = _correlation(both, first_only, second_only, neither)
    down, up = _combined(p1 - low1, high2 - p2, phi), _combined(high1 - p1, p2 - low2, phi)
    return max(-1.0, p1 - p2 - down), min(1.0, p1 - p2 + up)


def mean_difference(differences: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of the mean of `differences`, (n,) in [-1, 1]; (-1, 1) without images.

    For differences of two methods' shares of seeds, where Newcombe's interval has no counts.
    Adds two images, one at -1 and one at 1, and takes the normal interval; with one seed this is
    D. G. Bonett and R. M. Price, Journal of Educational and Behavioral Statistics 37 (2012)
    479-488. It has a width even where no image differs.
    """
    padded = np.concatenate([differences, (-1.0, 1.0)])
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre, half = float(padded.mean()), z * float(padded.std()) / sqrt(len(padded))
    return max(-1.0, centre - half), min(1.0, centre + half)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of the median, between two order statistics.

    It misses the median in at most 1 - confidence of samples. (0, infinity) where even the
    smallest and the largest value miss it more often: below 6 values at 95%.
    Source: W. R. Thompson, Annals of Mathematical Statistics 7 (1936) 122-128.
    """
    ascending, n = sorted(values), len(values)
    k, below = 0, 0
    # `below`: of the 2^n ways to lie on either side of the median, those with fewer than k below
    while 2 * (below + comb(n, k)) <= (1 - confidence) * 2**n:
        below += comb(n, k)
        k += 1
    return (ascending[k - 1], ascending[n - k]) if k else (0.0, inf)


def _combined(a: float, b: float, phi: float) -> float:
    return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def _correlation(both: int, first_only: int, second_only: int, neither: int) -> float:
    """Newcombe's continuity-corrected correlation of the two outcomes; 0 where undefined."""
    n = both + first_only + second_only + neither
    first, second = both + first_only, both + second_only
    product = first * (n - first) * second * (n - second)
    if product == 0:
        return 0.0
    excess = both * neither - first_only * second_only
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    return corrected / sqrt(product)


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


def sign_flip(differences: Sequence[int] | np.ndarray) -> float:
    """Return the exact two-sided p-value of the sum of n whole numbers under flips of sign.

    The hypothesis: on each image the two methods are exchangeable, so the sign of its difference
    is a fair coin. With differences of -1, 0 and 1 this is McNemar's test. The relative error is
    below 1e-10 for p-values above 1e-80: every term is positive, so nothing cancels. Source:
    R. A. Fisher, The Design of Experiments (1935), section 21.
    """
    signed = np.asarray(differences, dtype=np.int64)
    signed = signed[signed != 0]
    if not len(signed):
        return 1.0
    signed = signed // np.gcd.reduce(signed)
    sizes, counts = np.unique(np.abs(signed), return_counts=True)
    if len(sizes) == 1:
        return mcnemar(int((signed > 0).sum()), int((signed < 0).sum()))
    # `chances[j]`: that the images with a plus sign have sizes of j in all; the sum is 2 j - total
    chances = np.ones(1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        chances = _with_images(chances, size, count)
    total, seen = int(np.abs(signed).sum()), abs(int(signed.sum()))
    return max(SMALLEST, min(1.0, 2 * float(chances[(total + seen) // 2 :].sum())))


def _with_images(chances: np.ndarray, size: int, count: int) -> np.ndarray:
    """Add `count` images of one size to the distribution, each with a plus by a fair coin."""
    ways = [1]
    for k in range(count):
        ways.append(ways[-1] * (count - k) // (k + 1))
    coins = np.array([way / (1 << count) for way in ways])
    coins[coins < SMALLEST / 100] = 0.0
    result = np.zeros(len(chances) + size * count)
    for start in range(min(size, len(chances))):
        part = chances[start::size]
        end = start + size * (len(part) + count)
        result[start:end:size] = np.convolve(part, coins)
    result[result < SMALLEST / 100] = 0.0  # numbers near the smallest double make this slow
    return result


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
