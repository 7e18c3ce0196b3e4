"""A figure of a masking check, its threshold, and how sure it is that the figure exceeds it.

Without torch. A figure is computed on a sample of images, so the mark of an alarm needs evidence:
the one-sided 95% lower limit of the figure has to be above the threshold too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np

State: TypeAlias = Literal["pass", "watch", "alarm"]
LEVEL = 0.05
"""Chance that a lower limit is above the true value."""
ROUNDING = 1e-9
"""Of a difference of shares."""
_BISECTIONS = 30


@dataclass(frozen=True)
class Indicator:
    """A number that a check computes, with the largest value that raises no alarm.

    Without `lost`, the figure is the share of n images that have a property, and its limit is the
    exact one of Clopper and Pearson (1934). A mean of values in [0, top] is treated as `top` times
    a share, which is conservative: among values with that mean, 0 and top vary most. With `lost`,
    it is a difference of two shares of the same images: see `lower_limit`.
    """

    what: str
    value: float
    threshold: float
    n: int | None = 0
    """Images; 0 for a fact without a sampling error, None where a record does not say."""
    lost: float | None = None
    """Images that count against a difference: the value is (gained - lost) / n."""
    tries: int = 1
    """Differences of which this one is the largest; the level is divided by it (Bonferroni)."""
    top: float = 1.0

    @property
    def excess(self) -> float:
        """Distance above the threshold; infinite for NaN."""
        excess = self.value - self.threshold
        return float("inf") if math.isnan(excess) else excess

    @property
    def limit(self) -> float | None:
        """One-sided 95% lower limit, at least 0; None for facts, NaN and unknown images."""
        if not self.n or not math.isfinite(self.value):
            return None
        k = min(self.n, math.floor(self.value * self.n / self.top + 1e-6))
        return self.top * lower_limit(k, self.n, self.lost, LEVEL / self.tries)

    @property
    def state(self) -> State:
        """`pass` up to the threshold, `alarm` if the limit is above it too, else `watch`."""
        if self.excess <= ROUNDING:
            return "pass"
        limit = math.inf if self.n == 0 or not math.isfinite(self.value) else self.limit
        return "alarm" if limit is not None and limit > self.threshold + ROUNDING else "watch"

    @property
    def alarm(self) -> bool:
        return self.state == "alarm"


def worst(indicators: Sequence[Indicator]) -> Indicator:
    """Return an alarm if there is one, else any; of several the farthest above its threshold."""
    return max(indicators, key=lambda found: (found.alarm, found.excess))


@cache
def lower_limit(k: int, n: int, lost: float | None, level: float) -> float:
    """Return the one-sided lower limit of a share k / n or a paired difference, at least 0.

    `lost` None: of a share, exact. Else of (gained - lost) / n, k = gained - lost: the smallest
    difference under which a result of k or more has a chance above `level`, where the unknown
    share of lost images is its maximum likelihood estimate under that difference (T. Tango,
    Statistics in Medicine 17 (1998) 891-908) and chances are those of the trinomial distribution.
    """
    low, high = 0.0, max(0.0, k / n)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _chance(middle, k, n, lost) <= level:
            low = middle
        else:
            high = middle
    return low


def _chance(true: float, k: int, n: int, lost: float | None) -> float:
    """Return the chance that gained - lost >= k where the true difference is `true`."""
    down = 0.0
    if lost is not None:
        b = (2 * n - k) * true - k - 2 * lost
        down = (math.sqrt(b * b + 8 * n * lost * true * (1 - true)) - b) / (4 * n)
    up = true + down
    # each image moves by -1, 0 or 1: the distribution of the sum of n, at sum + n
    spectrum = np.fft.rfft([down, 1 - up - down, up], 2 * n + 1) ** n
    return float(np.fft.irfft(spectrum, 2 * n + 1)[n + k :].sum())
