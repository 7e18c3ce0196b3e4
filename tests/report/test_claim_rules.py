"""The rules behind verdicts: each is reached, and a planted wrong direction is caught."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bench.report.claims.claim import (
    Finding,
    Verdict,
    agreed,
    at_least,
    bounded,
    conclude,
    counted,
    doubted,
    separated,
    superior,
    together,
)
from bench.report.claims.medians import median_interval, ratio
from bench.report.claims.training import reached

HOLDS, FAILS, OPEN = Verdict.HOLDS, Verdict.FAILS, Verdict.OPEN


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
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
def test_superior_needs_the_interval_and_the_test_on_one_side(
    low: float, high: float, p: float | None, verdict: Verdict
) -> None:
    assert superior(low, high, p) is verdict


@pytest.mark.parametrize(
    ("low", "high", "beyond", "verdict"),
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
def test_bounded(low: float, high: float, beyond: float | None, verdict: Verdict) -> None:
    assert bounded(low, high, 0.03, beyond) is verdict


def test_at_least() -> None:
    assert at_least(0.95, 0.99, 0.95) is HOLDS
    assert at_least(0.90, 0.949, 0.95) is FAILS
    assert at_least(0.90, 0.95, 0.95) is OPEN


def test_separated_needs_every_seed() -> None:
    assert separated([2.0, 3.0], [1.0, 1.9]) is HOLDS
    assert separated([1.0, 1.9], [2.0, 3.0]) is FAILS
    assert separated([1.0, 3.0], [2.0]) is OPEN
    assert separated([2.0], [2.0]) is OPEN


def test_together_is_refuted_by_one_and_confirmed_by_all() -> None:
    assert together([HOLDS, HOLDS]) is HOLDS
    assert together([HOLDS, OPEN, FAILS]) is FAILS
    assert together([HOLDS, OPEN]) is OPEN
    assert together([]) is Verdict.MISSING
    assert together([HOLDS], lacks=["mma: no training"]) is Verdict.PARTIAL
    assert together([OPEN], lacks=["mma: no training"]) is OPEN
    assert together([FAILS], lacks=["mma: no training"]) is FAILS


def test_readings_of_one_thing_must_agree() -> None:
    assert agreed([HOLDS, HOLDS]) is HOLDS
    assert agreed([FAILS, FAILS]) is FAILS
    assert agreed([HOLDS, FAILS]) is OPEN
    assert agreed([HOLDS, OPEN]) is OPEN


def test_a_doubt_takes_only_a_confirmation() -> None:
    assert doubted(HOLDS, doubt=True) is OPEN
    assert doubted(HOLDS, doubt=False) is HOLDS
    assert doubted(FAILS, doubt=True) is FAILS


def finding(verdict: Verdict, *, decides: bool = True) -> Finding:
    return Finding(what="a vs b", value=0.0, favour=0.0, verdict=verdict, decides=decides)


def test_what_decides_nothing_decides_nothing() -> None:
    beside = finding(FAILS, decides=False)
    assert conclude([finding(HOLDS), beside]).verdict is HOLDS
    assert conclude([beside]).verdict is Verdict.MISSING
    assert conclude([], lacks=["x", "x"]).lacks == ("x",)


def test_counts_in_words() -> None:
    found = [finding(verdict) for verdict in (HOLDS, FAILS, FAILS, OPEN)]
    assert counted(found) == "1 holds, 2 do not, 1 open"
    assert counted([]) == ""


def test_the_median_s_interval_keeps_its_level() -> None:
    assert median_interval([3, 1, 2, 5, 4]) == (0.0, math.inf)  # 2 / 32 is more than 5%
    assert median_interval([3, 1, 2, 5, 4, 6]) == (1, 6)
    assert median_interval([3, 1, 2, 5, 4, 6, 8, 7]) == (1, 8)
    assert median_interval(range(1, 10)) == (2, 8)  # 2 * 10 / 512
    low, high = median_interval(range(1, 101))
    assert (low, high) == (40, 61)  # the table of the sign test: 39 of 100
    generator = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        low, high = median_interval(generator.exponential(size=25).tolist())
        missed += not low <= math.log(2) <= high
    assert missed / 400 < 0.08


def test_ratios_are_of_the_same_images_and_know_zero() -> None:
    a = {0: 2.0, 1: 0.0, 2: 0.0, 3: 1.0, 9: 100.0}
    b = {0: 1.0, 1: 0.0, 2: 1.0, 3: 0.0, 8: 100.0}
    found = ratio(a, b)
    assert (found.n, found.median) == (4, 1.5)  # 2, 1 (a tie), 0, infinity
    assert found.p == 1.0
    assert (found.first, found.second) == (0.5, 0.5)
    sure = ratio(dict.fromkeys(range(8), 2.0), dict.fromkeys(range(8), 1.0))
    assert (sure.low, sure.median, sure.high) == (2.0, 2.0, 2.0)
    assert sure.p == pytest.approx(2 / 256)


def test_an_epoch_is_reached_surely_later_than_perhaps() -> None:
    history = [
        {"epoch": e, "val_robust": v, "n_val": 100} for e, v in enumerate((0.1, 0.42, 0.5, 0.7))
    ]
    found = reached([{"epoch": 0}, *history[1:]], 0.5)
    assert (found.earliest, found.at, found.latest) == (2, 3, 4)
    never = reached(history, 0.9)
    assert math.isinf(never.earliest)
    assert math.isinf(never.at)
