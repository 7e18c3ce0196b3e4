"""The seconds of a step against what varies, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.report.picture import fitted, picture_files
from bench.report.style import BLUE, VERMILLION
from bench.speed.scaling import Curve, Scaling
from bench.speed.scaling_page import where
from bench.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_COLUMNS = 3
_PANEL = (2.35, 2.3)
"""Inches; three of them fit the width of a page."""
_GREY = "#777777"


def write_scaling(scaling: Scaling, folder: Path, command: str) -> Path:
    """scaling.json, .png and .svg in `folder`; the path of the record."""
    record = folder / "scaling.json"
    write_atomic(record, scaling.to_json().encode())
    note = f"Measured by `{command}`."
    for suffix, content in draw_scaling(scaling, note).items():
        write_atomic(folder / f"scaling{suffix}", content)
    return record


def draw_scaling(scaling: Scaling, note: str) -> dict[str, bytes]:
    """The .png and .svg, by suffix. `note` says where the numbers are from."""
    return picture_files(lambda: scaling_figure(scaling), note, "scaling")


def scaling_figure(scaling: Scaling) -> Figure:
    """A panel for each axis, both scales logarithmic; the legend in the place that is left."""
    from matplotlib.figure import Figure

    n_rows = len(scaling.curves) // N_COLUMNS + 1
    width, height = N_COLUMNS * _PANEL[0], n_rows * _PANEL[1] + 0.4
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(n_rows, N_COLUMNS, squeeze=False).flat)
    for axes, curve in zip(panels, scaling.curves, strict=False):
        _panel(axes, curve)
    for row in range(n_rows):
        panels[row * N_COLUMNS].set_ylabel("seconds of a step")
    for axes in panels[len(scaling.curves) :]:
        axes.axis("off")
    handles, names = panels[0].get_legend_handles_labels()
    panels[len(scaling.curves)].legend(handles, names, loc="center", frameon=False)
    title = (f"{scaling.method}, {scaling.precision}", where(scaling.machine))
    figure.suptitle(fitted(title, width), fontsize=9.0)
    return figure


def _panel(axes: Axes, curve: Curve) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    x = [point.value for point in curve.points]
    last = curve.points[-1]
    linear = [last.seconds * point.flops / last.flops for point in curve.points]
    seconds = [point.seconds for point in curve.points]
    empty = [point.empty_seconds for point in curve.points]
    axes.plot(x, linear, color=_GREY, linestyle=":", linewidth=1.2, label="linear in FLOP")
    axes.plot(x, seconds, color=BLUE, marker="o", markersize=4.5, linewidth=1.4, label="measured")
    axes.plot(x, empty, color=VERMILLION, marker="s", markersize=3.5, linestyle="--",
              linewidth=1.2, label="calls alone")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(min(np.min(seconds), np.min(empty)) / 1.7, 1.7 * np.max(seconds))
    axes.set_xticks(x, [str(value) for value in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(curve.name)
