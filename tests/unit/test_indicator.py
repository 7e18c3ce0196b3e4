"""The limits of the checks' figures against scipy and full enumeration, and the three states."""

import math

import numpy as np
import pytest
from scipy import stats

from bench.indicator import Indicator, lower_limit


@pytest.mark.parametrize(("k", "n"), [(1, 10), (5, 97), (6, 90), (10, 10), (150, 1000)])
@pytest.mark.parametrize("level", [0.05, 0.05 / 30])
def test_the_limit_of_a_share_is_that_of_clopper_and_pearson(k: int, n: int, level: float) -> None:
    exact = stats.beta.ppf(level, k, n - k + 1)
    assert lower_limit(k, n, None, level) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("difference", [0.0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("lost", [0.0, 0.05, 0.25])
def test_the_limit_of_a_paired_difference_exceeds_the_true_one_in_at_most_5_percent_of_samples(
    difference: float, lost: float
) -> None:
    n, missed, gained = 25, 0.0, lost + difference
    for down in range(n + 1):
        ups = np.arange(n - down + 1)
        counts = np.stack([ups, np.full_like(ups, down), n - down - ups], 1)
        chances = stats.multinomial.pmf(counts, n, [gained, lost, 1 - gained - lost])
        missed += sum(
            chance
            for up, chance in zip(ups.tolist(), chances, strict=True)
            if chance > 1e-8 and lower_limit(up - down, n, down, 0.05) > difference + 1e-9
        )
    assert missed <= 0.05


def test_images_that_speak_against_a_difference_and_more_tries_lower_its_limit() -> None:
    limits = [lower_limit(30, 100, lost, 0.05) for lost in (0, 10, 30)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] < limits[0] < 0.3
    first, best = (Indicator("", 0.3, 0.1, 100, 5, tries).limit for tries in (1, 30))
    assert first is not None
    assert best is not None
    assert best < first


@pytest.mark.parametrize(
    ("value", "threshold", "n", "state"),
    [
        (0.1 + 0.2, 0.3, 0, "pass"),  # rounding
        (0.87 - 0.85, 2 / 100, 100, "pass"),
        (-1.0, 0.0, 0, "pass"),
        (5 / 97, 0.05, 97, "watch"),
        (10 / 97, 0.05, 97, "alarm"),
        (500 / 9700, 0.05, 9700, "watch"),
        (0.3 + 1 / 10_000, 0.3, 0, "alarm"),  # a fact has no sampling error
        (0.9, 0.3, None, "watch"),  # a record that does not say how many images
        (math.nan, 0.3, 0, "alarm"),
        (math.nan, 0.3, 97, "alarm"),
        (math.inf, 0.3, 97, "alarm"),
    ],
)
def test_above_the_threshold_only_evidence_makes_an_alarm(
    value: float, threshold: float, n: int | None, state: str
) -> None:
    found = Indicator("a", value, threshold, n)
    assert (found.state, found.alarm) == (state, state == "alarm")


def test_a_mean_is_a_share_of_the_largest_value_and_may_be_fractional() -> None:
    assert Indicator("FOSC", 1.0, 0.5, 40, top=2.0).limit == pytest.approx(
        2 * lower_limit(20, 40, None, 0.05)
    )
    assert Indicator("", 0.139, 0.0, 100).limit == lower_limit(13, 100, None, 0.05)
