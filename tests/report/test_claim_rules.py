"""The rules behind verdicts: each is reached, and a planted wrong direction is caught."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.papers.cat.claim_evidence import assess, median_ratio
from bench.papers.cat.claim_rules import (
    ClaimResult,
    Evidence,
    Family,
    agreed,
    at_most,
    doubted,
    lower_bound,
    non_inferiority,
    ratio_above,
    ratio_below,
    separated,
    superiority,
    tally,
    together,
)
from bench.papers.cat.claim_tests.training import epochs_to_level

HOLDS, FAILS, OPEN = ClaimResult.HOLDS, ClaimResult.FAILS, ClaimResult.OPEN


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
    assert superiority(low, high, p) is result


@pytest.mark.parametrize(
    ("low", "high", "beyond", "result"),
    [
        (-0.10, 0.03, None, HOLDS),
        (-0.10, 0.031, None, OPEN),
        (0.031, 0.10, None, FAILS),
        (0.03, 0.10, None, OPEN),
        (0.01, 0.02, 0.0, FAILS),  # small, but surely above what it may not pass
        (-0.01, 0.02, 0.0, HOLDS),
        (-0.01, 0.10, 0.0, OPEN),
    ],
)
def test_non_inferiority(
    low: float, high: float, beyond: float | None, result: ClaimResult
) -> None:
    assert non_inferiority(low, high, 0.03, beyond) is result


def test_lower_bound() -> None:
    assert lower_bound(0.95, 0.99, 0.95) is HOLDS
    assert lower_bound(0.90, 0.949, 0.95) is FAILS
    assert lower_bound(0.90, 0.95, 0.95) is OPEN


def test_separated_needs_every_seed() -> None:
    assert separated([2.0, 3.0], [1.0, 1.9]) is HOLDS
    assert separated([1.0, 1.9], [2.0, 3.0]) is FAILS
    assert separated([1.0, 3.0], [2.0]) is OPEN
    assert separated([2.0], [2.0]) is OPEN


def test_together_is_refuted_by_one_and_confirmed_by_all() -> None:
    assert together([HOLDS, HOLDS]) is HOLDS
    assert together([HOLDS, OPEN, FAILS]) is FAILS
    assert together([HOLDS, OPEN]) is OPEN
    assert together([]) is ClaimResult.MISSING
    assert together([HOLDS], missing=["mma: no training"]) is ClaimResult.PARTIAL
    assert together([OPEN], missing=["mma: no training"]) is OPEN
    assert together([FAILS], missing=["mma: no training"]) is FAILS


def test_readings_of_one_thing_must_agree() -> None:
    assert agreed([HOLDS, HOLDS]) is HOLDS
    assert agreed([FAILS, FAILS]) is FAILS
    assert agreed([HOLDS, FAILS]) is OPEN
    assert agreed([HOLDS, OPEN]) is OPEN


def test_a_doubt_takes_only_a_confirmation() -> None:
    assert doubted(HOLDS, doubt=True) is OPEN
    assert doubted(HOLDS, doubt=False) is HOLDS
    assert doubted(FAILS, doubt=True) is FAILS


def evidence(result: ClaimResult, *, decides: bool = True) -> Evidence:
    return Evidence(what="a vs b", value=0.0, favour=0.0, result=result, decides=decides)


def test_ratios_are_judged_on_the_claimed_side_of_1() -> None:
    found = Evidence(what="a vs b", value=1.5, low=1.2, high=2.0, p=0.01)
    above, below = ratio_above(found), ratio_below(found)
    assert (above.result, above.favour) == (HOLDS, 1.5)
    assert (below.result, below.favour) == (FAILS, -1.5)
    assert ratio_above(replace(found, low=0.9)).result is OPEN
    assert ratio_below(replace(found, low=0.5, high=0.9)).result is HOLDS


def test_a_bounded_loss_needs_no_p_value() -> None:
    found = at_most(0.03)(Evidence(what="a", value=0.01, low=-0.01, high=0.02, p=0.5))
    assert (found.result, found.p) == (HOLDS, None)
    assert found.favour == pytest.approx(0.02)


def test_what_decides_nothing_decides_nothing() -> None:
    context = evidence(FAILS, decides=False)
    assert assess([Family(evidence=(evidence(HOLDS), context))]).result is HOLDS
    assert assess([Family(evidence=(context,))]).result is ClaimResult.MISSING
    assert assess([Family(missing=("x", "x"))]).missing == ("x",)


def test_counts_in_words() -> None:
    found = [evidence(result) for result in (HOLDS, FAILS, FAILS, OPEN)]
    assert tally(found) == "1 holds, 2 do not, 1 open"
    assert tally([]) == ""


def test_ratios_are_of_the_same_images_and_know_zero() -> None:
    a = {0: 2.0, 1: 0.0, 2: 0.0, 3: 1.0, 9: 100.0}
    b = {0: 1.0, 1: 0.0, 2: 1.0, 3: 0.0, 8: 100.0}
    found = median_ratio(a, b)
    assert (found.n, found.value) == (4, 1.5)  # 2, 1 (a tie), 0, infinity
    assert found.p == 1.0
    assert (found.first, found.second) == (0.5, 0.5)
    sure = median_ratio(dict.fromkeys(range(8), 2.0), dict.fromkeys(range(8), 1.0))
    assert (sure.low, sure.value, sure.high) == (2.0, 2.0, 2.0)
    assert sure.p == pytest.approx(2 / 256)


def test_an_epoch_is_reached_surely_later_than_perhaps() -> None:
    history = [
        {"epoch": e, "val_robust": v, "n_val": 100} for e, v in enumerate((0.1, 0.42, 0.5, 0.7))
    ]
    found = epochs_to_level([{"epoch": 0}, *history[1:]], 0.5)
    assert (found.earliest, found.at, found.latest) == (2, 3, 4)
    never = epochs_to_level(history, 0.9)
    assert math.isinf(never.earliest)
    assert math.isinf(never.at)
