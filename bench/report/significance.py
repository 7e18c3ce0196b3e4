"""Is a difference on the same images more than chance? Exact tests. Legend: n images.

The hypothesis: on each image either method may as well have been the other. So the sign of every
image's difference is a fair coin, and the p-value is the share of all 2^n signings whose sum is at
least as far from 0 as the one that was seen. The images are the sample, the trained models are
given: nothing is said of another training seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

LEVEL = 0.05
"""A p-value below it is called significant."""
SMALLEST = 1e-90
"""A smaller p-value is given as this one."""


@cache
def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p-value of McNemar's test: is each discordant image a fair coin?

    The arguments count the images that only one of the methods gets right; 1 where there are
    none. Correctly rounded. Raises ValueError for a negative count. Source: Q. McNemar,
    Psychometrika 12 (1947), with the binomial distribution instead of its normal limit.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"{first_only} and {second_only} discordant images are impossible")
    n, fewer = first_only + second_only, min(first_only, second_only)
    tail = term = 1
    for k in range(1, fewer + 1):
        term = term * (n - k + 1) // k
        tail += term
    # whole numbers of any size: the one rounding is that of the division
    return max(SMALLEST, min(1.0, 2 * tail / (1 << n)))


def sign_flip(differences: Sequence[int] | np.ndarray) -> float:
    """Exact two-sided p-value of the sum of n whole numbers, one an image, under flips of sign.

    With a difference of -1, 0 or 1 an image this is McNemar's test. Relative error below 1e-10
    for a p-value above 1e-80: every term is positive, so nothing cancels. Source: R. A. Fisher,
    The Design of Experiments (1935), section 21.
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
    """The distribution with `count` more images of one size, each with a plus by a fair coin."""
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
    """The p-values of one family of tests, raised so that any below 5% errs in 5% of families.

    In the order given; never smaller than the p-value itself, never above 1. `left_out`: tests of
    the family whose p-values are unknown; each is taken for larger than any that is known, which
    makes no adjusted p-value smaller than the whole family's would. Source: S. Holm, Scandinavian
    Journal of Statistics 6 (1979) 65-70.
    """
    adjusted = [0.0] * len(p_values)
    largest, n = 0.0, len(p_values) + left_out
    ascending = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(ascending):
        largest = max(largest, min(1.0, (n - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
