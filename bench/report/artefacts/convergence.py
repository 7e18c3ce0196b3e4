"""Section 3.5: robust accuracy on validation images by epoch, all methods in one plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.records import RunRecord
from bench.report.artefacts.artefact import Made
from bench.report.artefacts.trained import captioned, label, untrained
from bench.report.artefacts.written import NUMBERS, csv_bytes, numbers
from bench.report.interval import wilson
from bench.report.joins import Cell, Estimate, over_seeds
from bench.report.picture import fitted, legend_label, picture_files
from bench.report.style import styles
from bench.report.suite_runs import SuiteRuns
from bench.report.units import MISSING, eps_text, percent, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Robust accuracy on validation images by epoch"
VALIDATION_ATTACK = "PGD-10"
"""What the history's val_robust is under."""
_WIDTH = 6.9
"""Inches."""
_MARKS = 8
"""Markers on a curve."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How one method fared over its training."""

    label: str
    method: str
    cells: tuple[Cell, ...]
    """Robust accuracy after each epoch, over the seeds."""
    best: int | None
    """Epoch of the best checkpoint, from 0; of several seeds the first one's."""


def make_convergence(chosen: SuiteRuns, note: str) -> Made:
    """convergence.png, .svg and .csv."""
    found: list[Course] = []
    lacks = untrained(chosen.studies)
    for study in chosen.studies:
        for method, runs in study.runs.items():
            whole = [run for run in runs if _scored(run)]
            if whole:
                found.append(_course(label(study, method, chosen.studies), method, whole))
            lacks += [
                f"{method}, seed {r.seed}: no validation scores" for r in runs if r not in whole
            ]
    if not found:
        return Made(files={}, lacks=tuple(lacks))
    caption, eps = captioned(chosen, (c.label for c in found)), chosen.studies[0].study.eps
    origin = f"{note} {caption}"
    files = picture_files(lambda: draw_convergence(found, eps, caption), origin, "convergence")
    files[".csv"] = _csv(found, origin)
    return Made(
        files={f"convergence{suffix}": c for suffix, c in files.items()}, lacks=tuple(lacks)
    )


def draw_convergence(found: Sequence[Course], eps: float, caption: str) -> Figure:
    """A curve a method; over seeds the mean in a band of one standard deviation."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(_WIDTH, max(3.4, 1.3 + 0.21 * len(found))), layout="constrained")
    axes = figure.subplots()
    look = styles(course.label for course in found)
    for course in found:
        style, y = look[course.label], [100 * (cell.value or 0.0) for cell in course.cells]
        epochs = range(1, len(y) + 1)
        axes.plot(
            epochs,
            y,
            label=_legend_text(course),
            color=style.colour,
            marker=style.marker,
            markevery=max(1, len(y) // _MARKS),
            linestyle=style.dash,
            linewidth=1.4,
            markersize=5.0,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
        if course.cells[-1].std is not None:
            spread = [100 * (cell.std or 0.0) for cell in course.cells]
            low, high = ([v + sign * s for v, s in zip(y, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(epochs, low, high, color=style.colour, alpha=0.15, linewidth=0)
        if course.best is not None and course.best + 1 < len(y):
            ring: dict[str, Any] = {"markersize": 9.0, "markerfacecolor": "none"}
            axes.plot(course.best + 1, y[course.best], "o", color=style.colour, **ring)
    top = max(cell.value or 0.0 for course in found for cell in course.cells)
    axes.set_ylim(-3, min(103, 10 * math.ceil(10 * top + 0.5)))
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"accuracy under {VALIDATION_ATTACK} (%)")
    n = span(tuple(n for course in found for n in course.cells[-1].n))
    title = f"{n} validation images, {VALIDATION_ATTACK} at \u03b5 = {eps_text(eps)}; "
    title += "ring: best checkpoint, if not the last"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    several = any(course.cells[-1].std is not None for course in found)
    heading = "last epoch (%)\n" + ("\u00b1 std over seeds" if several else "[95% interval]")
    figure.legend(
        loc="outside right center",
        frameon=False,
        handlelength=2.8,
        title=heading,
        title_fontsize=9.0,
        alignment="left",
    )
    return figure


def _scored(run: RunRecord) -> bool:
    return bool(run.history) and all("val_robust" in row for row in run.history)


def _course(label: str, method: str, runs: Sequence[RunRecord]) -> Course:
    n_epochs = min(len(run.history) for run in runs)
    cells = [_cell([run.history[epoch] for run in runs]) for epoch in range(n_epochs)]
    checkpoints = (runs[0].train or {}).get("checkpoints", {})
    best = checkpoints.get("best", {}).get("epoch")
    return Course(label=label, method=method, cells=tuple(cells), best=best)


def _cell(rows: Sequence[Any]) -> Cell:
    """Of one epoch over the seeds."""
    estimates = []
    for row in rows:
        n, value = int(row["n_val"]), float(row["val_robust"])
        low, high = wilson(round(value * n), n)
        estimates.append(Estimate(value=value, low=low, high=high, n=n, n_expected=n))
    return over_seeds(estimates, estimates[0].n)


def _legend_text(course: Course) -> str:
    cell = course.cells[-1]
    if cell.value is None:
        return legend_label(f"{course.label}: {MISSING}")
    spread = ""
    if cell.std is not None:
        spread = f" \u00b1 {percent(cell.std)}"
    elif cell.low is not None and cell.high is not None:
        spread = f" [{percent(cell.low)}, {percent(cell.high)}]"
    return legend_label(f"{course.label}: {percent(cell.value)}{spread}")


def _csv(found: Sequence[Course], note: str) -> bytes:
    rows = [
        [course.label, epoch + 1, *numbers(cell), int(epoch == course.best)]
        for course in found
        for epoch, cell in enumerate(course.cells)
    ]
    return csv_bytes(("method", "epoch", *NUMBERS, "best"), rows, note)
