"""Accuracies in which every class counts the same, where the classes of a table are unequal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from bench.records import EvaluationRecord
from bench.report.aggregate import CORE, Row, Section, evaluations_of, in_table
from bench.report.units import percent

UNEQUAL = 1.5
"""Images of the largest class to those of the smallest above which the figures are shown."""
BALANCED = (
    "Class-balanced accuracy in percent, the mean of the classes' accuracies, since the largest "
    f"class has over {UNEQUAL:g} times the smallest one's images:"
)


def balanced(section: Section) -> list[str]:
    """A line for each row that was attacked, or none where the classes are about equal."""
    return [line for row in section.rows if (line := _line(row, section))]


def _line(row: Row, section: Section) -> str:
    shown = []
    for attack in ("clean", *CORE):
        found = [
            evaluation
            for run in row.group.runs
            for evaluation in evaluations_of(run, row.checkpoint, section.setting.norm)
            if evaluation.spec.attack == attack
            and in_table(evaluation, section.setting)
            and _unequal(evaluation)
        ]
        if found:
            shown.append(f"{attack} {percent(_mean(found))}")
    where = f"{row.group.label} ({row.checkpoint})"
    return f"{where}: {', '.join(shown)}" if shown else ""


def _unequal(evaluation: EvaluationRecord) -> bool:
    label = evaluation.label
    if label is None or not len(label):
        return False
    counts = np.unique(label, return_counts=True)[1]
    return bool(counts.max() > UNEQUAL * counts.min())


def _mean(found: Sequence[EvaluationRecord]) -> float:
    """Over seeds."""
    values = [e.balanced_accuracy(clean=e.spec.attack == "clean") for e in found]
    return fmean(value for value in values if value is not None)
