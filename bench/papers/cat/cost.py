"""The cost of each training relative to the reference's, drawn. The numbers are in cost.csv."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.papers.cat.complexity import ratio_axis
from bench.papers.cat.parts import alarm_note, captioned, untrained
from bench.report.artefact import Output
from bench.report.cost import GroupCost, costs
from bench.report.export import fitted
from bench.report.formatting import MISSING
from bench.report.published import published
from bench.report.rows import sections
from bench.report.style import Style, styles
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = published("cat").reference
TITLE = f"Cost of training relative to {REFERENCE}: passes through the network, and seconds"
_WIDTH = 6.4
"""Inches."""
_PANELS = {
    "passes_relative": "forward and backward passes\n(counted)",
    "seconds_relative": "seconds per image\n(only equal machines)",
}


def make_cost(chosen: SuiteRuns) -> Output:
    """Return a row per method; nothing without a training of the reference."""
    runs = [run for study in chosen.studies for own in study.runs.values() for run in own]
    found = [cost for section in sections(runs) for cost in costs(section)]
    lacks = (*untrained(chosen.studies), *_lacks(found))
    shown = [cost for cost in found if cost.passes_relative is not None]
    if not shown:
        return Output(lacks=lacks)
    labels = [cost.group.label for cost in shown]
    return Output(
        figures={"cost": partial(_draw, shown, captioned(chosen, labels))},
        note=alarm_note(labels),
        lacks=lacks,
    )


def _lacks(found: Sequence[GroupCost]) -> Iterator[str]:
    if not any(cost.reference for cost in found):
        yield f"no training of {REFERENCE}: nothing is relative, so nothing is drawn"
        return
    for cost in found:
        if cost.passes_relative is None:
            yield f"{cost.group.label}: no cost on record"
        elif cost.seconds_relative is None:
            yield f"{cost.group.label}: no training of {REFERENCE} on an equal machine"


def _draw(found: Sequence[GroupCost], caption: str) -> Figure:
    """Draw each method with its number, and each of several seeds faintly."""
    from matplotlib.figure import Figure

    labels = [cost.group.label for cost in found]
    figure = Figure(figsize=(_WIDTH, 1.5 + 0.25 * len(found)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharex=True, sharey=True)
    look = styles(labels)
    for axes, (name, heading) in zip(panels, _PANELS.items(), strict=True):
        for row, cost in enumerate(found):
            _dots(axes, cost, name, row, look[cost.group.label])
        axes.set_title(heading, fontsize=9.0)
    ratio_axis(panels, labels, steps=(1.0, 2.0, 5.0), room=0.2)  # room for the numbers
    for axes in panels:
        axes.grid(visible=False, axis="y")
    figure.supxlabel(f"relative to {REFERENCE} (log scale)", fontsize=9.0)
    title = f"Cost of training, relative to {REFERENCE}"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    return figure


def _dots(axes: Axes, cost: GroupCost, name: str, row: int, style: Style) -> None:
    mean, dot = getattr(cost, name), dict[str, Any](linestyle="", color=style.colour)
    if mean is None:
        axes.text(0.5, row, MISSING, va="center", transform=axes.get_yaxis_transform())
        return
    seeds = [value for run in cost.runs if (value := getattr(run, name)) is not None]
    if len(seeds) > 1:
        axes.plot(seeds, [row] * len(seeds), marker="|", alpha=0.4, markersize=9.0, **dot)
    axes.plot(mean, row, marker=style.marker, markersize=6.0, **dot)
    axes.annotate(
        f"{mean:.2f}",
        (mean, row),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.0,
    )
