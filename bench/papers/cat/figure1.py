"""Figure 1: the lines of linear networks between two classes, trained at several radii.

Lengths are in the points' units, in which the line x_0 = 0 separates the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.data.dataset import Split
from bench.papers.cat.drawing import legend_below, percent_axis, titled
from bench.papers.cat.gaussians import MARGIN, UNIT, load_two_gaussians, to_points
from bench.papers.cat.parts import SuiteMeasure, suite_measures
from bench.records import QUANTILES
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.formatting import MINUS, MISSING
from bench.report.published import shown_name
from bench.report.style import COLOURS
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
_NO_RADII = [np.nan] * len(QUANTILES)


def make_figure1(chosen: SuiteRuns) -> Output:
    """Return a line per training, and its accuracy over the epochs."""
    found, lacks = suite_measures(chosen, "boundary")
    if not found:
        return Output(lacks=lacks)
    epochs = [_epochs(one) for one in found]
    lines = pd.DataFrame([_line(one, own) for one, own in zip(found, epochs, strict=True)])
    text = lines.astype(object)
    lengths = lines.columns.drop(["method", "seed"])
    text[lengths] = lines[lengths].map(number)
    draw = partial(draw_boundaries, lines, epochs, chosen.caption)
    return Output(numbers={"figure1": text}, figures={"figure1": draw}, lacks=lacks)


def _epochs(found: SuiteMeasure) -> pd.DataFrame:
    """Return accuracy of the validation points and median radius of a training point, by epoch."""
    rows = (
        (row["epoch"] + 1, row["val_clean"], row.get("radius_quantiles", _NO_RADII)[3] * UNIT)
        for row in found.run.history
    )
    return pd.DataFrame(rows, columns=["epoch", "accuracy", "radius"])


def _line(found: SuiteMeasure, epochs: pd.DataFrame) -> dict[str, Any]:
    """Return what one training learnt; a value is missing where there is none.

    eps: the training radius; missing without an adversary. angle_degrees: between the line
    weight . p + bias = 0 and the true one. offset: x_0 at which it crosses x_1 = 0.
    robust_accuracy: at eps. largest_fall: of the validation accuracy from one epoch to the next.
    """
    values, undefended = found.record.values, found.run.card.get("inner") == "none"
    radius = epochs["radius"].iloc[-1] if len(epochs) else np.nan
    return {
        "method": found.run.method,
        "eps": None if undefended else found.eps * UNIT,
        "seed": found.run.seed or 0,
        "angle_degrees": values["angle"],
        "offset": values["offset"],
        "weight_0": found.arrays["weight"][0],
        "weight_1": found.arrays["weight"][1],
        "bias": float(found.arrays["bias"]),
        "clean_accuracy": values["clean_accuracy"],
        "robust_accuracy": None if undefended else values["robust_accuracy"][0],
        "largest_fall": (0.0 - epochs["accuracy"].diff()).max(),
        "radius": radius,
    }


def draw_boundaries(lines: pd.DataFrame, epochs: Sequence[pd.DataFrame], caption: str) -> Figure:
    """Draw a column per method and radius: every seed's line, and its accuracy by epoch below."""
    radius = lines["eps"].map("{:g}".format, na_action="ignore")
    columns = lines.groupby(lines["method"] + (", eps " + radius).fillna(""), sort=False)
    n_seeds = columns.size().max()
    texts = (
        "Decision boundaries on two-gaussians, and accuracy by epoch",
        f"A line per seed, {n_seeds} seeds; under each plane the median [lowest, highest] of their "
        "clean accuracy and crossing. Dashed: median radius of a point, as a share of eps.",
        caption,
    )
    figure = titled(_WIDTH, 4.6, texts)
    shared: dict[str, Any] = {"sharex": "row", "sharey": "row", "squeeze": False}
    panels = figure.subplots(2, len(columns), height_ratios=[1.5, 1.0], **shared)
    for letter, (name, own), plane, below in zip("abcdefgh", columns, *panels, strict=False):
        n_outside = _draw_plane(plane, own)
        plane.set_title(f"({letter}) {shown_name(str(name))}", fontsize=9.0)
        outside = f"\n{n_outside} of {len(own)} lines outside" if n_outside else ""
        text = f"accuracy {_spread(100 * own['clean_accuracy'], 0)}%\n"
        text += f"at $x_0$ = {_spread(own['offset'], 1)}{outside}"
        plane.set_xlabel(text, fontsize=7.5, parse_math=True)
        for place, eps in own["eps"].items():
            _draw_epochs(below, epochs[place], eps)
    panels[0, 0].set_ylabel("$x_1$", parse_math=True)
    panels[1, 0].set_ylabel("validation\naccuracy (%)")
    legend_below(figure, 3, markerscale=2)
    return figure


def _draw_plane(axes: Axes, lines: pd.DataFrame) -> int:
    """Draw the training points and the lines; return how many lines miss the drawn region."""
    train = load_two_gaussians().train
    assert isinstance(train, Split)
    points = to_points(train.x).reshape(-1, 2)
    for label, (colour, marker, title) in enumerate(_CLASSES):
        x, y = points[train.y == label].T
        axes.scatter(x, y, s=7, alpha=0.55, label=title, c=colour, marker=marker, linewidths=0)
    margin = f"true margin, {MARGIN:g}"
    axes.axvspan(-MARGIN, MARGIN, color="#ececec", zorder=0, label=margin)
    low, high = points.min(0) - _ROOM, points.max(0) + _ROOM
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    corners = np.array(list(product(*zip(low, high, strict=True))))
    n_outside = 0
    for weight_0, weight_1, bias in lines[["weight_0", "weight_1", "bias"]].to_numpy():
        weight = np.array([weight_0, weight_1])
        if np.ptp(np.sign(corners @ weight + bias)) == 0:  # all on one side
            n_outside += 1
            continue
        foot = -bias * weight / (weight @ weight)
        along = foot + np.array([-weight_1, weight_0])
        axes.axline(foot, along, color="black", lw=0.9, alpha=_FAINT, label="line of a seed")
    return n_outside


def _draw_epochs(axes: Axes, epochs: pd.DataFrame, eps: float) -> None:
    thin: dict[str, Any] = {"linewidth": 0.8, "alpha": _FAINT}
    axes.plot(epochs["epoch"], 100 * epochs["accuracy"], color="black", **thin)
    if epochs["radius"].notna().any():
        dashed: dict[str, Any] = {"color": COLOURS["vermillion"], "linestyle": "--", "alpha": 0.6}
        label = "median radius (% of eps)"
        axes.plot(epochs["epoch"], 100 * epochs["radius"] / eps, lw=0.9, label=label, **dashed)
    percent_axis(axes)
    axes.set_xlabel("epoch")


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
