"""Intervals for counts of images: one accuracy, and the difference of two on the same images."""

from __future__ import annotations

from functools import cache
from math import sqrt
from statistics import NormalDist

import numpy as np


def wilson(n_correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of the fraction n_correct / n; (0, 1) where n is 0.

    Unlike the textbook's p +- 1.96 se it keeps its level near 0 and 1, where robust accuracies
    often are. Raises ValueError unless 0 <= n_correct <= n. Source: E. B. Wilson (1927).
    """
    if not 0 <= n_correct <= n:
        raise ValueError(f"{n_correct} correct of {n} images is impossible")
    if n == 0:
        return 0.0, 1.0
    z = _z(confidence)
    p = n_correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The two limits below are exact; floating point would leave 1e-17 instead of 0.
    low = 0.0 if n_correct == 0 else centre - half
    high = 1.0 if n_correct == n else centre + half
    return low, high


def paired_difference(
    both: int, first_only: int, second_only: int, neither: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the first accuracy minus the second, both counted on the same images.

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
    """Interval of the mean over images of `differences`, (n,) in [-1, 1]; (-1, 1) without images.

    For a difference of two methods' shares of seeds, where Newcombe's interval has no counts to
    stand on. Two images more, one at -1 and one at 1, then the normal interval: with one seed
    D. G. Bonett and R. M. Price, Journal of Educational and Behavioral Statistics 37 (2012)
    479-488. So it has a width even where no image differs.
    """
    padded = np.concatenate([differences, (-1.0, 1.0)])
    z = _z(confidence)
    centre, half = float(padded.mean()), z * float(padded.std()) / sqrt(len(padded))
    return max(-1.0, centre - half), min(1.0, centre + half)


@cache
def _z(confidence: float) -> float:
    """Standard deviations on either side of the mean that hold so much of a normal distribution."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


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
