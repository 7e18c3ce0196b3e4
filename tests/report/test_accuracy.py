"""Outcomes of images joined over attacks and seeds, against loops over the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.records import load_records
from bench.records.run_folder import RunFolder
from bench.report.accuracy import (
    AccuracyEstimate,
    ImageOutcomes,
    accuracy,
    difference,
    lowest_seen,
    over_seeds,
    paired_comparison,
    restricted,
    worst_case,
)
from bench.report.frame import Outcome, outcomes, results_frame, select
from bench.report.statistics import (
    LEVEL,
    crossed_mean,
    mcnemar,
    mcnemar_interval,
    wilson,
)
from tests.report.made import evaluate, train_run

quick = settings(max_examples=50, deadline=None, derandomize=True)


def made(right: Sequence[int], index: Sequence[int], n: int | None = None) -> ImageOutcomes:
    """Images `index` of the first n, of which `right` are correct."""
    found = np.array(index, dtype=np.int64)
    return ImageOutcomes(
        index=found, correct=np.isin(found, right), n_expected=len(index) if n is None else n
    )


images = st.dictionaries(st.integers(0, 12), st.booleans())


def of(correct: dict[int, bool]) -> ImageOutcomes:
    return made([i for i, right in correct.items() if right], sorted(correct))


def as_dict(found: ImageOutcomes) -> dict[int, bool]:
    return dict(zip(found.index.tolist(), found.correct.tolist(), strict=True))


@quick
@given(st.lists(images, min_size=1, max_size=4))
def test_worst_case_is_the_images_that_survive_every_attack(attacks: list[dict[int, bool]]) -> None:
    joined = worst_case([of(attack) for attack in attacks])
    common = set(attacks[0]).intersection(*attacks)
    assert as_dict(joined) == {i: all(attack[i] for attack in attacks) for i in common}
    assert joined.n_expected == min(map(len, attacks))
    estimate = accuracy(joined)
    if not common:
        assert estimate is None
    else:
        assert estimate is not None
        n_right = int(joined.correct.sum())
        assert (estimate.value, estimate.n) == (n_right / len(common), (len(common),))
        assert (estimate.low, estimate.high) == wilson(n_right, len(common))


@quick
@given(st.lists(images, min_size=1, max_size=4), st.sets(st.integers(0, 14)))
def test_lowest_seen_needs_only_one_attack_on_an_image(
    attacks: list[dict[int, bool]], wanted: set[int]
) -> None:
    joined = lowest_seen([of(attack) for attack in attacks], np.array(sorted(wanted), np.int64))
    seen = {i for attack in attacks for i in attack} & wanted
    assert as_dict(joined) == {i: all(attack.get(i, True) for attack in attacks) for i in seen}
    assert joined.n_expected == len(wanted)


def test_restricted_to_some_images() -> None:
    found = made([0, 2], range(4), n=10)
    assert restricted(found, np.arange(6)) is found
    fewer = restricted(found, np.array([2, 3, 8]))
    assert (as_dict(fewer), fewer.n_expected) == ({2: True, 3: False}, 2)


@quick
@given(images, images)
def test_difference_is_on_the_shared_images_only(a: dict[int, bool], b: dict[int, bool]) -> None:
    gap = difference(of(a), of(b))
    pairs = [(a[i], b[i]) for i in a.keys() & b.keys()]
    one = paired_comparison([of(a)], [of(b)])
    if not pairs:
        assert gap is None
        assert one is None
        return
    assert gap is not None
    first, second = pairs.count((True, False)), pairs.count((False, True))
    assert gap.value == pytest.approx((first - second) / len(pairs))
    assert (gap.low, gap.high) == mcnemar_interval(first, second, len(pairs))
    assert gap.n == (len(pairs),)
    assert one is not None
    assert one.difference == pytest.approx(gap.value)
    assert (one.low, one.high, (one.n,)) == (gap.low, gap.high, gap.n)
    assert (one.first_only, one.second_only) == (first, second)
    assert one.p == mcnemar(first, second)
    assert (one.low > 0 or one.high < 0) == (one.p < LEVEL)


@quick
@given(
    st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=3, max_size=5),
    st.integers(1, 2),
)
def test_several_seeds_are_compared_by_their_shares(rows: list[list[bool]], s1: int) -> None:
    seeds = [of(dict(enumerate(row))) for row in rows]
    first, second = rows[:s1], rows[s1:]
    found = paired_comparison(seeds[:s1], seeds[s1:])
    assert found is not None
    assert found.first == pytest.approx(float(np.mean(first)))
    assert found.second == pytest.approx(float(np.mean(second)))
    values = np.array([[np.subtract(a, b, dtype=float) for b in second] for a in first])
    mean = crossed_mean(values, images=True)
    assert found.p == pytest.approx(mean.p())
    assert (found.low, found.high) == pytest.approx(mean.interval())
    assert (found.low > 0 or found.high < 0) == (found.p < LEVEL)
    assert (found.first_only, found.n) == (None, 8)


def test_over_seeds() -> None:
    one = AccuracyEstimate(value=0.5, low=0.4, high=0.6, n=(10,), n_expected=(10,))
    other = AccuracyEstimate(value=0.7, low=0.6, high=0.8, n=(8,), n_expected=(10,))
    alone = over_seeds([None, one])
    assert alone is not None
    assert (alone.low, alone.high, alone.std) == (0.4, 0.6, None)
    assert over_seeds([None]) is None
    both = over_seeds([one, other])
    assert both is not None
    assert both.value == pytest.approx(0.6)
    assert both.std == pytest.approx(0.02**0.5)
    assert both.low is None
    assert (both.n, both.n_expected) == ((10, 8), (10, 10))


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train_run(tmp_path_factory.mktemp("results"), "madry")


def of_records(run: RunFolder, kind: Outcome = "correct", **where: str) -> ImageOutcomes:
    frame = results_frame(load_records(run.path.parent))
    return outcomes(frame, select(frame, checkpoint="best", eps=8 / 255, **where), kind)


def test_overlapping_evaluations_of_one_attack_count_as_restarts(run: RunFolder) -> None:
    evaluate(run, "pgd-20", [], 50, seed=2, chunks=())
    assert accuracy(of_records(run, attack="pgd-20")) is None
    evaluate(run, "pgd-20", [0, 1, 2], 3, seed=1)
    evaluate(run, "pgd-20", [0, 2, 3], 5)
    evaluate(run, "pgd-20", [4], 5, eps=4 / 255)
    evaluate(run, "pgd-20", [4], 5, checkpoint="last")
    evaluate(run, "cw", [1], 5)
    merged = of_records(run, attack="pgd-20")
    assert as_dict(merged) == {0: True, 1: False, 2: True, 3: True, 4: False}
    assert merged.n_expected == 5


def test_clean_outcomes_come_from_any_attack(run: RunFolder) -> None:
    evaluate(run, "pgd-20", [], 300, clean=0.6)
    evaluate(run, "cw", [], 30, clean=0.6)
    clean = of_records(run, "clean")
    assert len(clean.index) == 300
    assert float(clean.correct.mean()) == pytest.approx(0.6, abs=0.05)


def test_outcomes_whatever_the_clean_ones_exist_only_where_recorded(run: RunFolder) -> None:
    evaluate(run, "pgd-20", [0], 4)
    assert len(of_records(run, "after", attack="pgd-20").index) == 0
    evaluate(run, "transfer", [], 4, clean=0.0, after=1.0)
    assert as_dict(of_records(run, "after", attack="transfer")) == dict.fromkeys(range(4), True)
