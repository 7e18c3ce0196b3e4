"""Section 3.5: robust accuracy on validation images by epoch, all methods in one plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.papers.cat.series import grid
from bench.papers.cat.trainings import alarm_note, captioned, label, untrained
from bench.records import RunRecord
from bench.report.accuracy import AccuracyEstimate, SeedEstimate, over_seeds
from bench.report.artefact import Output
from bench.report.columns import estimate_cells
from bench.report.export import fitted, legend_label
from bench.report.formatting import MISSING, eps_text, percent, span
from bench.report.statistics import wilson
from bench.report.style import styles
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Robust accuracy on validation images by epoch"
VALIDATION_ATTACK = "PGD-10"
"""The attack of the history's val_robust."""
_WIDTH = 6.9
"""Inches."""
_MARKS = 8
"""Markers on a curve."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Robust accuracy of one method over its training."""

    label: str
    epochs: tuple[AccuracyEstimate, ...]
    """After each epoch, over the seeds."""
    best: int | None
    """Epoch of the best checkpoint, from 0; of several seeds the first one's."""


def make_convergence(chosen: SuiteRuns) -> Output:
    """Return a curve per method."""
    found: list[LearningCurve] = []
    lacks = untrained(chosen.studies)
    for study in chosen.studies:
        for method, runs in study.runs.items():
            scored = [run for run in runs if _scored(run)]
            if scored:
                found.append(_curve(label(study, method, chosen.studies), scored))
            lacks += [
                f"{method}, seed {r.seed}: no validation scores" for r in runs if r not in scored
            ]
    if not found:
        return Output(lacks=tuple(lacks))
    labels, eps = [curve.label for curve in found], chosen.studies[0].study.eps
    numbers = pd.DataFrame(
        {"method": curve.label, "epoch": epoch + 1}
        | estimate_cells(estimate)
        | {"best": int(epoch == curve.best)}
        for curve in found
        for epoch, estimate in enumerate(curve.epochs)
    )
    return Output(
        numbers={"convergence": numbers},
        figures={"convergence": partial(_draw, found, eps, captioned(chosen, labels))},
        note=alarm_note(labels),
        lacks=tuple(lacks),
    )


def _scored(run: RunRecord) -> bool:
    return bool(run.history) and all("val_robust" in row for row in run.history)


def _curve(label: str, runs: Sequence[RunRecord]) -> LearningCurve:
    n_epochs = min(len(run.history) for run in runs)
    epochs = [_estimate([run.history[epoch] for run in runs]) for epoch in range(n_epochs)]
    checkpoints = (runs[0].train or {}).get("checkpoints", {})
    best = checkpoints.get("best", {}).get("epoch")
    return LearningCurve(label=label, epochs=tuple(epochs), best=best)


def _estimate(rows: Sequence[Any]) -> AccuracyEstimate:
    """Return the accuracy of one epoch over the seeds."""
    estimates = []
    for row in rows:
        n, value = int(row["n_val"]), float(row["val_robust"])
        low, high = wilson(round(value * n), n)
        estimates.append(SeedEstimate(value=value, low=low, high=high, n=n, n_expected=n))
    return over_seeds(estimates, estimates[0].n)


def _draw(found: Sequence[LearningCurve], eps: float, caption: str) -> Figure:
    """Draw a curve per method; over seeds the mean in a band of one standard deviation."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(_WIDTH, max(3.4, 1.3 + 0.21 * len(found))), layout="constrained")
    axes = figure.subplots()
    look = styles(curve.label for curve in found)
    for curve in found:
        style, y = look[curve.label], [100 * (e.value or 0.0) for e in curve.epochs]
        epochs = range(1, len(y) + 1)
        axes.plot(
            epochs,
            y,
            label=_legend_text(curve),
            markevery=max(1, len(y) // _MARKS),
            linewidth=1.4,
            markersize=5.0,
            **style.line,
        )
        if curve.epochs[-1].std is not None:
            spread = [100 * (e.std or 0.0) for e in curve.epochs]
            low, high = ([v + sign * s for v, s in zip(y, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(epochs, low, high, color=style.colour, alpha=0.15, linewidth=0)
        if curve.best is not None and curve.best + 1 < len(y):
            ring: dict[str, Any] = {"markersize": 9.0, "markerfacecolor": "none"}
            axes.plot(curve.best + 1, y[curve.best], "o", color=style.colour, **ring)
    top = max(e.value or 0.0 for curve in found for e in curve.epochs)
    axes.set_ylim(-3, min(103, 10 * math.ceil(10 * top + 0.5)))
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"accuracy under {VALIDATION_ATTACK} (%)")
    n = span([n for curve in found for n in curve.epochs[-1].n])
    title = f"{n} validation images, {VALIDATION_ATTACK} at \u03b5 = {eps_text(eps)}; "
    title += "ring: best checkpoint, if not the last"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    several = any(curve.epochs[-1].std is not None for curve in found)
    figure.legend(
        loc="outside right center",
        frameon=False,
        handlelength=2.8,
        title="last epoch (%)\n" + ("\u00b1 std over seeds" if several else "[95% interval]"),
        title_fontsize=9.0,
        alignment="left",
    )
    return figure


def _legend_text(curve: LearningCurve) -> str:
    last = curve.epochs[-1]
    if last.value is None:
        return legend_label(f"{curve.label}: {MISSING}")
    spread = ""
    if last.std is not None:
        spread = f" \u00b1 {percent(last.std)}"
    elif last.low is not None and last.high is not None:
        spread = f" [{percent(last.low)}, {percent(last.high)}]"
    return legend_label(f"{curve.label}: {percent(last.value)}{spread}")
