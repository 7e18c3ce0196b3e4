"""What each training cost, relative to the reference's, drawn. The numbers are in cost.csv."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.report.aggregate import sections
from bench.report.artefacts.artefact import Made
from bench.report.artefacts.trained import captioned, untrained
from bench.report.cost import GroupCost, costs
from bench.report.picture import fitted, picture_files
from bench.report.published import REFERENCE
from bench.report.style import Style, styles
from bench.report.suite_runs import SuiteRuns
from bench.report.units import MISSING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = f"Cost of training relative to {REFERENCE}: passes through the network, and seconds"
_WIDTH = 6.4
"""Inches."""
_PANELS = {
    "passes_relative": "forward and backward passes\n(counted)",
    "seconds_relative": "seconds an image\n(equal machines alone)",
}


def make_cost(chosen: SuiteRuns, note: str) -> Made:
    """cost.png and cost.svg."""
    runs = [run for study in chosen.studies for own in study.runs.values() for run in own]
    found = [cost for section in sections(runs) for cost in costs(section)]
    lacks = (*untrained(chosen.studies), *_lacks(found))
    shown = [cost for cost in found if cost.passes_relative is not None]
    if not shown:
        return Made(files={}, lacks=lacks)
    caption = captioned(chosen, (cost.group.label for cost in shown))
    pictures = picture_files(lambda: draw_cost(shown, caption), f"{note} {caption}", "cost")
    return Made(files={f"cost{suffix}": c for suffix, c in pictures.items()}, lacks=lacks)


def _lacks(found: Sequence[GroupCost]) -> Iterator[str]:
    if not any(cost.reference for cost in found):
        yield f"no training of {REFERENCE}: nothing is relative, so nothing is drawn"
        return
    for cost in found:
        if cost.passes_relative is None:
            yield f"{cost.group.label}: no cost on record"
        elif cost.seconds_relative is None:
            yield f"{cost.group.label}: no training of {REFERENCE} on an equal machine"


def draw_cost(found: Sequence[GroupCost], caption: str) -> Figure:
    """A row for each method; the mean with its number, of several seeds each one faint."""
    from matplotlib.figure import Figure

    labels = [cost.group.label for cost in found]
    figure = Figure(figsize=(_WIDTH, 1.5 + 0.25 * len(found)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharex=True, sharey=True)
    look = styles(labels)
    for axes, (name, heading) in zip(panels, _PANELS.items(), strict=True):
        for row, cost in enumerate(found):
            _dots(axes, cost, name, row, look[cost.group.label])
        axes.set_title(heading, fontsize=9.0)
        axes.axvline(1, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
    _scale(panels[0])
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    for axes in panels:
        axes.tick_params(axis="y", length=0)
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


def _scale(axes: Axes) -> None:
    """One for both panels, with room for the numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    axes.xaxis.set_minor_locator(NullLocator())
