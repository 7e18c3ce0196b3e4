"""Section 3.5: how far images are from a wrong prediction, and the average of Theorem 3.2."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from bench.report.artefacts.artefact import Made
from bench.report.artefacts.measures import Found, found_measures
from bench.report.artefacts.trained import captioned
from bench.report.artefacts.written import csv_bytes
from bench.report.margin_figure import KINDS, Margins, margin_files
from bench.report.style import order
from bench.report.suite_runs import SuiteRuns

TITLE = "Bilateral margins of test images (upper bounds), and the mean of their inverse"
UPPER_BOUND = (
    "Every margin is an upper bound, found by a search that need not find the smallest "
    "perturbation; the mean of 1 / margin is a lower bound."
)
_HEAD = ("label", "margin", "n", "n_seeds", "n_above_0", "mean", "mean_inverse", "mean_inverse_std")


def make_margins(chosen: SuiteRuns, note: str) -> Made:
    """margins.* for input and layers together, margins-layers.*, margins-input.*, and the means."""
    found, lacks = found_measures(chosen, "margins")
    if not found:
        return Made(files={}, lacks=tuple(lacks))
    caption = captioned(chosen, (one.label for one in found))
    origin = f"{note} {caption} {UPPER_BOUND}"
    files: dict[str, bytes] = {}
    rows: list[list[object]] = []
    for kind in KINDS:
        margins = _margins(found, kind)
        name = "margins" if kind == "both" else f"margins-{kind}"
        pictures = margin_files(margins, kind, origin, caption)
        files |= {f"{name}{suffix}": content for suffix, content in pictures.items()}
        rows += [_row(one, kind, found) for one in margins]
    files["margins-mean.csv"] = csv_bytes(_HEAD, rows, origin)
    return Made(files=files, lacks=tuple(lacks))


def _margins(found: Sequence[Found], kind: str) -> list[Margins]:
    by_label: dict[str, list[Found]] = {}
    for one in found:
        by_label.setdefault(one.label, []).append(one)
    margins = [
        Margins(
            label=label,
            method=seeds[0].method,
            margin=np.concatenate([one.arrays[f"margin_{kind}"] for one in seeds]),
        )
        for label, seeds in by_label.items()
    ]
    return sorted(margins, key=lambda m: (order(m.method), m.label))


def _row(margins: Margins, kind: str, found: Sequence[Found]) -> list[object]:
    seeds = [one.record.values for one in found if one.label == margins.label]
    inverses = [v for values in seeds if (v := values[f"mean_inverse_{kind}"]) is not None]
    numbers = (
        fmean(margins.margin),
        margins.mean_inverse,
        stdev(inverses) if len(inverses) > 1 else None,
    )
    return [
        *(margins.label, kind, len(margins.margin), len(seeds), int((margins.margin > 0).sum())),
        *("" if number is None else f"{number:.6g}" for number in numbers),
    ]
