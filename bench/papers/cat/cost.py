"""The cost of each training relative to the reference's, drawn. The numbers are in cost.csv."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.papers.cat.drawing import grid, one_line, ratio_axis, titled
from bench.papers.cat.parts import alarm_note, captioned, untrained
from bench.report.artefact import Output
from bench.report.cost import costs
from bench.report.formatting import MISSING
from bench.report.published import published, shown_name
from bench.report.rows import sections
from bench.report.style import Style, styles
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = published("cat").reference
TITLE = (
    f"Cost of training relative to {shown_name(REFERENCE)}: passes through the network, and seconds"
)
_WIDTH = 6.4
"""Inches."""
_PANELS = {
    "passes_relative": "forward and backward passes\n(counted)",
    "seconds_relative": "seconds per image\n(only equal machines)",
}


def make_cost(chosen: SuiteRuns) -> Output:
    """Return a row per method; nothing without a training of the reference."""
    runs = [run for study in chosen.studies for own in study.runs.values() for run in own]
    found = [
        (str(label), own)
        for section in sections(runs)
        for label, own in costs(section).groupby("label", sort=False)
    ]
    lacks = (*untrained(chosen.studies), *_lacks(found))
    shown = [(label, own) for label, own in found if own["passes_relative"].notna().any()]
    if not shown:
        return Output(lacks=lacks)
    labels = [label for label, _ in shown]
    return Output(
        figures={"cost": partial(_draw, shown, captioned(chosen, labels))},
        note=alarm_note(labels),
        lacks=lacks,
    )


def _lacks(found: Sequence[tuple[str, pd.DataFrame]]) -> Iterator[str]:
    if not any(own["reference"].any() for _, own in found):
        yield f"no training of {REFERENCE}: nothing is relative, so nothing is drawn"
        return
    for label, own in found:
        if own["passes_relative"].isna().all():
            yield f"{label}: no cost on record"
        elif own["seconds_relative"].isna().all():
            yield f"{label}: no training of {REFERENCE} on an equal machine"


def _draw(found: Sequence[tuple[str, pd.DataFrame]], caption: str) -> Figure:
    """Draw each method with its number, and each of several seeds faintly."""
    labels = [label for label, _ in found]
    title = f"Cost of training, relative to {shown_name(REFERENCE)}"
    figure = titled(_WIDTH, 1.5 + 0.25 * len(found), (title, caption))
    panels = figure.subplots(1, len(_PANELS), sharex=True, sharey=True)
    look = styles(labels)
    for axes, (name, heading) in zip(panels, _PANELS.items(), strict=True):
        for row, (label, own) in enumerate(found):
            _dots(axes, own[name].dropna(), name, row, look[label])
        axes.set_title(heading, fontsize=9.0)
        one_line(axes)
        grid(axes, "x")
    ratio_axis(panels[0], [shown_name(label) for label in labels], room=0.2)  # for the numbers
    figure.supxlabel(f"relative to {shown_name(REFERENCE)} (log scale)", fontsize=9.0)
    return figure


def _dots(axes: Axes, seeds: pd.Series, name: str, row: int, style: Style) -> None:
    dot = dict[str, Any](linestyle="", color=style.colour)
    if seeds.empty:
        axes.text(0.5, row, MISSING, va="center", transform=axes.get_yaxis_transform())
        return
    # other work on the machine only slows a training down
    value = seeds.mean() if name == "passes_relative" else seeds.min()
    if len(seeds) > 1:
        axes.plot(seeds, [row] * len(seeds), marker="|", alpha=0.4, markersize=9.0, **dot)
    axes.plot(value, row, marker=style.marker, markersize=6.0, **dot)
    axes.annotate(
        f"{value:.2f}",
        (value, row),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.0,
    )
