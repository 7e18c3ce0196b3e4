from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bench.records import Chunk, EvaluationRecord
from bench.report.joins import (
    Estimate,
    accuracy,
    clean_flags,
    difference,
    lowest_seen,
    over_seeds,
    restricted,
    survivors,
    worst_case,
)
from bench.spec import EvalSpec


def record(
    survived: Sequence[int], index: Sequence[int], n: int | None = None, seed: int = 0
) -> EvaluationRecord:
    """Images `index` of the first n, of which `survived` survive; all are clean-correct but 9."""
    flags = np.isin(index, survived)
    chunk = Chunk(
        index=np.array(index, dtype=np.int64),
        clean=np.array([i != 9 for i in index], dtype=bool),
        survived=flags,
        broken_by=np.where(flags, -1, 0).astype(np.int8),
        parts=("pgd",),
        seconds=0.0,
    )
    spec = EvalSpec(
        checkpoint="best",
        attack="pgd-20",
        eps=0.1,
        n_examples=len(index) if n is None else n,
        data_sha256="d",
        seed=seed,
    )
    return EvaluationRecord(eval_id="e", spec=spec, chunks=(chunk,) if len(index) else ())


def test_worst_case_by_hand() -> None:
    pgd = survivors([record([0, 1, 2, 3, 7], range(8))])
    cw = survivors([record([0, 1, 3, 4], range(6))])
    autoattack = survivors([record([1, 2, 3], range(4))])
    joined = worst_case([pgd, cw, autoattack])
    assert joined.index.tolist() == [0, 1, 2, 3]
    assert joined.survived.tolist() == [False, True, False, True]
    estimate = accuracy(joined)
    assert estimate is not None
    assert (estimate.value, estimate.n, estimate.n_expected) == (0.5, 4, 4)


def test_worst_case_of_one_attack_is_that_attack() -> None:
    flags = survivors([record([0, 2], range(4))])
    assert worst_case([flags]).survived.tolist() == [True, False, True, False]


def test_lowest_seen_by_hand() -> None:
    pgd, cw = survivors([record([0, 1, 2, 3, 7], range(8))]), survivors([record([1, 5], [1, 2, 5])])
    joined = lowest_seen([pgd, cw], np.arange(2, 10))
    assert joined.index.tolist() == [2, 3, 4, 5, 6, 7]  # nothing was run on 8 and 9
    assert joined.survived.tolist() == [False, True, False, False, False, True]
    assert joined.n_expected == 8


def test_restricted_to_some_images() -> None:
    flags = survivors([record([0, 2], range(4), n=10)])
    assert restricted(flags, np.arange(6)) is flags
    fewer = restricted(flags, np.array([2, 3, 8]))
    assert (fewer.index.tolist(), fewer.survived.tolist()) == ([2, 3], [True, False])
    assert fewer.n_expected == 2


def test_difference_is_on_the_shared_images_only() -> None:
    # Image 5 onwards would make PGD look worse than it is on the images of AutoAttack.
    pgd = survivors([record([0, 1, 2, 3], range(10))])
    autoattack = survivors([record([1, 3, 4], range(5))])
    gap = difference(pgd, autoattack)
    assert gap is not None
    assert gap.value == pytest.approx((4 - 3) / 5)
    assert gap.n == gap.n_expected == 5
    assert gap.low < gap.value < gap.high


def test_without_shared_images_there_is_no_number() -> None:
    first, second = survivors([record([0], [0, 1], n=4)]), survivors([record([2], [2, 3], n=4)])
    assert difference(first, second) is None
    assert accuracy(worst_case([first, second])) is None
    assert over_seeds([None], 4).value is None
    assert over_seeds([None], 4).n_expected == (4,)


def test_overlapping_evaluations_of_one_attack_count_as_restarts() -> None:
    small = record([0, 1, 2], range(3), seed=1)
    large = record([0, 2, 3], range(5))
    merged = survivors([small, large])
    assert merged.index.tolist() == [0, 1, 2, 3, 4]
    assert merged.survived.tolist() == [True, False, True, True, False]
    assert merged.n_expected == 5


def test_clean_flags_come_from_any_attack() -> None:
    merged = clean_flags([record([], range(10)), record([], range(3))])
    assert merged.survived.tolist() == [True] * 9 + [False]


def test_an_evaluation_without_an_image_yet() -> None:
    empty = survivors([record([], [], n=50)])
    assert accuracy(empty) is None
    assert survivors([record([], [], n=50), record([0], range(2))]).survived.tolist() == [
        True,
        False,
    ]


def test_over_seeds() -> None:
    one = Estimate(value=0.5, low=0.4, high=0.6, n=10, n_expected=10)
    other = Estimate(value=0.7, low=0.6, high=0.8, n=8, n_expected=10)
    alone = over_seeds([one], 10)
    assert (alone.low, alone.high, alone.std) == (0.4, 0.6, None)
    both = over_seeds([one, other, None], 10)
    assert both.value == pytest.approx(0.6)
    assert both.std == pytest.approx(0.02**0.5)
    assert both.low is None
    assert (both.n, both.n_expected) == ((10, 8), (10, 10))
