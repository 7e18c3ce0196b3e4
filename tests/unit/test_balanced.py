"""Figures in which each class counts the same, from the labels that evaluations keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.folder import RunFolder
from bench.records import Chunk, EvaluationRecord, load_records
from bench.spec import EvalSpec
from tests.unit.test_spec import SPEC

EVAL = EvalSpec(checkpoint="best", attack="pgd-20", eps=0.2, n_examples=300, data_sha256="cd")


def chunk(first: int, labels: Sequence[int] | None, survived: Sequence[int]) -> Chunk:
    """Images from `first` on, all of them clean-correct but those of class 2."""
    n = len(survived)
    label = None if labels is None else np.array(labels, dtype=np.int64)
    clean = np.ones(n, dtype=bool) if label is None else label != 2
    flags = np.array(survived, dtype=bool)
    broken = np.where(flags, -1, 0).astype(np.int8)
    index = np.arange(first, first + n)
    return Chunk(index, clean, flags, broken, ("pgd-20",), 1.0, label=label)


def stored(folder: Path, *chunks: Chunk) -> EvaluationRecord:
    run = RunFolder(folder, SPEC.run_id)
    run.write_spec(SPEC, {}, {})
    for number, part in enumerate(chunks):
        run.evaluation(EVAL).write_chunk(number, part)
    (record,) = load_records(folder)[0].evaluations
    return record


def test_labels_come_back_and_every_class_counts_the_same(tmp_path: Path) -> None:
    # class 0: 8 of 8 and 1 of 2; class 1: 0 of 1; class 2: 0 of 1; class 5: 1 of 2
    found = stored(
        tmp_path,
        chunk(0, [0] * 8 + [1], [1] * 8 + [0]),
        chunk(256, [0, 5, 0, 2, 5], [1, 0, 0, 0, 1]),
    )
    assert found.label is not None
    assert found.label.tolist() == [0] * 8 + [1, 0, 5, 0, 2, 5]
    assert found.class_accuracies() == {0: 0.9, 1: 0.0, 2: 0.0, 5: 0.5}
    assert found.balanced_accuracy() == pytest.approx((0.9 + 0.5) / 4)
    assert found.n_correct / found.n_examples == 10 / 14
    assert found.class_accuracies(clean=True) == {0: 1.0, 1: 1.0, 2: 0.0, 5: 1.0}
    assert found.balanced_accuracy(clean=True) == 0.75
    frame = load_records(tmp_path).to_frame()
    assert frame.balanced_accuracy.tolist() == [pytest.approx(0.35)]


@pytest.mark.parametrize("without", ["all", "one"])
def test_records_without_labels_stay_readable(without: str, tmp_path: Path) -> None:
    labels = None if without == "all" else [0, 1]
    found = stored(tmp_path, chunk(0, labels, [1, 0]), chunk(256, None, [1, 1]))
    assert found.survived.tolist() == [True, False, True, True]
    assert found.label is None
    assert found.class_accuracies() is None
    assert found.balanced_accuracy() is None
    assert load_records(tmp_path).to_frame().balanced_accuracy.isna().all()


def test_an_evaluation_without_images_has_no_accuracy() -> None:
    empty = EvaluationRecord(eval_id="e", spec=EVAL, chunks=())
    assert empty.class_accuracies() == {}
    assert empty.balanced_accuracy() is None
