"""By epoch: robust validation accuracy (section 3.5), and the radii of adaptive methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bench.papers.cat.parts import alarm_note, captioned, grid, label, untrained
from bench.records import QUANTILES, RunRecord
from bench.report.accuracy import AccuracyEstimate, over_seeds
from bench.report.artefact import Output
from bench.report.columns import accuracy_text, estimate_cells, number
from bench.report.export import fitted, legend_label
from bench.report.formatting import eps_both, eps_text, span
from bench.report.statistics import wilson
from bench.report.style import Style, styles
from bench.report.suite_runs import StudyRuns, SuiteRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE_CONVERGENCE = "Robust accuracy on validation images by epoch"
TITLE_RADII = "Radii of the training images by epoch, of methods that keep one for each image"
VALIDATION_ATTACK = "PGD-10"
"""The attack of the history's val_robust."""
_WIDTH = 6.9
"""Inches."""
PLUS_MINUS = "\u00b1 std over seeds"
_MARKS = 8
_SUFFIX = "_quantiles"
_LEVELS = [f"q{level:g}" for level in QUANTILES]
_COLUMNS = 4
_PANEL_INCHES = (1.75, 1.9)
_SHADES = (0.12, 0.25, 0.4)
"""Opacity of the bands, the widest first."""


def make_convergence(chosen: SuiteRuns) -> Output:
    """Return a curve of robust validation accuracy per method."""
    curves: dict[str, tuple[list[AccuracyEstimate], int | None]] = {}
    lacks = untrained(chosen.studies)
    for study, method, runs in _trained(chosen):
        scored = [r for r in runs if r.history and all("val_robust" in e for e in r.history)]
        if scored:
            # of several seeds the best checkpoint of the first one
            checkpoints = (scored[0].train or {}).get("checkpoints", {})
            best = checkpoints.get("best", {}).get("epoch")
            epochs = [_estimate(rows) for rows in zip(*(r.history for r in scored), strict=False)]
            curves[label(study, method, chosen.studies)] = epochs, best
        unscored = (run for run in runs if run not in scored)
        lacks += [f"{method}, seed {run.seed}: no validation scores" for run in unscored]
    if not curves:
        return Output(lacks=tuple(lacks))
    numbers = pd.DataFrame(
        {"method": name, "epoch": epoch + 1}
        | estimate_cells(estimate)
        | {"best": int(epoch == best)}
        for name, (epochs, best) in curves.items()
        for epoch, estimate in enumerate(epochs)
    )
    draw = partial(_draw_curves, curves, chosen.studies[0].study.eps, captioned(chosen, curves))
    return Output(
        numbers={"convergence": numbers},
        figures={"convergence": draw},
        note=alarm_note(curves),
        lacks=tuple(lacks),
    )


def _trained(chosen: SuiteRuns) -> Iterator[tuple[StudyRuns, str, Sequence[RunRecord]]]:
    for study in chosen.studies:
        for method, runs in study.runs.items():
            yield study, method, runs


def _estimate(rows: Sequence[Any]) -> AccuracyEstimate:
    """Return the accuracy of one epoch over the seeds."""
    estimates = []
    for row in rows:
        n, value = int(row["n_val"]), float(row["val_robust"])
        low, high = wilson(round(value * n), n)
        estimates.append(AccuracyEstimate(value=value, low=low, high=high, n=(n,), n_expected=(n,)))
    found = over_seeds(estimates)
    assert found is not None
    return found


def _draw_curves(
    curves: dict[str, tuple[list[AccuracyEstimate], int | None]], eps: float, caption: str
) -> Figure:
    """Draw a curve per method; over seeds the mean in a band of one standard deviation."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(_WIDTH, max(3.4, 1.3 + 0.21 * len(curves))), layout="constrained")
    axes = figure.subplots()
    look = styles(curves)
    for name, (estimates, best) in curves.items():
        y, last = 100 * np.array([e.value for e in estimates]), estimates[-1]
        epochs = range(1, len(y) + 1)
        draw_curve(axes, epochs, y, f"{name}: {accuracy_text(last, n=last.n)}", look[name])
        if last.std is not None:
            spread = 100 * np.array([e.std for e in estimates])
            axes.fill_between(
                epochs, y - spread, y + spread, color=look[name].colour, alpha=0.15, linewidth=0
            )
        if best is not None and best + 1 < len(y):
            ring: dict[str, Any] = {"markersize": 9.0, "markerfacecolor": "none"}
            axes.plot(best + 1, y[best], "o", color=look[name].colour, **ring)
    everything = [e for estimates, _ in curves.values() for e in estimates]
    top = max(e.value for e in everything)
    axes.set_ylim(-3, min(103, 10 * math.ceil(10 * top + 0.5)))
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"accuracy under {VALIDATION_ATTACK} (%)")
    n = span([n for estimates, _ in curves.values() for n in estimates[-1].n])
    title = f"{n} validation images, {VALIDATION_ATTACK} at \u03b5 = {eps_text(eps)}; "
    title += "ring: best checkpoint, if not the last"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    several = any(e.std is not None for e in everything)
    legend_beside(figure, f"last epoch (%)\n{PLUS_MINUS if several else '[95% interval]'}")
    return figure


def draw_curve(
    axes: Axes, x: Sequence[float], y: ArrayLike, text: str, look: Style, **options: Any
) -> None:
    """Draw a line with at most about eight markers, which distinguish it in grey."""
    axes.plot(
        *(x, y),
        label=legend_label(text),
        markevery=max(1, len(x) // _MARKS),
        linewidth=1.4,
        markersize=5.0,
        **(look.line | options),
    )


def legend_beside(figure: Figure, title: str) -> None:
    options: dict[str, Any] = {"frameon": False, "handlelength": 2.8, "alignment": "left"}
    figure.legend(loc="outside right center", title=title, title_fontsize=9.0, **options)


def make_radii(chosen: SuiteRuns) -> Output:
    """Return a panel per method that keeps a length for each image; nothing without any."""
    rows = pd.DataFrame(
        row
        for study, method, runs in _trained(chosen)
        for run in runs
        for row in _radii(run, label(study, method, chosen.studies), study.study.eps)
    )
    lacks = tuple(untrained(chosen.studies))
    if rows.empty:
        return Output(lacks=lacks)
    texts = {"eps": rows["eps"].map("{:.9g}".format)}
    texts |= {name: rows[name].map(number) for name in ("mean", *_LEVELS)}
    return Output(
        numbers={"radii": rows.assign(**texts)},
        figures={"radii": partial(_draw_radii, rows, captioned(chosen, rows["method"]))},
        note=alarm_note(rows["method"]),
        lacks=lacks,
    )


def _radii(run: RunRecord, called: str, eps: float) -> list[dict[str, Any]]:
    """Return a row per quantity that the training kept for each image, and epoch; in pixels."""
    first = run.history[0] if run.history else ()
    names = [name.removesuffix(_SUFFIX) for name in first if name.endswith(_SUFFIX)]
    return [
        {"method": called, "quantity": name, "seed": run.seed or 0, "eps": eps, "epoch": epoch}
        | {"mean": row[f"{name}_mean"]}
        | dict(zip(_LEVELS, row[f"{name}{_SUFFIX}"], strict=True))
        for name in names
        for epoch, row in enumerate(run.history, 1)
    ]


def _draw_radii(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw a panel per quantity: quantiles of the first seed, faint medians of the others."""
    from matplotlib.figure import Figure

    panels = rows.groupby(["method", "quantity"], sort=False)
    n_columns = min(_COLUMNS, len(panels))
    n_rows = 1 + (len(panels) - 1) // n_columns
    size = (max(4.6, _PANEL_INCHES[0] * n_columns), 1.2 + _PANEL_INCHES[1] * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    axes_grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    look = styles(rows["method"])
    for axes, ((method, quantity), own) in zip(axes_grid.flat, panels, strict=False):
        _radii_panel(axes, own, look[str(method)].colour)
        axes.set_title(f"{method}: {quantity}", fontsize=9.0)
    for axes in list(axes_grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=9.0)
    figure.supylabel(r"radius / $\epsilon$", fontsize=9.0, parse_math=True)
    title = f"Radii of the training images; dotted: \u03b5 = {eps_both(rows['eps'].iloc[0])}"
    bands = "line: median; bands: 25\u201375%, 10\u201390%, smallest to largest"
    figure.suptitle(fitted((title, bands, caption), size[0]), fontsize=9.0)
    return figure


def _radii_panel(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, (_, own) in enumerate(rows.groupby("seed", sort=False)):
        relative = own[_LEVELS].to_numpy(float) / own[["eps"]].to_numpy()
        line: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.5}
        if place == 0:
            line = {"linewidth": 1.6, "marker": "o" if len(own) == 1 else ""}
            for width, opacity in enumerate(_SHADES):
                low, high = relative[:, width], relative[:, -1 - width]
                axes.fill_between(own["epoch"], low, high, color=colour, alpha=opacity, linewidth=0)
        axes.plot(own["epoch"].to_numpy(), relative[:, len(_LEVELS) // 2], color=colour, **line)
    axes.axhline(1, color="#555555", linewidth=0.9, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
