from __future__ import annotations

import time
from fractions import Fraction
from itertools import product
from math import comb, erfc, sqrt

import numpy as np
import pytest

from bench.report.statistics import (
    SMALLEST,
    holm,
    mcnemar,
    mean_difference,
    paired_difference,
    sign_flip,
    wilson,
)


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


def test_wilson_by_hand() -> None:
    # With p = 1/2 the centre is 1/2 and the half width z / (2 sqrt(n + z^2)).
    z = 1.959963984540054
    half = z / (2 * (100 + z * z) ** 0.5)
    assert wilson(50, 100) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-12)


def test_wilson_is_exact_at_its_ends() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_narrows_with_images_and_widens_with_confidence() -> None:
    low, high = wilson(500, 1000)
    assert high - low < wilson(50, 100)[1] - wilson(50, 100)[0]
    assert wilson(500, 1000, confidence=0.99)[0] < low


@pytest.mark.parametrize(("n_correct", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_wilson_refuses_impossible_counts(n_correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="impossible"):
        wilson(n_correct, n)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((54, 0, 0, 0), -0.0664, 0.0664),
    ],
)
def test_paired_difference_equals_published_values(
    counts: tuple[int, int, int, int], low: float, high: float
) -> None:
    assert paired_difference(*counts) == pytest.approx((low, high), abs=5e-5)


def test_paired_difference_holds_its_estimate_and_is_antisymmetric() -> None:
    low, high = paired_difference(40, 15, 2, 43)
    assert low < 0.13 < high
    assert paired_difference(40, 2, 15, 43) == pytest.approx((-high, -low))
    assert paired_difference(0, 0, 0, 0) == (-1.0, 1.0)


def test_paired_difference_uses_the_pairing() -> None:
    """The same two accuracies, once on equal outcomes and once on opposed ones."""
    alike, opposed = paired_difference(50, 5, 0, 45), paired_difference(5, 50, 45, 0)
    assert alike[1] - alike[0] < 0.3 * (opposed[1] - opposed[0])


def test_mean_difference_by_hand() -> None:
    """Bonett and Price: (15 + 1) / 102 - (2 + 1) / 102 -+ 1.96 sqrt((19 - 13^2 / 102) / 102^2)."""
    signs = np.array([1] * 15 + [-1] * 2 + [0] * 83)
    low, high = mean_difference(signs)
    half = 1.959964 * (19 - 13**2 / 102) ** 0.5 / 102
    assert (low, high) == pytest.approx((13 / 102 - half, 13 / 102 + half), abs=1e-6)
    newcombe = paired_difference(40, 15, 2, 43)
    assert (low, high) == pytest.approx(newcombe, abs=0.01)
    shares = mean_difference(signs / 2)
    assert shares[1] - shares[0] < high - low


def test_mean_difference_has_a_width_where_nothing_differs_and_stays_in_range() -> None:
    low, high = mean_difference(np.zeros(50))
    assert -low == high > 0.03
    assert mean_difference(np.ones(3))[1] == 1.0
    assert mean_difference(np.zeros(0)) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [
        (0, 0, 1.0),
        (0, 1, 1.0),
        (0, 5, 2 / 32),
        (5, 0, 2 / 32),
        (3, 3, 1.0),  # not the 1.3125 of twice the tail
        (1, 7, 2 * (1 + 8) / 2**8),
        (5, 15, 0.04138946533203125),  # binomial(20, 1/2): 2 * (1 + 20 + 190 + ... + 15504) / 2^20
        (8, 16, 0.15158963203430176),
    ],
)
def test_mcnemar_is_the_binomial_test(first_only: int, second_only: int, p: float) -> None:
    assert mcnemar(first_only, second_only) == pytest.approx(p, rel=1e-13)


def test_mcnemar_of_many_images_is_the_rounded_fraction() -> None:
    exact = Fraction(2 * sum(comb(2_000, k) for k in range(951)), 2**2_000)
    assert mcnemar(950, 1_050) == pytest.approx(float(exact), rel=1e-10)
    started = time.process_time()
    assert mcnemar(5_200, 4_800) == pytest.approx(6.5935e-5, rel=1e-4)
    assert time.process_time() - started < 1
    assert mcnemar(0, 5_000) == SMALLEST
    with pytest.raises(ValueError, match="-1 and 2 discordant"):
        mcnemar(-1, 2)


def enumerated(differences: list[int]) -> float:
    """The share of all signings whose sum is as far from 0."""
    seen = abs(sum(differences))
    sums = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(differences))
    ]
    return sum(s >= seen for s in sums) / len(sums)


@pytest.mark.parametrize(
    "differences",
    [
        [3, 2, 2, 1, -1, 0, 3, 1],
        [6, -4, 3, 3, 2, -6, 1, 0, 0, 5],
        [-9, 4, -4, -1],
        [2, -3],
        [2, 4, 6, -2, 8, 4, 2],  # a common divisor
        [7, 7, 7, -2],
        [0, 0],
        [],
    ],
    ids=str,
)
def test_sign_flip_counts_every_signing(differences: list[int]) -> None:
    p = enumerated(differences)
    assert sign_flip(differences) == pytest.approx(p, rel=1e-12)
    assert sign_flip([-d for d in differences]) == pytest.approx(p, rel=1e-12)
    assert sign_flip([6 * d for d in differences]) == pytest.approx(p, rel=1e-12)


def test_sign_flip_of_one_seed_is_mcnemar() -> None:
    for first_only, second_only in ((5, 15), (1, 7), (0, 3), (4, 4)):
        differences = np.array([1] * first_only + [-1] * second_only + [0] * 9)
        assert sign_flip(differences) == mcnemar(first_only, second_only)


def test_a_small_p_value_of_many_images_is_exact_and_quick() -> None:
    """Against whole numbers of any size, on the way to a tail that the normal limit misses."""
    n_small, n_large = 3_000, 1_500
    differences = np.array(
        [1] * 2_000 + [-1] * (n_small - 2_000) + [3] * 950 + [-3] * (n_large - 950)
    )
    total, seen = n_small + 3 * n_large, int(differences.sum())
    # pluses: a of the small and b of the large; sums at least as far from 0 on one side
    tails = [1]
    for b in range(n_small):
        tails.append(tails[-1] * (n_small - b) // (b + 1))
    at_least = [0] * (n_small + 2)
    for a in range(n_small, -1, -1):
        at_least[a] = at_least[a + 1] + tails[a]
    needed = (total + seen) // 2
    ways = sum(
        comb(n_large, b) * at_least[min(max(needed - 3 * b, 0), n_small + 1)]
        for b in range(n_large + 1)
    )
    exact = float(Fraction(2 * ways, 2 ** (n_small + n_large)))
    assert 1e-80 < exact < 1e-30
    started = time.process_time()
    assert sign_flip(differences) == pytest.approx(exact, rel=1e-10)
    assert sign_flip(np.array([3] * 4_000 + [1] * 4_000)) == SMALLEST
    assert time.process_time() - started < 2


def test_ten_thousand_images_of_five_seeds_are_quick() -> None:
    g = np.random.default_rng(0)
    hardness = g.beta(0.3, 0.3, 10_000)
    differences = g.binomial(5, hardness) - g.binomial(5, hardness)
    started = time.process_time()
    p = sign_flip(differences)
    assert time.process_time() - started < 5
    z = abs(differences.sum()) / np.sqrt((differences**2).sum())
    assert p == pytest.approx(erfc(z / sqrt(2)), abs=0.02)  # the normal limit
    assert 0.01 < p < 0.99


def test_holm_by_hand() -> None:
    # 4 * 0.005, then 3 * 0.01, 2 * 0.03, 1 * 0.04 raised to the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_with_tests_left_out_never_helps() -> None:
    # as if the two that are left out had the largest p-values: 4 * 0.01, then 3 * 0.02
    assert holm([0.02, 0.01], left_out=2) == pytest.approx([0.06, 0.04])
    p_values = np.random.default_rng(0).uniform(0, 0.2, 12) ** 2
    whole = holm(p_values.tolist())
    for known in ([0, 3, 7], [2, 11], list(range(11))):
        part = holm(p_values[known].tolist(), left_out=12 - len(known))
        assert all(p >= whole[i] - 1e-15 for p, i in zip(part, known, strict=True))


def test_holm_of_equal_p_values_is_bonferroni() -> None:
    assert holm([0.01, 0.01, 0.01]) == pytest.approx([0.03] * 3)
