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
from bench.papers.cat.parts import SuiteMeasure, grid, suite_measures
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.export import fitted
from bench.report.formatting import MINUS, MISSING
from bench.report.style import COLOURS, order
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Figure 1: the lines of linear networks between two classes in the plane"
_CLASSES = ((COLOURS["blue"], "o", "class 0"), (COLOURS["orange"], "^", "class 1"))
"""Colour, marker, name: dark and light in grey."""
_ROOM = 0.6
"""Around the points, in their units."""
_WIDTH = 7.0
"""Inches."""
_FAINT = 0.35
"""Opacity of a seed."""


def make_figure1(chosen: SuiteRuns) -> Output:
    """Return a line per training, and its accuracy over the epochs."""
    lines, epochs, lacks = boundary_lines(chosen)
    if lines.empty:
        return Output(lacks=lacks)
    lengths = [name for name in map(str, lines) if name not in ("method", "seed")]
    text = lines.astype(object).assign(**{name: lines[name].map(number) for name in lengths})
    draw = partial(draw_boundaries, lines, epochs, chosen.caption)
    return Output(numbers={"figure1": text}, figures={"figure1": draw}, lacks=lacks)


def boundary_lines(chosen: SuiteRuns) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """Return a row per training of Figure 1, a row per epoch of each, and what is missing.

    method, eps: the training radius; missing without an adversary. seed.
    angle_degrees: between the line weight . p + bias = 0 and the true one. offset: x_0 at which it
    crosses x_1 = 0; missing if it does not. clean_accuracy; robust_accuracy: at eps.
    largest_fall: of the validation accuracy from one epoch to the next. radius: median over the
    training points at the end, of methods that have one per point.
    The epochs have accuracy, of the validation points, and radius.
    """
    found, lacks = suite_measures(chosen, "boundary")
    pairs = [_line(one) for one in found]
    pairs.sort(key=lambda pair: (order(pair[0]["method"]), pair[0]["eps"] or 0, pair[0]["seed"]))
    lines = pd.DataFrame([line for line, _ in pairs])
    epochs = pd.DataFrame([epoch for _, own in pairs for epoch in own])
    return lines, epochs, lacks


def _line(found: SuiteMeasure) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    values, undefended = found.values, found.run.card.get("inner") == "none"
    own = {
        "method": found.method,
        "eps": None if undefended else found.eps * UNIT,
        "seed": found.run.seed or 0,
    }
    epochs = [
        {
            "epoch": row["epoch"] + 1,
            "accuracy": row["val_clean"],
            "radius": row["radius_quantiles"][3] * UNIT if "radius_quantiles" in row else None,
        }
        for row in found.run.history
    ]
    accuracy = [row["accuracy"] for row in epochs]
    line = own | {
        "angle_degrees": values["angle"],
        "offset": values["offset"],
        "weight_0": found.arrays["weight"][0],
        "weight_1": found.arrays["weight"][1],
        "bias": float(found.arrays["bias"]),
        "clean_accuracy": values["clean_accuracy"],
        "robust_accuracy": None if undefended else values["robust_accuracy"][0],
        "largest_fall": max((0.0 - np.diff(accuracy)).tolist(), default=None),
        "radius": epochs[-1]["radius"] if epochs else None,
    }
    return line, [own | row for row in epochs]


def draw_boundaries(lines: pd.DataFrame, epochs: pd.DataFrame, caption: str = "") -> Figure:
    """Draw a column per method and radius: every seed's line, and its accuracy by epoch below."""
    from matplotlib.figure import Figure

    train = load_two_gaussians().train
    assert isinstance(train, Split)
    points = to_points(train.x).reshape(-1, 2)
    low, high = points.min(0) - _ROOM, points.max(0) + _ROOM
    columns = dict(list(lines.groupby(_trained_as(lines), sort=False)))
    histories = dict(list(epochs.groupby(_trained_as(epochs)))) if len(epochs) else {}
    figure = Figure(figsize=(_WIDTH, 4.6), layout="constrained")
    panels = figure.subplots(
        2, len(columns), sharex="row", sharey="row", squeeze=False, height_ratios=[1.5, 1.0]
    )
    places = zip(columns.items(), *panels, strict=True)
    for letter, ((name, own), plane, below) in zip("abcdefgh", places, strict=False):
        for label, (colour, marker, title) in enumerate(_CLASSES):
            x, y = points[train.y == label].T
            style = {"color": colour, "marker": marker, "linewidths": 0}
            plane.scatter(x, y, s=7, alpha=0.55, label=title, **style)
        margin = f"true margin, {MARGIN:g}"
        plane.axvspan(-MARGIN, MARGIN, color="#ececec", zorder=0, label=margin)
        plane.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        pieces = [_inside(row, low, high) for _, row in own.iterrows()]
        for piece in pieces:
            if piece is not None:
                plane.plot(*piece.T, color="black", linewidth=0.9, alpha=_FAINT)
        plane.set_title(f"({letter}) {name}", fontsize=9.0)
        n_out = sum(piece is None for piece in pieces)
        outside = f"\n{n_out} of {len(own)} lines outside" if n_out else ""
        accurate = _spread(100 * own["clean_accuracy"], 0)
        crossing = _spread(own["offset"], 1)
        plane.set_xlabel(
            f"accuracy {accurate}%\nat $x_0$ = {crossing}{outside}",
            fontsize=7.5,
            parse_math=True,
        )
        _draw_epochs(below, histories.get(name))
    panels[0, 0].set_ylabel("$x_1$", parse_math=True)
    panels[1, 0].set_ylabel("validation\naccuracy (%)")
    n_seeds = max(map(len, columns.values()))
    texts = (
        "Decision boundaries on two-gaussians, and accuracy by epoch",
        f"A line per seed, {n_seeds} seeds; under each plane the median [lowest, highest] of their "
        "clean accuracy and crossing. Dashed: median radius of a point, as a share of eps.",
        caption,
    )
    figure.suptitle(fitted(texts, _WIDTH), fontsize=9.0)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=3, markerscale=2)
    return figure


def _trained_as(rows: pd.DataFrame) -> pd.Series[Any]:
    """Return `madry, eps 4` for each row, the name of its column."""
    radius = rows["eps"].map(lambda eps: "" if pd.isna(eps) else f", eps {eps:g}")
    return rows["method"] + radius


def _draw_epochs(axes: Axes, epochs: pd.DataFrame | None) -> None:
    for _, seed in () if epochs is None else epochs.groupby("seed"):
        axes.plot(seed["epoch"], 100 * seed["accuracy"], color="black", linewidth=0.8, alpha=_FAINT)
        if seed["radius"].notna().any():
            share = 100 * seed["radius"].astype(float) / seed["eps"].astype(float)
            axes.plot(
                seed["epoch"],
                share,
                color=COLOURS["vermillion"],
                linewidth=0.9,
                linestyle="--",
                alpha=0.6,
            )
    axes.set_ylim(-3, 103)
    axes.set_xlabel("epoch")
    grid(axes)


def _spread(values: pd.Series[Any], digits: int) -> str:
    """Return `median [lowest, highest]`, without the brackets where all are written alike."""
    known = values.dropna().astype(float)
    if known.empty:
        return MISSING
    # adding 0.0 makes -0.0 an ordinary zero
    texts = [
        f"{round(v, digits) + 0.0:.{digits}f}" for v in (known.median(), known.min(), known.max())
    ]
    middle, low, high = (text.replace("-", MINUS) for text in texts)
    return middle if low == high else f"{middle} [{low}, {high}]"


def _inside(
    line: pd.Series[Any], low: NDArray[np.float64], high: NDArray[np.float64]
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
