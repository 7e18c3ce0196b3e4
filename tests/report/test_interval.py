from __future__ import annotations

import numpy as np
import pytest

from bench.report.interval import mean_difference, paired_difference, wilson


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
