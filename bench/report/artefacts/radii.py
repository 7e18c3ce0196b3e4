"""How per-image radii, which adaptive methods keep, are spread over the training set by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.records import QUANTILES, RunRecord
from bench.report.artefacts.artefact import Made
from bench.report.artefacts.trained import captioned, label, untrained
from bench.report.artefacts.written import csv_bytes
from bench.report.picture import fitted, picture_files
from bench.report.style import styles
from bench.report.suite_runs import SuiteRuns
from bench.report.units import eps_both

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
class Radii:
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


def make_radii(chosen: SuiteRuns, note: str) -> Made:
    """radii.png, .svg and .csv; nothing where no method keeps a length for each image."""
    found = [
        radii
        for study in chosen.studies
        for method, runs in study.runs.items()
        for run in runs
        for radii in _kept(run, label(study, method, chosen.studies), study.study.eps)
    ]
    lacks = untrained(chosen.studies)
    if not found:
        return Made(files={}, lacks=tuple(lacks))
    caption = captioned(chosen, (radii.label for radii in found))
    origin = f"{note} {caption}"
    files = picture_files(lambda: draw_radii(found, caption), origin, "radii")
    files[".csv"] = _csv(found, origin)
    return Made(files={f"radii{suffix}": c for suffix, c in files.items()}, lacks=tuple(lacks))


def _kept(run: RunRecord, called: str, eps: float) -> list[Radii]:
    """What the history has at every epoch."""
    names = [name for name in (run.history[0] if run.history else ()) if name.endswith(_SUFFIX)]
    return [
        Radii(
            label=called,
            quantity=name.removesuffix(_SUFFIX),
            seed=run.seed or 0,
            eps=eps,
            quantiles=np.array([row[name] for row in run.history], dtype=np.float64),
            mean=np.array([row[f"{name.removesuffix(_SUFFIX)}_mean"] for row in run.history]),
        )
        for name in names
    ]


def draw_radii(found: Sequence[Radii], caption: str) -> Figure:
    """A panel for each method's quantity: the first seed's quantiles, the others' medians faint."""
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[Radii]] = {}
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


def _panel(axes: Axes, seeds: Sequence[Radii], colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, radii in enumerate(seeds):
        relative = radii.quantiles / radii.eps
        epochs = np.arange(1, len(relative) + 1)
        if number == 0:
            for width, opacity in enumerate(_SHADES):
                low, high = relative[:, width], relative[:, -1 - width]
                axes.fill_between(epochs, low, high, color=colour, alpha=opacity, linewidth=0)
        line: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.5}
        if number == 0:
            line = {"linewidth": 1.6, "marker": "o" if len(epochs) == 1 else ""}
        axes.plot(epochs, relative[:, _MIDDLE], color=colour, **line)
    axes.axhline(1, color="#555555", linewidth=0.9, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def _csv(found: Sequence[Radii], note: str) -> bytes:
    levels = (f"q{level:g}" for level in QUANTILES)
    rows = [
        [
            *(radii.label, radii.quantity, radii.seed, f"{radii.eps:.9g}", epoch),
            *(f"{value:.6g}" for value in (mean, *row)),
        ]
        for radii in found
        for epoch, (mean, row) in enumerate(zip(radii.mean, radii.quantiles, strict=True), 1)
    ]
    return csv_bytes(("method", "quantity", "seed", "eps", "epoch", "mean", *levels), rows, note)
