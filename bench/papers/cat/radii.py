"""How the radii of adaptive methods, one per image, are spread over the training set by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.papers.cat.trainings import alarm_note, captioned, label, untrained
from bench.records import QUANTILES, RunRecord
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.export import fitted
from bench.report.formatting import eps_both
from bench.report.style import styles
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Radii of the training images by epoch, of methods that keep one for each image"
_SUFFIX = "_quantiles"
_COLUMNS = 4
_PANEL_INCHES = (1.75, 1.9)
_MIDDLE = len(QUANTILES) // 2
_SHADES = (0.12, 0.25, 0.4)
"""Opacity of the bands, the widest first."""


@dataclass(frozen=True, kw_only=True)
class RadiusHistory:
    """One quantity that one training kept for each image."""

    label: str
    quantity: str
    seed: int
    eps: float
    """Of the study, in pixels of [0, 1]."""
    quantiles: NDArray[np.float64]
    """(E, Q): after each epoch, at QUANTILES, in pixels of [0, 1]."""
    mean: NDArray[np.float64]
    """(E,)"""


def make_radii(chosen: SuiteRuns) -> Output:
    """Return a panel per method that keeps a length for each image; nothing without any."""
    found = [
        radii
        for study in chosen.studies
        for method, runs in study.runs.items()
        for run in runs
        for radii in _histories(run, label(study, method, chosen.studies), study.study.eps)
    ]
    lacks = tuple(untrained(chosen.studies))
    if not found:
        return Output(lacks=lacks)
    labels = [radii.label for radii in found]
    return Output(
        numbers={"radii": pd.DataFrame(row for radii in found for row in _rows(radii))},
        figures={"radii": partial(_draw, found, captioned(chosen, labels))},
        note=alarm_note(labels),
        lacks=lacks,
    )


def _histories(run: RunRecord, called: str, eps: float) -> list[RadiusHistory]:
    names = [name for name in (run.history[0] if run.history else ()) if name.endswith(_SUFFIX)]
    return [
        RadiusHistory(
            label=called,
            quantity=name.removesuffix(_SUFFIX),
            seed=run.seed or 0,
            eps=eps,
            quantiles=np.array([row[name] for row in run.history], dtype=np.float64),
            mean=np.array([row[f"{name.removesuffix(_SUFFIX)}_mean"] for row in run.history]),
        )
        for name in names
    ]


def _rows(radii: RadiusHistory) -> Iterator[dict[str, Any]]:
    for epoch, (mean, row) in enumerate(zip(radii.mean, radii.quantiles, strict=True), 1):
        yield {
            "method": radii.label,
            "quantity": radii.quantity,
            "seed": radii.seed,
            "eps": number(radii.eps, "%.9g"),
            "epoch": epoch,
            "mean": number(mean),
            **{f"q{level:g}": number(v) for level, v in zip(QUANTILES, row, strict=True)},
        }


def _draw(found: Sequence[RadiusHistory], caption: str) -> Figure:
    """Draw a panel per quantity: quantiles of the first seed, faint medians of the others."""
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[RadiusHistory]] = {}
    for radii in found:
        panels.setdefault((radii.label, radii.quantity), []).append(radii)
    n_columns = min(_COLUMNS, len(panels))
    n_rows = 1 + (len(panels) - 1) // n_columns
    size = (max(4.6, _PANEL_INCHES[0] * n_columns), 1.2 + _PANEL_INCHES[1] * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    look = styles(radii.label for radii in found)
    for axes, (key, seeds) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, seeds, look[key[0]].colour)
        axes.set_title(f"{key[0]}: {key[1]}", fontsize=9.0)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=9.0)
    figure.supylabel(r"radius / $\epsilon$", fontsize=9.0, parse_math=True)
    title = f"Radii of the training images; dotted: \u03b5 = {eps_both(found[0].eps)}"
    bands = "line: median; bands: 25\u201375%, 10\u201390%, smallest to largest"
    figure.suptitle(fitted((title, bands, caption), size[0]), fontsize=9.0)
    return figure


def _panel(axes: Axes, seeds: Sequence[RadiusHistory], colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, radii in enumerate(seeds):
        relative = radii.quantiles / radii.eps
        epochs = np.arange(1, len(relative) + 1)
        line: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.5}
        if place == 0:
            line = {"linewidth": 1.6, "marker": "o" if len(epochs) == 1 else ""}
            for width, opacity in enumerate(_SHADES):
                low, high = relative[:, width], relative[:, -1 - width]
                axes.fill_between(epochs, low, high, color=colour, alpha=opacity, linewidth=0)
        axes.plot(epochs, relative[:, _MIDDLE], color=colour, **line)
    axes.axhline(1, color="#555555", linewidth=0.9, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
