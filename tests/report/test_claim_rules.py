"""The rules behind verdicts: each is reached, and a planted wrong direction is caught."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from bench.papers.cat.claim_evidence import assess, median_ratio
from bench.papers.cat.claim_rules import (
    ClaimResult,
    Evidence,
    Rule,
    agreed,
    at_least,
    at_most,
    better,
    equal_within,
    ratio_above,
    ratio_below,
    separated,
    tally,
    together,
)
from bench.papers.cat.claim_training import epochs_to_level

HOLDS, FAILS, OPEN = ClaimResult.HOLDS, ClaimResult.FAILS, ClaimResult.OPEN
PARTIAL, MISSING = ClaimResult.PARTIAL, ClaimResult.MISSING


def evidence(
    low: float = -0.1, high: float = 0.1, p: float | None = None, value: float = 0.01
) -> Evidence:
    return Evidence(what="a vs b", value=value, low=low, high=high, p=p)


@pytest.mark.parametrize(
    ("low", "high", "p", "result"),
    [
        (0.01, 0.2, 0.04, HOLDS),
        (0.01, 0.2, None, HOLDS),
        (-0.2, -0.01, 0.04, FAILS),
        (-0.2, -0.01, None, FAILS),
        (-0.2, 0.01, 0.04, OPEN),
        (0.01, 0.2, 0.05, OPEN),  # the interval alone is not enough
        (-0.2, -0.01, 0.2, OPEN),
        (0.0, 0.2, 0.01, OPEN),
        (-0.2, 0.0, 0.01, OPEN),
    ],
)
def test_superiority_needs_the_interval_and_the_test_on_one_side(
    low: float, high: float, p: float | None, result: ClaimResult
) -> None:
    assert better(evidence(low, high, p)).result is result
    above = ratio_above(evidence(1 + low, 1 + high, p, value=1.5))
    below = ratio_below(evidence(1 - high, 1 - low, p, value=1.5))
    assert (above.result, above.favour) == (result, 1.5)
    assert (below.result, below.favour) == (result, -1.5)


@pytest.mark.parametrize(
    ("rule", "low", "high", "result"),
    [
        (at_most(0.03), -0.10, 0.03, HOLDS),
        (at_most(0.03), -0.10, 0.031, OPEN),
        (at_most(0.03), 0.031, 0.10, FAILS),
        (at_most(0.03), 0.03, 0.10, OPEN),
        (at_most(0.03, 0.0), 0.01, 0.02, FAILS),  # small, but surely above what it may not pass
        (at_most(0.03, 0.0), -0.01, 0.02, HOLDS),
        (at_most(0.03, 0.0), -0.01, 0.10, OPEN),
        (at_least(0.95), 0.95, 0.99, HOLDS),
        (at_least(0.95), 0.90, 0.949, FAILS),
        (at_least(0.95), 0.90, 0.95, OPEN),
    ],
)
def test_bounds(rule: Rule, low: float, high: float, result: ClaimResult) -> None:
    assert rule(evidence(low, high)).result is result


def test_favour_is_the_distance_to_the_bound() -> None:
    found = at_most(0.03)(evidence(p=0.5))
    assert found.p is None
    assert found.favour == pytest.approx(0.02)
    ratios = [equal_within(1.25)(evidence(value=value)) for value in (0.8, 1.25, 1.26, 0.79)]
    assert [one.result for one in ratios] == [HOLDS, HOLDS, FAILS, FAILS]
    assert ratios[0].favour == pytest.approx(ratios[1].favour) == pytest.approx(-math.log(1.25))


def test_separated_needs_every_seed() -> None:
    assert separated([2.0, 3.0], [1.0, 1.9]) is HOLDS
    assert separated([1.0, 1.9], [2.0, 3.0]) is FAILS
    assert separated([1.0, 3.0], [2.0]) is OPEN
    assert separated([2.0], [2.0]) is OPEN


@pytest.mark.parametrize(
    ("results", "all_hold", "all_missing", "readings"),
    [
        ([HOLDS, HOLDS], HOLDS, PARTIAL, HOLDS),
        ([FAILS, FAILS], FAILS, FAILS, FAILS),
        ([HOLDS, OPEN, FAILS], FAILS, FAILS, OPEN),
        ([HOLDS, OPEN], OPEN, OPEN, OPEN),
        ([], MISSING, MISSING, OPEN),
    ],
)
def test_results_together(
    results: list[ClaimResult],
    all_hold: ClaimResult,
    all_missing: ClaimResult,
    readings: ClaimResult,
) -> None:
    assert together(results) is all_hold
    assert together(results, ["mma: no training"]) is all_missing
    assert agreed(results) is readings


def test_context_does_not_decide() -> None:
    holds = Evidence(what="a vs b", value=0.0, result=HOLDS)
    context = Evidence(what="a vs c", value=0.0, result=FAILS, decides=False)
    assert assess([holds, context]).result is HOLDS
    assert assess([context]).result is MISSING
    assert assess(["x", "x"]).missing == ("x",)


def test_tally() -> None:
    results = (HOLDS, FAILS, FAILS, OPEN)
    found = [Evidence(what="a vs b", value=0.0, result=result) for result in results]
    assert tally(found) == "1 holds, 2 do not, 1 open"
    assert tally([]) == ""


def test_ratios_are_of_the_same_images_and_know_zero() -> None:
    a = pd.Series({0: 2.0, 1: 0.0, 2: 0.0, 3: 1.0, 9: 100.0})
    b = pd.Series({0: 1.0, 1: 0.0, 2: 1.0, 3: 0.0, 8: 100.0})
    found = median_ratio(a, b)
    assert (found.n, found.value) == (4, 1.5)  # 2, 1 (a tie), 0, infinity
    assert found.p == 1.0
    assert (found.first, found.second) == (0.5, 0.5)
    sure = median_ratio(pd.Series([2.0] * 8), pd.Series([1.0] * 8))
    assert (sure.low, sure.value, sure.high) == (2.0, 2.0, 2.0)
    assert sure.p == pytest.approx(2 / 256)


def test_an_epoch_is_reached_surely_later_than_perhaps() -> None:
    history = [
        {"epoch": e, "val_robust": v, "n_val": 100} for e, v in enumerate((0.1, 0.42, 0.5, 0.7))
    ]
    assert epochs_to_level([{"epoch": 0}, *history[1:]], 0.5) == (2, 3, 4)
    assert epochs_to_level(history, 0.9) == (math.inf, math.inf, math.inf)
