"""Our own statistics against formulas written out, scipy, statsmodels and full enumeration."""

from __future__ import annotations

from fractions import Fraction
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bench.report.statistics import (
    SMALLEST,
    crossed_mean,
    holm,
    mcnemar,
    mcnemar_interval,
    mean_difference,
    wilson,
)

Z = 1.959963984540054
counts = st.integers(0, 60)
quick = settings(max_examples=50, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    ("n_correct", "n", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(n_correct: int, n: int, low: float, high: float) -> None:
    assert wilson(n_correct, n) == pytest.approx((low, high), abs=5e-5)


@quick
@given(counts, counts)
def test_wilson_is_the_formula_and_exact_at_its_ends(n_correct: int, n_wrong: int) -> None:
    n = n_correct + n_wrong
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="impossible"):
        wilson(n + 1, n)
    if n == 0:
        return
    low, high = wilson(n_correct, n)
    p = n_correct / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    assert (low, high) == pytest.approx((centre - half, centre + half), rel=1e-10, abs=1e-12)
    assert (low == 0.0) == (n_correct == 0)
    assert (high == 1.0) == (n_wrong == 0)
    wide = wilson(n_correct, n, confidence=0.99)
    assert wide[0] <= low <= p <= high <= wide[1]


def test_mcnemar_interval_is_exact_where_only_one_share_is_unknown() -> None:
    """All images discordant: Clopper and Pearson's limits of the first's share; none: of theirs."""
    for first, second in ((9, 3), (0, 1), (20, 20)):
        ci = stats.binomtest(first, first + second).proportion_ci()
        expected = 2 * ci.low - 1, 2 * ci.high - 1
        found = mcnemar_interval(first, second, first + second)
        assert found == pytest.approx(expected, abs=1e-9)
    high = stats.binomtest(0, 54).proportion_ci().high
    assert mcnemar_interval(0, 0, 54) == pytest.approx((-high, high), rel=1e-9)
    assert mcnemar_interval(0, 0, 0) == (-1.0, 1.0)


@pytest.mark.parametrize(("b", "c", "n"), [(12, 2, 50), (5, 3, 100), (15, 0, 100), (1, 3, 400)])
def test_mcnemar_interval_is_fay_and_lumbard_s(b: int, c: int, n: int) -> None:
    """As they define it: quantiles of products of draws, the wider one of two distributions."""
    g, m, draws = np.random.default_rng(0), b + c, 500_000
    shares = [g.beta(m, n - m + 1, draws), g.beta(m + 1, n - m, draws)]
    lower = 2 * (g.beta(b, c + 1, draws) if b else np.zeros(draws)) - 1
    upper = 2 * (g.beta(b + 1, c, draws) if c else np.ones(draws)) - 1
    low = min(float(np.quantile(s * lower, 0.025)) for s in shares)
    high = max(float(np.quantile(s * upper, 0.975)) for s in shares)
    assert mcnemar_interval(b, c, n) == pytest.approx((low, high), abs=1e-3)


@quick
@given(counts, counts, counts, st.sampled_from([0.9, 0.95, 0.99]))
def test_mcnemar_interval_excludes_0_exactly_where_mcnemar_rejects(
    b: int, c: int, same: int, confidence: float
) -> None:
    n = b + c + same
    low, high = mcnemar_interval(b, c, n, confidence)
    assert (low > 0 or high < 0) == (mcnemar(b, c) < 1 - confidence)
    assert mcnemar_interval(c, b, n, confidence) == (-high, -low)
    assert -1 <= low < high <= 1
    if n:
        assert low <= (b - c) / n <= high


@pytest.mark.parametrize("n", [4, 9, 14])
def test_mcnemar_interval_covers_the_difference(n: int) -> None:
    """By enumeration of every outcome, for a grid of true shares of discordant images."""
    q = np.linspace(0, 1, 21)
    discordant, own = (values.ravel() for values in np.meshgrid(q, q))
    difference, covered = discordant * (2 * own - 1), np.zeros(len(discordant))
    for m in range(n + 1):
        for b in range(m + 1):
            low, high = mcnemar_interval(b, m - b, n)
            inside = (low - 1e-9 <= difference) & (difference <= high + 1e-9)
            chance = stats.binom.pmf(m, n, discordant) * stats.binom.pmf(b, m, own)
            covered += np.where(inside, chance, 0)
    assert covered.min() >= 0.95


@quick
@given(counts, counts, counts)
def test_mean_difference_of_one_seed_is_bonett_and_price_s(b: int, c: int, same: int) -> None:
    low, high = mean_difference(np.array([1.0] * b + [-1.0] * c + [0.0] * same))
    n = b + c + same + 2
    centre, p12, p21 = (b - c) / n, (b + 1) / n, (c + 1) / n
    half = Z * sqrt((p12 + p21 - (p12 - p21) ** 2) / n)
    expected = max(-1.0, centre - half), min(1.0, centre + half)
    assert (low, high) == pytest.approx(expected, abs=1e-10)


def test_mean_difference_has_a_width_where_nothing_differs_and_narrows_with_shares() -> None:
    low, high = mean_difference(np.zeros(50))
    assert -low == high > 0.03
    assert mean_difference(np.zeros(0)) == (-1.0, 1.0)
    signs = np.array([1] * 15 + [-1] * 2 + [0] * 83)
    whole, shares = mean_difference(signs), mean_difference(signs / 2)
    assert whole == pytest.approx(mcnemar_interval(15, 2, 100), abs=0.02)
    assert shares[1] - shares[0] < whole[1] - whole[0]


@quick
@given(counts, counts)
def test_mcnemar_is_the_binomial_test(first_only: int, second_only: int) -> None:
    n = first_only + second_only
    expected = stats.binomtest(first_only, n).pvalue if n else 1.0
    assert mcnemar(first_only, second_only) == pytest.approx(expected, rel=1e-10)


def test_mcnemar_of_many_images() -> None:
    exact = Fraction(2 * sum(comb(2_000, k) for k in range(951)), 2**2_000)
    assert mcnemar(950, 1_050) == pytest.approx(float(exact), rel=1e-10)
    assert mcnemar(0, 5_000) == SMALLEST
    assert mcnemar(3, 3) == 1.0  # not the 1.3125 of twice the tail
    with pytest.raises(ValueError, match="-1 and 2 discordant"):
        mcnemar(-1, 2)


def test_holm_by_hand() -> None:
    # 4 * 0.005, then 3 * 0.01, 2 * 0.03, 1 * 0.04 raised to the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # as if the two that are left out had the largest p-values: 4 * 0.01, then 3 * 0.02
    assert holm([0.02, 0.01], left_out=2) == pytest.approx([0.06, 0.04])
    assert holm([0.01, 0.01, 0.01]) == pytest.approx([0.03] * 3)  # equal ones: Bonferroni
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)  # multipletests collects garbage
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.lists(st.floats(0, 1), max_size=4))
def test_holm_is_statsmodels_and_tests_left_out_never_help(
    known: list[float], unknown: list[float]
) -> None:
    whole = multipletests([*known, *unknown], method="holm")[1]
    part = holm(known, left_out=len(unknown))
    assert all(p >= w - 1e-12 for p, w in zip(part, whole, strict=False))
    assert holm([*known, *unknown]) == pytest.approx(list(whole), rel=1e-12)


def _crossed(rng: np.random.Generator, spread: float, n: int = 400) -> np.ndarray:
    """Differences of two methods of three seeds each with one accuracy, which varies by seed."""
    hardness = rng.uniform(size=n)
    sides = (
        np.array([hardness < 0.6 + shift for shift in rng.normal(0, spread, 3)], int)
        for _ in range(2)
    )
    first, second = sides
    differences: np.ndarray = first[:, None] - second[None]
    return differences


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1])
def test_the_test_over_seeds_and_images_keeps_its_level(spread: float) -> None:
    """A test of the images alone rejects equal methods whenever their seeds differ."""
    rng = np.random.default_rng(0)
    samples = [_crossed(rng, spread) for _ in range(400)]
    share = np.mean([crossed_mean(one, images=True).p() < 0.05 for one in samples])
    assert share <= 0.07
    if spread == 0.1:
        images_only = [
            crossed_mean(one.mean((0, 1), keepdims=True), images=True) for one in samples
        ]
        assert np.mean([mean.p() < 0.05 for mean in images_only]) > 0.5


def test_the_crossed_mean_by_hand() -> None:
    values = np.array([[0.1, 0.3], [0.5, 0.7]])  # two seeds, two images
    found = crossed_mean(values, images=True)
    seeds = np.var([0.2, 0.6], ddof=1) / 2
    images = np.var([0.3, 0.5, -1.0, 1.0], ddof=1) / 4
    assert found.value == pytest.approx(0.4)
    assert found.error == pytest.approx(sqrt(seeds + images))
    assert found.freedom == pytest.approx((seeds + images) ** 2 / (seeds**2 + images**2 / 3))
    low, high = stats.t.interval(0.95, found.freedom, 0.4, found.error)
    assert found.interval() == pytest.approx((low, high))
    assert found.p(0.1) == pytest.approx(2 * stats.t.sf(0.3 / found.error, found.freedom))
    assert crossed_mean(np.array([[1.0], [3.0]]), images=False).freedom == 1
    equal = crossed_mean(np.array([2.0, 2.0]), images=False)
    assert (equal.p(2.0), equal.p(1.0)) == (1.0, SMALLEST)
    # whole epochs that agree over the seeds do not make their mean certain
    assert crossed_mean(np.full(3, 2.0), images=False, rounding=1.0).error == pytest.approx(1 / 6)


def test_the_smallest_detectable_difference_is_found_in_four_of_five_samples() -> None:
    rng = np.random.default_rng(1)
    n, discordant, level = 1000, 0.1, 0.05 / 14
    ties = np.zeros(n)
    ties[: int(n * discordant)] = np.tile([1.0, -1.0], int(n * discordant / 2))
    target = crossed_mean(ties, images=True).detectable(level)
    assert 0.03 < target < 0.04
    chances = [(discordant + target) / 2, (discordant - target) / 2, 1 - discordant]
    counts = rng.multinomial(n, chances, 400)
    power = np.mean([mcnemar(int(a), int(b)) < level for a, b, _ in counts])
    assert 0.72 < power < 0.88
