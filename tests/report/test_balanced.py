from __future__ import annotations

from pathlib import Path

from bench.records import load_records
from bench.report.aggregate import sections
from bench.report.balanced import balanced
from tests.report.made import evaluate, train_run


def test_each_class_counts_the_same_where_classes_are_unequal(tmp_path: Path) -> None:
    folder = train_run(tmp_path, "madry")
    labels = [0] * 8 + [1] * 2
    # all of class 0 and none of class 1 survive: 80% of images, half of the balanced accuracy
    evaluate(folder, "pgd-20", range(8), 10, labels=labels)
    evaluate(folder, "clean", range(10), 10, labels=labels)
    (section,) = sections(load_records(tmp_path))
    assert balanced(section) == ["madry (best): clean 100.0, pgd-20 50.0"]


def test_nothing_is_said_of_equal_classes_or_without_labels(tmp_path: Path) -> None:
    folder = train_run(tmp_path, "madry")
    evaluate(folder, "pgd-20", range(4), 10, labels=[0, 1] * 5)
    evaluate(train_run(tmp_path, "trades"), "pgd-20", range(4), 10)
    (section,) = sections(load_records(tmp_path))
    assert balanced(section) == []
