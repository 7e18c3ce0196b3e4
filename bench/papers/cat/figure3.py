"""Figure 3: the loss around test images as surfaces and contours, one panel per method.

All panels share heights and colours, which follow the square root of the height, so that low
surfaces keep their shades next to high ones. The margin is drawn next to cross entropy: training
on soft labels makes the surface of cross entropy lower and smoother, which the margin does not
show.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby, product
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.papers.cat.drawing import panels
from bench.papers.cat.parts import SuiteMeasure, alarm_note, captioned, suite_measures
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.formatting import eps_text
from bench.report.published import shown_name
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

Quantity = Literal["ce", "margin"]
Kind = Literal["surface", "contour"]
Array = NDArray[np.float64]

SOFT_LABELS = (
    "Training on soft labels lowers and flattens cross entropy by construction: compare the margin."
)
TITLE = f"Figure 3: the loss around test images. {SOFT_LABELS}"
_NAMES = {
    "ce": "cross entropy (nats)",
    "margin": "margin Z_j \u2212 Z_y of the best wrong class j (logits)",
}
_UNITS = {"ce": "cross entropy (nats)", "margin": "margin (logits)"}
_COLOURS = {"ce": "viridis", "margin": "PuOr_r"}
"""Both are safe for colour-blind readers; PuOr is white at its middle, the decision boundary."""
_INCHES = {"surface": (2.45, 2.3), "contour": (2.2, 2.2)}
"""Of a panel: three fit the width of a page."""
_DRAWN = 21
"""Grid lines of a surface: more are a grey blur in print and megabytes in the .svg."""


def make_figure3(chosen: SuiteRuns) -> Output:
    """Return both quantities, each as surfaces and as contours."""
    found, lacks = suite_measures(chosen, "landscape")
    if not found:
        return Output(lacks=lacks)
    n = min(len(one.arrays["index"]) for one in found)
    seeds = {label: list(own) for label, own in groupby(found, key=attrgetter("label"))}
    rows = (_heights(label, own, n) for label, own in seeds.items())
    heights = pd.concat(rows, ignore_index=True)
    n_seeds = len(next(iter(seeds.values())))
    which = f"mean of {n} test images" + (f" and {n_seeds} seeds" if n_seeds > 1 else "")
    remarks = f"{which}, \u03b5 = {eps_text(found[0].eps)}", captioned(chosen, seeds)
    numbers, figures = {}, {}
    quantities: dict[str, Quantity] = {"figure3": "ce", "figure3-margin": "margin"}
    kinds: dict[str, Kind] = {"": "surface", "-contour": "contour"}
    # a surface of the margin shows nothing that its contours do not
    surfaces = {"ce"}
    for name, quantity in quantities.items():
        columns = heights[["a", "b", quantity]].map(number)
        numbers[name] = heights[["label"]].join(columns)
        for end, kind in kinds.items():
            if kind == "surface" and quantity not in surfaces:
                continue
            draw = partial(draw_landscapes, heights, found[0].eps, kind, quantity, remarks)
            figures[f"{name}{end}"] = draw
    return Output(numbers=numbers, figures=figures, note=alarm_note(seeds), lacks=lacks)


def _heights(label: str, seeds: list[SuiteMeasure], n: int) -> pd.DataFrame:
    """Return a row per grid point: means over the first n images, which every record has.

    a, b: lengths along the gradient's sign and along random signs, in pixels of [0, 1].
    """
    grid = product(seeds[0].arrays["a"], seeds[0].arrays["b"])
    rows = pd.DataFrame(grid, columns=["a", "b"])
    for quantity in _NAMES:
        over_seeds = np.mean([one.arrays[quantity][:n] for one in seeds], axis=0)
        rows[quantity] = np.asarray(over_seeds, dtype=np.float64).mean(0).ravel()
    return rows.assign(label=label)


def draw_landscapes(
    heights: pd.DataFrame, eps: float, kind: Kind, quantity: Quantity, remarks: tuple[str, str]
) -> Figure:
    """Draw a panel per label and one colour bar; axes in units of eps."""
    from matplotlib.cm import ScalarMappable

    which, caption = remarks
    line = "; thick line: 0" if kind == "contour" else ""
    texts = (
        f"{_NAMES[quantity]}, {which}",
        f"orange side of 0: misclassified{line}" if quantity == "margin" else SOFT_LABELS,
        "a: along the gradient's sign; b: along random signs; dashed: within eps",
        caption,
    )
    heights = heights.replace([np.inf, -np.inf], np.nan)
    by_label = heights.groupby("label", sort=False)
    # Contours are square: "compressed" keeps such panels side by side.
    layout, options = "compressed", {}
    if kind == "surface":
        layout, options = "constrained", {"subplot_kw": {"projection": "3d"}}
    figure, axes_of = panels(len(by_label), 3, _INCHES[kind], texts, layout, **options)
    norm = height_norm(heights[quantity], boundary=quantity == "margin")
    pad = -4 if kind == "surface" else 2
    for axes, (label, own) in zip(axes_of, by_label, strict=True):
        z = own.pivot(index="a", columns="b", values=quantity)
        a, b = z.index.to_numpy() / eps, z.columns.to_numpy() / eps
        shade: dict[str, Any] = {"cmap": _COLOURS[quantity], "norm": norm}
        (_draw_surface if kind == "surface" else _draw_contour)(axes, a, b, z.to_numpy(), shade)
        ticks = {"xticks": np.linspace(a[0], a[-1], 5), "yticks": np.linspace(b[0], b[-1], 5)}
        axes.set(title=shown_name(str(label)), **ticks)
        if kind == "surface":
            axes.set(zlim=(heights[quantity].min(), heights[quantity].max()))
        axes.set_xlabel(r"$a / \epsilon$", labelpad=pad, parse_math=True)
        axes.set_ylabel(r"$b / \epsilon$", labelpad=pad, parse_math=True)
    label = f"{_UNITS[quantity]}\ncolours: square-root scale"
    mappable, free = ScalarMappable(norm, _COLOURS[quantity]), figure.axes[len(axes_of) :]
    if free:  # the place of a panel
        bar = free[0].inset_axes((0.05, 0.5, 0.9, 0.06))
        figure.colorbar(mappable, cax=bar, orientation="horizontal", label=label)
    else:
        figure.colorbar(mappable, ax=figure.axes, shrink=0.75, aspect=25, label=label)
    return figure


def _draw_surface(axes: Any, a: Array, b: Array, z: Array, shade: dict[str, Any]) -> None:
    stride = max(1, (len(a) - 1) // (_DRAWN - 1))
    every = {"rstride": stride, "cstride": stride, "antialiased": True}
    edges = {"linewidth": 0.2, "edgecolor": "#333333"}
    axes.plot_surface(*np.meshgrid(a, b, indexing="ij"), z, **shade, **every, **edges)
    axes.view_init(elev=24, azim=-130)
    axes.set_box_aspect((1, 1, 0.8), zoom=1.05)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_tick_params(pad=-2, labelsize=7.5)
        axis.pane.set_facecolor("white")


def _draw_contour(axes: Any, a: Array, b: Array, z: Array, shade: dict[str, Any]) -> None:
    norm: Normalize = shade["norm"]
    levels = np.asarray(norm.inverse(np.linspace(0, 1, 21)))
    # The first axis of z is a; matplotlib draws rows along the vertical axis.
    shown = np.ma.masked_invalid(z.T)
    axes.contourf(a, b, shown, levels=levels, extend="both", **shade)
    axes.contour(a, b, shown, levels=levels, linestyles="solid", colors="#333333", linewidths=0.3)
    if shown.min() < 0 < shown.max():
        axes.contour(a, b, shown, levels=[0.0], colors="black", linewidths=1.6)
    axes.set_aspect("equal")
    axes.plot([-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1], color="black", linewidth=0.7, linestyle="--")
    axes.plot([0], [0], marker="o", color="black", markerfacecolor="white", markersize=4.5)


def height_norm(heights: pd.Series[Any], *, boundary: bool) -> Normalize:
    """Return the colours of all panels; with `boundary`, 0 is the middle of them."""
    from matplotlib.colors import FuncNorm

    low, high = float(heights.min()), float(heights.max())
    if boundary:
        high = max(abs(low), abs(high))
        low = -high
    if not low < high:
        low, high = (-1.0, 1.0) if boundary else (0.0, 1.0)
    return FuncNorm((_root, _square), low, high)


def _root(z: Array) -> Array:
    return np.sign(z) * np.sqrt(np.abs(z))


def _square(z: Array) -> Array:
    return np.sign(z) * z**2
