"""Figure 1: the lines of linear networks between two classes, trained at several radii.

Lengths are in the points' units, in which the line x_0 = 0 separates the classes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.dataset import Split
from bench.papers.cat.gaussians import MARGIN, UNIT, load_two_gaussians, to_points
from bench.papers.cat.parts import SuiteMeasure, suite_measures
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.export import fitted
from bench.report.formatting import MINUS
from bench.report.style import order, styles
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Figure 1: the lines of linear networks between two classes in the plane"
_MEASURED = (
    "angle_degrees", "offset", "weight_0", "weight_1", "bias", "clean_accuracy", "robust_accuracy",
)  # fmt: skip
_DASHES = ("-", "--", "-.", ":")
_CLASSES = (("x", "#a8a8a8", "class 0"), ("+", "#787878", "class 1"))
"""Greys and strokes: colours and filled markers belong to the methods."""
_ROOM = 0.6
"""Around the points, in their units."""
_MARKS = 5
"""Markers on a line, which distinguish it in grey."""
_WIDTH = 6.9
"""Inches."""
_FAINT = 0.3
"""Opacity of the lines of all seeds but the first."""
_THICKNESS = (4.5, 2.2, 1.8, 1.4)
"""Each line is drawn on a thicker one, so that coinciding lines are visible."""


def make_figure1(chosen: SuiteRuns) -> Output:
    """Return a line per training."""
    found, lacks = suite_measures(chosen, "boundary")
    if not found:
        return Output(lacks=lacks)
    rows = map(_line, found)
    lines = sorted(rows, key=lambda row: (order(row["method"]), row["eps"] or 0.0, row["seed"]))
    texts = [row | {name: number(row[name]) for name in ("eps", *_MEASURED)} for row in lines]
    return Output(
        numbers={"figure1": pd.DataFrame(texts)},
        figures={"figure1": partial(draw_boundaries, lines, chosen.caption)},
        lacks=lacks,
    )


def _line(found: SuiteMeasure) -> dict[str, Any]:
    """Return the line weight . p + bias = 0 of one network, as a row of the .csv.

    eps: training radius in the points' units; None for training without an adversary.
    angle_degrees: between this line and the true one. offset: x_0 at which it crosses x_1 = 0;
    None if it does not. robust_accuracy: at eps.
    """
    values, undefended = found.values, found.run.card.get("inner") == "none"
    robust = None if undefended else values["robust_accuracy"][0]
    line = (*found.arrays["weight"], float(found.arrays["bias"]))
    measured = (values["angle"], values["offset"], *line, values["clean_accuracy"], robust)
    return {
        "method": found.method,
        "eps": None if undefended else found.eps * UNIT,
        "seed": found.run.seed or 0,
        **dict(zip(_MEASURED, measured, strict=True)),
    }


def draw_boundaries(lines: list[dict[str, Any]], caption: str = "") -> Figure:
    """Draw the training points and the lines; those of further seeds are faint."""
    from matplotlib.figure import Figure

    train = load_two_gaussians().train
    assert isinstance(train, Split)
    points = to_points(train.x).reshape(-1, 2)
    figure = Figure(figsize=(_WIDTH, 5.2), layout="constrained")
    axes = figure.subplots()
    for label, (marker, colour, name) in enumerate(_CLASSES):
        x, y = points[train.y == label].T
        axes.scatter(x, y, s=14, marker=marker, color=colour, linewidths=0.8, label=name)
    axes.axvspan(-MARGIN, MARGIN, color="#f3f3f3", zorder=0, label=f"true margin, {MARGIN:g}")
    axes.axvline(0, color="#444444", linewidth=0.8, linestyle=(0, (1, 2)), label="true boundary")
    low, high = points.min(0) - _ROOM, points.max(0) + _ROOM
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    _draw_lines(axes, lines, low, high)
    axes.set_xlabel(r"$x_0$ (units of the points)", parse_math=True)
    axes.set_ylabel(r"$x_1$ (units of the points)", parse_math=True)
    title = "Decision boundaries on two-gaussians; angle to the true boundary"
    axes.set_title(fitted((title, caption), _WIDTH), fontsize=9.0)
    legend = figure.legend(loc="outside lower center", frameon=False, handlelength=3.0, ncols=2)
    for text in legend.get_texts():  # the suite fixes the names in it
        text.set_parse_math(True)
    return figure


def _draw_lines(
    axes: Axes, lines: list[dict[str, Any]], low: NDArray[np.float64], high: NDArray[np.float64]
) -> None:
    """Draw the lines: a method keeps its colour and marker, its radii differ by their dash."""
    look = styles(line["method"] for line in lines)
    dashes: dict[str, dict[Any, str]] = {}
    for place, line in enumerate(lines):
        own = dashes.setdefault(line["method"], {})
        repeated = line["eps"] in own
        dash = own.setdefault(line["eps"], _DASHES[len(own) % len(_DASHES)])
        piece = _inside(line, low, high)
        if piece is None:
            x, y = np.full((2, _MARKS), np.nan)  # only in the legend
        else:
            part = np.linspace(0.05, 0.85, _MARKS)[:, None] + 0.03 * (place % 5)
            x, y = np.vstack([piece[:1], piece[0] + part * (piece[1] - piece[0]), piece[1:]]).T
        style = look[line["method"]]
        axes.plot(
            x,
            y,
            label=None if repeated else _legend_text(line, piece is not None),
            alpha=_FAINT if repeated else 1.0,
            markevery=slice(1, -1),
            linewidth=_THICKNESS[min(place, len(_THICKNESS) - 1)],
            markersize=5.0,
            **style.line | {"linestyle": dash} | ({"marker": ""} if repeated else {}),
        )


def _inside(
    line: dict[str, Any], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return (2, 2) the ends of the line's visible piece; None if it has none."""
    w, b = (line["weight_0"], line["weight_1"]), line["bias"]
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


def _legend_text(line: dict[str, Any], drawn: bool) -> str:
    radius = "" if line["eps"] is None else f", eps {line['eps']:g}"
    crosses = ""
    if line["offset"] is not None:
        # adding 0.0 makes -0.0 an ordinary zero
        place = f"{round(line['offset'], 2) + 0.0:.2f}".replace("-", MINUS)
        crosses = f", at $x_0$ = {place}"
    outside = "" if drawn else " (outside)"
    return f"{line['method']}{radius}: {line['angle_degrees']:.1f}\u00b0{crosses}{outside}"
