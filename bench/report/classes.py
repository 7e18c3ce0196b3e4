"""Accuracy of each class: a mean over images can hide a class that an attack breaks whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.records import RunRecord
from bench.report.aggregate import SPLIT, Row, Section, labels_of
from bench.report.groups import Setting
from bench.report.joins import Cell, Flags, accuracy, over_seeds, restricted, worst_case
from bench.report.scored import CLEAN, Scored, scored


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One method's best checkpoint, class by class."""

    label: str
    checkpoint: str
    clean: Mapping[int, Cell]
    robust: Mapping[int, Cell]
    """The worst case of the method's row in Table 3: over its attacks, on its images."""
    attacks: tuple[str, ...]
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The methods of one setting, class by class."""

    setting: Setting
    rows: tuple[ClassRow, ...]
    unlabelled: tuple[str, ...]
    """Methods that were attacked by a version that kept no labels."""

    @property
    def classes(self) -> list[int]:
        """Those that any image belongs to."""
        return sorted({k for row in self.rows for k in row.clean})


def classes(section: Section) -> Classes:
    """Of every method that was evaluated; those whose records have no labels are named."""
    labels = labels_of(section.groups, section.setting)
    rows, unlabelled = [], []
    for row in section.rows:
        if not row.evaluated or row.checkpoint == "last":
            continue
        found = scored(row.group, section.setting, labels)
        if not found.runs:
            continue
        made = _class_row(row, found)
        rows += [made] if made else []
        unlabelled += [] if made else [row.group.label]
    return Classes(setting=section.setting, rows=tuple(rows), unlabelled=tuple(unlabelled))


def _class_row(row: Row, found: Scored) -> ClassRow | None:
    """None where an image has no label."""
    clean, robust = [], []
    for run, by_label in zip(found.runs, found.survivors, strict=True):
        known = _labels(run)
        if not np.isin(by_label[CLEAN].index, known[0]).all():
            return None
        clean.append(_by_class(by_label[CLEAN], known))
        if row.worst_over and all(name in by_label for name in row.worst_over):
            joint = worst_case([by_label[name] for name in row.worst_over])
            robust.append(_by_class(restricted(joint, row.index), known))
    return ClassRow(
        label=found.label,
        checkpoint=found.checkpoint,
        clean=_cells(clean),
        robust=_cells(robust),
        attacks=row.worst_over,
        runs=found.runs,
    )


def _labels(run: RunRecord) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the test images whose class is on record, ascending, and their classes."""
    parts = [
        (e.index, e.label)
        for e in run.evaluations
        if e.spec.split == SPLIT and e.label is not None and len(e.label)
    ]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    index, first = np.unique(np.concatenate([index for index, _ in parts]), return_index=True)
    return index, np.concatenate([label for _, label in parts])[first]


def _by_class(flags: Flags, known: tuple[np.ndarray, np.ndarray]) -> dict[int, Flags]:
    label = known[1][np.searchsorted(known[0], flags.index)]
    return {
        int(k): Flags(
            index=flags.index[label == k],
            survived=flags.survived[label == k],
            n_expected=int((label == k).sum()),
        )
        for k in np.unique(label)
    }


def _cells(seeds: Sequence[Mapping[int, Flags]]) -> dict[int, Cell]:
    """Class -> its accuracy over the seeds."""
    there = sorted({k for seed in seeds for k in seed})
    return {k: over_seeds([accuracy(seed[k]) for seed in seeds if k in seed], 0) for k in there}
