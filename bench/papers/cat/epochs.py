"""By epoch: robust validation accuracy (section 3.5), and the radii of adaptive methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.eps import REFERENCE_EPS
from bench.papers.cat.drawing import (
    band,
    curve,
    epoch_axis,
    grid,
    label_ends,
    panels,
    percent_axis,
    titled,
)
from bench.papers.cat.parts import alarm_note, captioned, label, untrained
from bench.records import QUANTILES, RunRecord
from bench.report.accuracy import AccuracyEstimate, over_seeds
from bench.report.artefact import Output
from bench.report.columns import accuracy_text, estimate_cells, number
from bench.report.formatting import eps_both, eps_text, span
from bench.report.published import shown_name
from bench.report.statistics import wilson
from bench.report.style import figure_styles, styles
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE_CONVERGENCE = "Robust accuracy on validation images by epoch"
TITLE_RADII = "Radii of the training images by epoch, of methods that keep one for each image"
VALIDATION_ATTACK = "PGD-10"
"""The attack of the history's val_robust."""
_WIDTH = 6.9
"""Inches."""
_SUFFIX = "_quantiles"
_LEVELS = [f"q{level:g}" for level in QUANTILES]
_SHADES = (0.12, 0.25, 0.4)
"""Opacity of the bands, the widest first."""


def make_convergence(chosen: SuiteRuns) -> Output:
    """Return a curve of robust validation accuracy per method."""
    rows: list[dict[str, Any]] = []
    texts: dict[str, str] = {}
    lacks = untrained(chosen.studies)
    for named, method, runs, _ in _trained(chosen):
        scored = [r for r in runs if r.history and all("val_robust" in e for e in r.history)]
        lacks += [f"{method}, seed {r.seed}: no validation scores" for r in runs if r not in scored]
        if not scored:
            continue
        # of several seeds the best checkpoint of the first one
        checkpoints = (scored[0].train or {}).get("checkpoints", {})
        best = checkpoints.get("best", {}).get("epoch")
        for epoch, of_seeds in enumerate(zip(*(r.history for r in scored), strict=False)):
            estimate = _estimate(of_seeds)
            cells = {"method": named, "epoch": epoch + 1, **estimate_cells(estimate)}
            rows.append({**cells, "best": int(epoch == best)})
            texts[named] = f"{named}: {accuracy_text(estimate, n=estimate.n)}"
    if not rows:
        return Output(lacks=tuple(lacks))
    numbers = pd.DataFrame(rows)
    eps = chosen.studies[0].study.eps
    draw = partial(_draw_convergence, numbers, texts, eps, captioned(chosen, texts))
    return Output(
        numbers={"convergence": numbers},
        figures={"convergence": draw},
        note=alarm_note(texts),
        lacks=tuple(lacks),
    )


def _trained(chosen: SuiteRuns) -> Iterator[tuple[str, str, Sequence[RunRecord], float]]:
    """Yield label, method, trainings and training radius."""
    for study in chosen.studies:
        for method, runs in study.runs.items():
            yield label(study, method, chosen.studies), method, runs, study.study.eps


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


def _draw_convergence(
    rows: pd.DataFrame, texts: dict[str, str], eps: float, caption: str
) -> Figure:
    """Draw a curve per method; over seeds the mean in a band of one standard deviation."""
    title = f"{span(list(rows['n']))} validation images, {VALIDATION_ATTACK} at \u03b5 = "
    title += f"{eps_text(eps)}; ring: best checkpoint, if not the last"
    figure = titled(_WIDTH, max(3.4, 1.3 + 0.21 * len(texts)), (title, caption))
    axes = figure.subplots()
    look = figure_styles(texts)
    last = rows.groupby("method")["accuracy"].last().sort_values(ascending=False, kind="stable")
    by_method = dict(iter(rows.groupby("method")))
    for name, own in ((name, by_method[name]) for name in last.index):
        colour, y = look[str(name)].colour, 100 * own["accuracy"]
        spread = 100 * own["std"].astype(float)
        band(axes, own["epoch"], y - spread, y + spread, color=colour, alpha=0.15)
        curve(axes, own["epoch"], y, texts[str(name)], look[str(name)])
        ring = (own["best"] == 1) & (own["epoch"] < own["epoch"].max())
        axes.plot(own["epoch"][ring], y[ring], "o", color=colour, ms=9.0, mfc="none")
    top = min(103, 10 * math.ceil(10 * rows["accuracy"].max() + 0.5))
    percent_axis(axes, f"accuracy under {VALIDATION_ATTACK} (%)", top)
    axes.set_xlim(left=0.5)
    epoch_axis(axes)
    several = rows["std"].notna().any()
    kind = "\u00b1 std over seeds" if several else "[95% interval]"
    label_ends(figure, axes, f"last epoch (%)\n{kind}")
    return figure


def make_radii(chosen: SuiteRuns) -> Output:
    """Return a panel per method that keeps a length for each image; nothing without any."""
    rows = pd.DataFrame(
        row
        for named, _, runs, eps in _trained(chosen)
        for run in runs
        for row in _radii(run, named, eps)
    )
    lacks = tuple(untrained(chosen.studies))
    if rows.empty:
        return Output(lacks=lacks)
    growth = {named: _growth(runs[0]) for named, _, runs, _ in _trained(chosen) if runs}
    texts = {"eps": rows["eps"].map("{:.9g}".format)}
    texts |= {name: rows[name].map(number) for name in ("mean", *_LEVELS)}
    return Output(
        numbers={"radii": rows.assign(**texts)},
        figures={"radii": partial(_draw_radii, rows, growth, captioned(chosen, rows["method"]))},
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


def _growth(run: RunRecord) -> tuple[float, float] | None:
    """Return by how much a radius grows at most per epoch and in all, in units of eps.

    None for a method whose parameters do not say so.
    """
    params = run.spec["params"]
    step, largest = params.get("eta"), params.get("eps_max")
    return (step / REFERENCE_EPS, largest / REFERENCE_EPS) if step and largest else None


def _draw_radii(
    rows: pd.DataFrame, growth: Mapping[str, tuple[float, float] | None], caption: str
) -> Figure:
    """Draw a panel per quantity: quantiles of the first seed, faint medians of the others."""
    groups = rows.groupby(["method", "quantity"], sort=False)
    title = f"Radii of the training images; dotted: \u03b5 = {eps_both(rows['eps'].iloc[0])}"
    bands = "line: median; bands: 25\u201375%, 10\u201390%, smallest to largest; dashed: an image "
    bands += "whose radius grows every epoch"
    texts = title, bands, caption
    figure, axes_of = panels(len(groups), 4, (1.5, 2.1), texts, sharex=True, sharey=True)
    look = styles(rows["method"])
    for axes, ((method, quantity), own) in zip(axes_of, groups, strict=True):
        _radii_panel(axes, own, look[str(method)].colour)
        if limits := growth.get(str(method)):
            epochs = np.arange(1, own["epoch"].max() + 1)
            fastest = np.minimum(limits[0] * epochs, limits[1])
            axes.plot(epochs, fastest, color="black", linewidth=1.0, linestyle="--")
            axes.annotate(
                "fastest\npossible",
                (epochs[-1], fastest[-1]),
                xytext=(0, 4),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
            )
        axes.set_title(f"{shown_name(str(method))}: {quantity}", fontsize=9.0)
    figure.supxlabel("epoch", fontsize=9.0)
    figure.supylabel(r"radius / $\epsilon$", fontsize=9.0, parse_math=True)
    return figure


def _radii_panel(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    for place, (_, own) in enumerate(rows.groupby("seed", sort=False)):
        relative = own[_LEVELS].div(own["eps"], axis=0)
        line: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.5}
        if place == 0:
            line = {"linewidth": 1.6, "marker": "o" if len(own) == 1 else ""}
            for low, high, opacity in zip(_LEVELS, reversed(_LEVELS), _SHADES, strict=False):
                band(axes, own["epoch"], relative[low], relative[high], color=colour, alpha=opacity)
        axes.plot(own["epoch"], relative[_LEVELS[len(_LEVELS) // 2]], color=colour, **line)
    axes.axhline(1, color="#555555", linewidth=0.9, linestyle=":")
    axes.set_ylim(bottom=0)
    epoch_axis(axes)
    axes.set_xlabel("")
    grid(axes)
