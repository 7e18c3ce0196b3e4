"""Accuracy of each class: a mean over images can hide a class that an attack breaks completely."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import pandas as pd

from bench.records import RunRecord
from bench.report.accuracy import (
    AccuracyEstimate,
    ImageOutcomes,
    mean_accuracy,
    restricted,
    worst_case,
)
from bench.report.columns import accuracy_cells, percent_or_missing
from bench.report.export import Table
from bench.report.formatting import MISSING, span
from bench.report.groups import Setting
from bench.report.rows import SPLIT, Section, TableRow

LEAST = 20
"""Images of a class in a table."""
_PARTS = ("", "_low", "_high", "_std", "_n", "_n_seeds")


@dataclass(frozen=True, kw_only=True)
class ClassAccuracies:
    """One method's best checkpoint, class by class; empty where an image's class is unknown."""

    row: TableRow
    clean: Mapping[int, AccuracyEstimate] = field(default_factory=dict)
    robust: Mapping[int, AccuracyEstimate] = field(default_factory=dict)
    """The worst case of the method's row in Table 3: over its attacks, on its images."""

    @property
    def label(self) -> str:
        return self.row.group.label


def per_class(section: Section) -> list[ClassAccuracies]:
    """Return the accuracies of every evaluated method."""
    return [_of_row(row) for row in section.main_rows if row.seeds]


def _of_row(row: TableRow) -> ClassAccuracies:
    clean, robust = [], []
    for seed in row.seeds:
        labels = _labels(seed.run)
        if not np.isin(seed.clean.index, labels.index).all():
            return ClassAccuracies(row=row)
        clean.append(_by_class(seed.clean, labels))
        if row.worst_over and all(name in seed.attacks for name in row.worst_over):
            joint = worst_case([seed.attacks[name] for name in row.worst_over])
            robust.append(_by_class(restricted(joint, row.index), labels))
    return ClassAccuracies(row=row, clean=_estimates(clean), robust=_estimates(robust))


def _labels(run: RunRecord) -> pd.Series:
    """Return the class of each test image where it is on record, by the image's index."""
    own = [e for e in run.evaluations if e.spec.split == SPLIT and e.label is not None]
    found: pd.Series = pd.concat(
        [pd.Series(dtype=int), *(pd.Series(e.label, e.index) for e in own)]
    )
    return found.groupby(level=0).first()


def _by_class(found: ImageOutcomes, labels: pd.Series) -> dict[int, ImageOutcomes]:
    label = labels.loc[found.index].to_numpy()
    return {int(k): restricted(found, found.index[label == k]) for k in np.unique(label)}


def _estimates(seeds: Sequence[Mapping[int, ImageOutcomes]]) -> dict[int, AccuracyEstimate]:
    classes = sorted({k for seed in seeds for k in seed})
    found = {k: mean_accuracy(seed[k] for seed in seeds if k in seed) for k in classes}
    return {k: estimate for k, estimate in found.items() if estimate}


def class_table(methods: Sequence[ClassAccuracies]) -> Table:
    """Return a row per class, a column per method: `clean / robust`."""
    known = [method for method in methods if method.clean]
    classes = sorted({k for method in known for k in method.clean})
    lines = [
        [str(k), _n(known, k), *(_pair(method, min, [k]) for method in known)] for k in classes
    ]
    for name, of in (("mean", fmean), ("lowest", min)):
        lines.append([name, "", *(_pair(method, of, classes) for method in known)])
    heads = ["Class", "n (robust)", *(method.row.group.title for method in known)]
    return Table(text=pd.DataFrame(lines, columns=heads, dtype=object))


def enough(methods: Sequence[ClassAccuracies]) -> bool:
    """Whether every class has so many images that its accuracy is more than noise."""
    counts = [n for method in methods for one in method.clean.values() for n in one.n]
    return min(counts, default=0) >= LEAST


def class_facts(methods: Sequence[ClassAccuracies]) -> list[str]:
    """Return what the robust accuracies join, and which methods are left out."""
    known = [method for method in methods if method.clean]
    joined = [method for method in known if method.row.worst_over]  # the same attacks in all
    lines = []
    if joined:
        whose = f" ({', '.join(m.label for m in joined)})" if len(joined) < len(known) else ""
        attacks = ", ".join(joined[0].row.worst_over)
        lines.append(f"Robust: images that survive all of {attacks}{whose}.")
    if len(known) < len(methods):
        names = ", ".join(method.label for method in methods if not method.clean)
        lines.append(f"Left out, since their records hold no labels: {names}.")
    return lines


def class_csv(parts: Iterable[tuple[Setting, Sequence[ClassAccuracies]]]) -> pd.DataFrame:
    """Return a row per method and class; fractions."""
    return pd.DataFrame(
        {
            **setting.cells,
            "label": method.label,
            "checkpoint": method.row.checkpoint,
            "class": k,
            **accuracy_cells("clean", method.clean.get(k), _PARTS),
            **accuracy_cells("robust", method.robust.get(k), _PARTS),
            "attacks": " ".join(method.row.worst_over),
            "run_ids": " ".join(seed.run.run_id for seed in method.row.seeds),
        }
        for setting, methods in parts
        for method in methods
        for k in sorted(method.clean)
    )


def _pair(
    method: ClassAccuracies, of: Callable[[Iterable[float]], float], classes: Container[int]
) -> str:
    """Return `clean / robust` of some classes."""
    sides = (method.clean.items(), method.robust.items())
    values = ([cell.value for k, cell in side if k in classes] for side in sides)
    return " / ".join(percent_or_missing(of(found) if found else None) for found in values)


def _n(methods: Sequence[ClassAccuracies], k: int) -> str:
    """Return `36`, followed by the images of the robust accuracies where these are fewer."""
    clean = [n for method in methods if k in method.clean for n in method.clean[k].n]
    robust = [n for method in methods if k in method.robust for n in method.robust[k].n]
    counts, joint = span(clean), span(robust) if robust else MISSING
    return counts if counts == joint else f"{counts} ({joint})"
