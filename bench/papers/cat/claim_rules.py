"""When a claim holds: the thresholds, the evidence that it rests on, and the rules.

Every verdict is made here; claim_tests.py only picks what is compared. Accuracies are fractions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from bench.report.statistics import LEVEL

SMALL = 0.01
"""A loss or gain up to here counts as none."""
STEPS_COST = 0.03
""""About 2 points" may be up to 3."""
HIGH_TRAIN = 0.95
"""Train accuracy that still counts as high; the paper's lowest is 99.16%."""
FLAT = 0.05
"""A curve that loses no more than this from 0.05 to 0.07 counts as flat."""
LEVEL_SHARE = 0.9
"""Convergence: the level, as a share of the reference's best robust validation accuracy."""
VERSUS = " vs "
"""Between the labels of two models in `Evidence.what`."""


class ClaimResult(StrEnum):
    """The verdict on one comparison or on a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "not decidable at this size"
    PARTIAL = "not decidable: records are missing"
    MISSING = "no records"
    UNTESTED = "not tested"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One comparison that bears on a claim."""

    what: str
    """`cat-ce vs madry`."""
    detail: str = ""
    """Distinguishes comparisons of the same models: an attack, a radius, a norm."""
    remark: str = ""
    """Follows the detail on the page only."""
    unit: Literal["points", "times", "epochs"] = "points"
    """Points are fractions here and percent on the page; for times, the value is a ratio."""
    first: float | None = None
    second: float | None = None
    value: float
    """First minus second, their ratio, or the quantity that the claim is about."""
    low: float | None = None
    high: float | None = None
    """95% interval; None where the value has no sampling error or the error is unknown."""
    p: float | None = None
    """Of the test, after Holm's correction over the family; None where the rule needs none."""
    n: int | None = None
    """Images."""
    seeds: tuple[int, int] = (1, 1)
    """Trainings of the first and of the second."""
    decides: bool = True
    """Whether the claim's verdict rests on it."""
    shown: bool = True
    """Whether the page has a row for it; claims.csv always has."""
    result: ClaimResult = ClaimResult.OPEN
    favour: float = 0.0
    """How far the value is on the claim's side; the summary quotes the smallest."""

    @property
    def interval(self) -> tuple[float, float]:
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def subject(self) -> str:
        """Label of the first model."""
        return self.what.partition(VERSUS)[0]


Rule = Callable[[Evidence], Evidence]
"""Sets the result of a comparison and its `favour`."""


def better(found: Evidence) -> Evidence:
    """Apply the rule "the first is above the second"."""
    return replace(found, result=superiority(*found.interval, found.p), favour=found.value)


def ratio_above(found: Evidence) -> Evidence:
    """Apply the rule "the ratio is above 1"."""
    low, high = found.interval
    return replace(found, result=superiority(low - 1, high - 1, found.p), favour=found.value)


def ratio_below(found: Evidence) -> Evidence:
    """Apply the rule "the ratio is below 1"."""
    low, high = found.interval
    return replace(found, result=superiority(1 - high, 1 - low, found.p), favour=-found.value)


def superiority(low: float, high: float, p: float | None) -> ClaimResult:
    """Judge "the difference is above 0": its interval and its test must agree.

    Without a p-value the interval decides.
    """
    if p is not None and not p < LEVEL:
        return ClaimResult.OPEN
    if low > 0:
        return ClaimResult.HOLDS
    return ClaimResult.FAILS if high < 0 else ClaimResult.OPEN


def at_most(margin: float, refuted_above: float | None = None) -> Rule:
    """Return the rule "the first is above the second by at most `margin`" (non-inferiority).

    Refuted where the interval is above `refuted_above`, by default the margin.
    """
    limit = margin if refuted_above is None else refuted_above

    def rule(found: Evidence) -> Evidence:
        low, high = found.interval
        result = ClaimResult.HOLDS if high <= margin else ClaimResult.OPEN
        result = ClaimResult.FAILS if low > limit else result
        return replace(found, result=result, favour=margin - found.value, p=None)

    return rule


def at_least(bound: float) -> Rule:
    """Return the rule "the value is at least `bound`"."""

    def rule(found: Evidence) -> Evidence:
        low, high = found.interval
        result = ClaimResult.FAILS if high < bound else ClaimResult.OPEN
        result = ClaimResult.HOLDS if low >= bound else result
        return replace(found, result=result, favour=found.value)

    return rule


def equal_within(factor: float) -> Rule:
    """Return the rule "the ratio, which has no error, is between 1 / factor and factor"."""

    def rule(found: Evidence) -> Evidence:
        same = 1 / factor <= found.value <= factor
        result = ClaimResult.HOLDS if same else ClaimResult.FAILS
        return replace(found, result=result, favour=-abs(math.log(found.value)))

    return rule


def separated(firsts: Sequence[float], seconds: Sequence[float]) -> ClaimResult:
    """Judge "the first is above the second" by exact values, one per seed."""
    if min(firsts) > max(seconds):
        return ClaimResult.HOLDS
    return ClaimResult.FAILS if max(firsts) < min(seconds) else ClaimResult.OPEN


def together(results: Iterable[ClaimResult], missing: Sequence[str] = ()) -> ClaimResult:
    """Combine results that must all hold; one that fails refutes the claim."""
    found = set(results)
    if not found:
        return ClaimResult.MISSING
    if ClaimResult.FAILS in found:
        return ClaimResult.FAILS
    if found != {ClaimResult.HOLDS}:
        return ClaimResult.OPEN
    return ClaimResult.PARTIAL if missing else ClaimResult.HOLDS


def agreed(results: Iterable[ClaimResult]) -> ClaimResult:
    """Combine several readings of one statement, for which the paper names none."""
    found = set(results)
    return found.pop() if len(found) == 1 else ClaimResult.OPEN


def tally(evidence: Iterable[Evidence]) -> str:
    """Return `3 hold, 1 does not, 10 open`; empty without evidence."""
    counts = Counter(one.result for one in evidence)
    words = {
        ClaimResult.HOLDS: ("holds", "hold"),
        ClaimResult.FAILS: ("does not", "do not"),
        ClaimResult.OPEN: ("open", "open"),
    }
    return ", ".join(
        f"{counts[result]} {one if counts[result] == 1 else many}"
        for result, (one, many) in words.items()
        if counts[result]
    )
