"""Figure 1 of the CAT paper: the points of two classes and the line of each trained network.

The points are the data set's own, drawn anew from bench.papers.cat.gaussians; the lines come from
records. Lengths are in the points' units, in which a line x_0 = 0 separates the classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Split
from bench.papers.cat.gaussians import MARGIN, load_two_gaussians, to_points
from bench.report.picture import fitted, picture_files
from bench.report.style import order, styles
from bench.report.units import MINUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", "--", "-.", ":")
_CLASSES = (("x", "#a8a8a8", "class 0"), ("+", "#787878", "class 1"))
"""Greys and strokes: colours and filled markers belong to the methods."""
_ROOM = 0.6
"""Around the points, in their units."""
_MARKS = 5
"""Markers on a line, so that it is told apart in grey."""
_WIDTH = 6.9
"""Inches."""
_FAINT = 0.3
"""Of the lines of all seeds but the first."""
_THICKNESS = (4.5, 2.2, 1.8, 1.4)
"""Lines that fall together are seen: each is drawn on a thicker one."""


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The line weight . p + bias = 0 of one network."""

    method: str
    eps: float | None
    """Training radius in the points' units; None for training without an adversary."""
    seed: int = 0
    weight: NDArray[np.float64]
    """(2,)"""
    bias: float
    angle: float
    """Degrees between this line and the true one."""
    offset: float | None
    """x_0 at which it crosses x_1 = 0; None where it does not."""
    clean_accuracy: float
    robust_accuracy: float | None = None
    """At eps."""

    @property
    def label(self) -> str:
        """`madry, eps 4`."""
        return self.method if self.eps is None else f"{self.method}, eps {self.eps:g}"


def figure1_files(boundaries: Sequence[Boundary], note: str, caption: str = "") -> dict[str, bytes]:
    """The .png, .svg and .csv, by suffix. `note` says where the lines are from."""
    pictures = picture_files(lambda: draw_figure1(boundaries, caption), note, "figure 1")
    return {**pictures, ".csv": _csv(boundaries, note).encode()}


def draw_figure1(boundaries: Sequence[Boundary], caption: str = "") -> Figure:
    """One panel with the training points; methods in the paper's order, radii rising.

    The first seed's lines are full, those of the others faint. `caption` ends the title.
    """
    from matplotlib.figure import Figure

    points, labels = training_points()
    figure = Figure(figsize=(_WIDTH, 5.2), layout="constrained")
    axes = figure.subplots()
    for label, (marker, colour, name) in enumerate(_CLASSES):
        x, y = points[labels == label].T
        axes.scatter(x, y, s=14, marker=marker, color=colour, linewidths=0.8, label=name)
    axes.axvspan(-MARGIN, MARGIN, color="#f3f3f3", zorder=0, label=f"true margin, {MARGIN:g}")
    axes.axvline(0, color="#444444", linewidth=0.8, linestyle=(0, (1, 2)), label="true boundary")
    low, high = points.min(0) - _ROOM, points.max(0) + _ROOM
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    _lines(axes, boundaries, low, high)
    axes.set_xlabel(r"$x_0$ (units of the points)", parse_math=True)
    axes.set_ylabel(r"$x_1$ (units of the points)", parse_math=True)
    title = "Decision boundaries on two-gaussians; angle to the true boundary"
    axes.set_title(fitted((title, caption), _WIDTH), fontsize=9.0)
    legend = figure.legend(loc="outside lower center", frameon=False, handlelength=3.0, ncols=2)
    for text in legend.get_texts():  # the suite fixes the names in it
        text.set_parse_math(True)
    return figure


def training_points() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(n, 2) in their own units, (n,)."""
    train = load_two_gaussians().train
    assert isinstance(train, Split)
    return to_points(train.x).reshape(-1, 2), train.y


def _lines(
    axes: Axes,
    boundaries: Sequence[Boundary],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> None:
    """A method keeps its colour and marker; its radii differ by their dash."""
    look = styles(boundary.method for boundary in boundaries)
    dashes: dict[str, dict[str, str]] = {}
    for number, boundary in enumerate(sorted(boundaries, key=_key)):
        own = dashes.setdefault(boundary.method, {})
        repeated = boundary.label in own
        dash = own.setdefault(boundary.label, _DASHES[len(own) % len(_DASHES)])
        piece = _inside(boundary, low, high)
        if piece is None:
            x, y = np.full((2, _MARKS), np.nan)  # in the legend alone
        else:
            part = np.linspace(0.05, 0.85, _MARKS)[:, None] + 0.03 * (number % 5)
            x, y = np.vstack([piece[:1], piece[0] + part * (piece[1] - piece[0]), piece[1:]]).T
        style = look[boundary.method]
        axes.plot(
            x,
            y,
            label=None if repeated else _legend_text(boundary, piece is not None),
            color=style.colour,
            alpha=_FAINT if repeated else 1.0,
            marker="" if repeated else style.marker,
            markevery=slice(1, -1),
            linestyle=dash,
            linewidth=_THICKNESS[min(number, len(_THICKNESS) - 1)],
            markersize=5.0,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )


def _key(boundary: Boundary) -> tuple[tuple[int, str], float, int]:
    return order(boundary.method), boundary.eps or 0.0, boundary.seed


def _inside(
    boundary: Boundary, low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """(2, 2): the ends of the line's part in the picture; None where it has none."""
    w, b = boundary.weight, boundary.bias
    ends = []
    for axis in (0, 1):
        other = 1 - axis
        for edge in (low[axis], high[axis]):
            if w[other] != 0:
                along = -(b + w[axis] * edge) / w[other]
                if low[other] <= along <= high[other]:
                    ends.append((edge, along) if axis == 0 else (along, edge))
    ends = sorted(set(ends))
    return np.array([ends[0], ends[-1]]) if len(ends) >= 2 else None


def _legend_text(boundary: Boundary, drawn: bool) -> str:
    crosses = ""
    if boundary.offset is not None:
        # Adding 0.0 makes -0.0 an ordinary zero.
        place = f"{round(boundary.offset, 2) + 0.0:.2f}".replace("-", MINUS)
        crosses = f", at $x_0$ = {place}"
    outside = "" if drawn else " (outside)"
    return f"{boundary.label}: {boundary.angle:.1f}\u00b0{crosses}{outside}"


def _csv(boundaries: Sequence[Boundary], note: str) -> str:
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    head = ("method", "eps", "seed", "angle_degrees", "offset", "weight_0", "weight_1", "bias")
    rows.writerow([*head, "clean_accuracy", "robust_accuracy"])
    for boundary in sorted(boundaries, key=_key):
        numbers = [
            *(boundary.angle, boundary.offset, *boundary.weight, boundary.bias),
            *(boundary.clean_accuracy, boundary.robust_accuracy),
        ]
        eps = "" if boundary.eps is None else f"{boundary.eps:g}"
        cells = ("" if number is None else f"{number:.6g}" for number in numbers)
        rows.writerow([boundary.method, eps, boundary.seed, *cells])
    return buffer.getvalue()
