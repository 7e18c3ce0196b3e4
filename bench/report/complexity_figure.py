"""The products of weight norms relative to the reference's, drawn: a row for each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.report.complexity_table import COLUMNS, WeightNorms, ordered, reference, relative
from bench.report.picture import fitted, picture_files
from bench.report.style import styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 6.4
"""Inches."""
_MARKERS = {"spectral": "o", "frobenius": "s", "max_row_sum": "^"}
_OFFSETS = {"spectral": -0.2, "frobenius": 0.0, "max_row_sum": 0.2}
"""Of a norm's mark from the middle of its row, in rows."""
_SIZES = {"folded": 5.0, "weights": 8.0}
"""The filled mark is seen inside the hollow one."""
_GREY = "#555555"
_NARROW = 30
"""Times that the axis spans at most where every label has room."""


def complexity_pictures(
    found: Sequence[WeightNorms], paper: Mapping[str, float], note: str, caption: str
) -> dict[str, bytes]:
    """The .png and .svg, by suffix. `paper`: the ratio that the paper states, by label."""
    return picture_files(lambda: draw_complexity(found, paper, caption), note, "complexity")


def draw_complexity(
    found: Sequence[WeightNorms], paper: Mapping[str, float], caption: str
) -> Figure:
    """Filled: BatchNorm folded in; hollow: weights as stored. A mark for each seed."""
    from matplotlib.figure import Figure

    networks, ratios = ordered(found), relative(found)
    labels = list(dict.fromkeys(network.label for network in networks))
    figure = Figure(figsize=(_WIDTH, 1.9 + 0.38 * len(labels)), layout="constrained")
    axes = figure.subplots()
    look = styles(network.method for network in networks)
    for network, own in zip(networks, ratios, strict=True):
        for name, ratio in own.items():
            variant, _, norm = name.partition("_")
            colour = look[network.method].colour
            axes.plot(
                ratio,
                labels.index(network.label) + _OFFSETS[norm],
                linestyle="",
                marker=_MARKERS[norm],
                markersize=_SIZES[variant],
                color=colour,
                markerfacecolor=colour if variant == "folded" else "white",
                zorder=3 if variant == "folded" else 2,
            )
    for label, ratio in paper.items():
        if label in labels:
            axes.plot(ratio, labels.index(label), linestyle="", marker="x", color=_GREY, zorder=0)
    _axis(axes, labels, reference(found))
    _legend(figure, bool(paper))
    title = "Product of the layers' weight norms, relative to the reference"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    return figure


def _axis(axes: Axes, labels: Sequence[str], base: str | None) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high / low < 1000:
        steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < _NARROW else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlabel(f"ratio to {base} (log scale); above 1: larger")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(figure: Figure, with_paper: bool) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], linestyle="", color=_GREY, label=heading, **_look(name))
        for name, heading in COLUMNS.items()
    ]
    if with_paper:
        text = "the paper's, at eps 0.01, 0.02, 0.03\n(network and norm unstated)"
        marks.append(Line2D([], [], linestyle="", color=_GREY, marker="x", label=text))
    figure.legend(handles=marks, loc="outside lower center", frameon=False, ncols=2)


def _look(name: str) -> dict[str, Any]:
    variant, _, norm = name.partition("_")
    return {
        "marker": _MARKERS[norm],
        "markersize": _SIZES[variant],
        "markerfacecolor": _GREY if variant == "folded" else "white",
    }
