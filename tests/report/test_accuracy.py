from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.records import load_records
from bench.report.accuracy import (
    ImageOutcomes,
    SeedEstimate,
    accuracy,
    difference,
    lowest_seen,
    over_seeds,
    restricted,
    worst_case,
)
from bench.report.frame import results_frame
from bench.report.select import outcomes, select
from tests.report.made import evaluate, train_run


def flags(correct: Sequence[int], index: Sequence[int], n: int | None = None) -> ImageOutcomes:
    """The images `index`, of which some are correct; n images are expected."""
    return ImageOutcomes(
        index=np.array(index, dtype=np.int64),
        correct=np.isin(index, correct),
        n_expected=len(index) if n is None else n,
    )


def test_worst_case_by_hand() -> None:
    pgd = flags([0, 1, 2, 3, 7], range(8))
    cw = flags([0, 1, 3, 4], range(6))
    autoattack = flags([1, 2, 3], range(4))
    joined = worst_case([pgd, cw, autoattack])
    assert joined.index.tolist() == [0, 1, 2, 3]
    assert joined.correct.tolist() == [False, True, False, True]
    estimate = accuracy(joined)
    assert estimate is not None
    assert (estimate.value, estimate.n, estimate.n_expected) == (0.5, 4, 4)


def test_worst_case_of_one_attack_is_that_attack() -> None:
    assert worst_case([flags([0, 2], range(4))]).correct.tolist() == [True, False, True, False]


def test_lowest_seen_by_hand() -> None:
    pgd, cw = flags([0, 1, 2, 3, 7], range(8)), flags([1, 5], [1, 2, 5])
    joined = lowest_seen([pgd, cw], np.arange(2, 10))
    assert joined.index.tolist() == [2, 3, 4, 5, 6, 7]  # nothing was run on 8 and 9
    assert joined.correct.tolist() == [False, True, False, False, False, True]
    assert joined.n_expected == 8


def test_restricted_to_some_images() -> None:
    whole = flags([0, 2], range(4), n=10)
    assert restricted(whole, np.arange(6)) is whole
    fewer = restricted(whole, np.array([2, 3, 8]))
    assert (fewer.index.tolist(), fewer.correct.tolist()) == ([2, 3], [True, False])
    assert fewer.n_expected == 2


def test_difference_is_on_the_shared_images_only() -> None:
    # Image 5 onwards would make PGD look worse than it is on the images of AutoAttack.
    pgd = flags([0, 1, 2, 3], range(10))
    autoattack = flags([1, 3, 4], range(5))
    gap = difference(pgd, autoattack)
    assert gap is not None
    assert gap.value == pytest.approx((4 - 3) / 5)
    assert gap.n == gap.n_expected == 5
    assert gap.low < gap.value < gap.high


def test_without_shared_images_there_is_no_number() -> None:
    first, second = flags([0], [0, 1], n=4), flags([2], [2, 3], n=4)
    assert difference(first, second) is None
    assert accuracy(worst_case([first, second])) is None
    assert over_seeds([None], 4).value is None
    assert over_seeds([None], 4).n_expected == (4,)


def test_overlapping_evaluations_of_one_attack_count_as_restarts(tmp_path: Path) -> None:
    run = train_run(tmp_path, "madry")
    evaluate(run, "pgd-20", [0, 1, 2], 3, seed=1)
    evaluate(run, "pgd-20", [0, 2, 3], 5)
    evaluate(run, "pgd-20", [], 300, chunks=[])  # no image yet
    evaluate(run, "pgd-20", [4], 5, eps=0.2)
    frame = results_frame(load_records(tmp_path))
    merged = outcomes(frame, select(frame, attack="pgd-20", eps=8 / 255))
    assert merged.index.tolist() == [0, 1, 2, 3, 4]
    assert merged.correct.tolist() == [True, False, True, True, False]
    assert merged.n_expected == 300
    nothing = outcomes(frame, select(frame, attack="cw"))
    assert accuracy(nothing) is None


def test_clean_outcomes_come_from_any_attack(tmp_path: Path) -> None:
    run = train_run(tmp_path, "madry")
    for attack, n in (("pgd-20", 10), ("cw", 3)):
        evaluate(run, attack, [], n, clean=0.5)
    frame = results_frame(load_records(tmp_path))
    assert len(select(frame, attack="clean")) == 0
    clean = outcomes(frame, select(frame), "clean")
    expected = [i * 7919 % 10007 < 0.5 * 10007 for i in range(10)]
    assert clean.correct.tolist() == expected


def test_over_seeds() -> None:
    one = SeedEstimate(value=0.5, low=0.4, high=0.6, n=10, n_expected=10)
    other = SeedEstimate(value=0.7, low=0.6, high=0.8, n=8, n_expected=10)
    alone = over_seeds([one], 10)
    assert (alone.low, alone.high, alone.std) == (0.4, 0.6, None)
    both = over_seeds([one, other, None], 10)
    assert both.value == pytest.approx(0.6)
    assert both.std == pytest.approx(0.02**0.5)
    assert both.low is None
    assert (both.n, both.n_expected) == ((10, 8), (10, 10))
