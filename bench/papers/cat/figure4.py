"""Figure 4: accuracy against the steps of PGD (a), and ablations of CAT against the radius (b).

A fall over the steps means that few steps are not enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.papers.cat.parts import Part, lacks, parts
from bench.papers.cat.series import (
    COLUMN,
    WIDTH,
    Series,
    against_eps,
    draw_dots,
    draw_line,
    eps_axis,
    grid,
    in_order,
    legend_entries,
    percent_axis,
    reading,
    series,
    series_rows,
)
from bench.papers.cat.trainings import alarm_note, captioned
from bench.report.accuracy import AccuracyEstimate, error_limits
from bench.report.artefact import Output
from bench.report.export import fitted, legend_label
from bench.report.formatting import eps_text, percent
from bench.report.select import same_eps
from bench.report.style import styles
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import AUTOATTACK, CW, PGD, TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE_A = "Figure 4a: accuracy against the steps of PGD"
TITLE_B = "Figure 4b: ablations of CAT against the radius"
_PGD = re.compile(r"pgd-(\d+)")
_DOTS = (PGD, CW, AUTOATTACK)
_POINTS = 8.0
"""Font size of the column-wide figure."""


@dataclass(frozen=True, kw_only=True)
class StepSeries:
    """One method: its accuracy over the steps, and how it changes from the fewest to each."""

    line: Series
    changes: tuple[AccuracyEstimate | None, ...]
    """Aligned with the points, on the same images; None at the fewest steps."""


def make_figure4a(chosen: SuiteRuns) -> Output:
    """Return accuracy by steps; nothing if nothing was attacked."""
    (part,) = parts(chosen)
    found = [one for method in part.study.methods if (one := _steps(part, method))]
    if not found:
        return Output(lacks=lacks([part]))
    labels = [one.line.label for one in found]
    return Output(
        numbers={"figure4a": pd.DataFrame(_step_rows(found))},
        figures={"figure4a": partial(_draw_steps, found, part, captioned(chosen, labels))},
        note=alarm_note(labels),
        lacks=lacks([part]),
    )


def _steps(part: Part, method: str) -> StepSeries | None:
    """Return a method's accuracy by rising steps; None if it was never attacked by such PGD."""
    attacks = [(_PGD.fullmatch(asked.name), asked) for asked in part.study.attacks]
    known = [
        (n, asked, estimate)
        for n, asked in sorted(((int(m[1]), a) for m, a in attacks if m), key=lambda pair: pair[0])
        if (estimate := part.accuracy(method, asked))
    ]
    if not known:
        return None
    changes = [part.difference(method, asked, known[0][1]) for _, asked, _ in known[1:]]
    line = series(part, method, "pgd", [(n, estimate) for n, _, estimate in known])
    return StepSeries(line=line, changes=(None, *changes))


def _step_rows(found: Sequence[StepSeries]) -> Iterator[dict[str, Any]]:
    for one in found:
        for row, change in zip(series_rows([one.line], "steps"), one.changes, strict=True):
            yield row | {
                "change": change.value if change else None,
                "change_low": change.low if change else None,
                "change_high": change.high if change else None,
            }


def _draw_steps(found: Sequence[StepSeries], part: Part, caption: str) -> Figure:
    """Draw one panel as wide as a column; the legend says how far each method falls."""
    from matplotlib.figure import Figure

    lines = [one.line for one in found]
    look = styles(line.label for line in lines)
    figure = Figure(figsize=(COLUMN, 3.5 + 0.13 * len(found)), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        draw_line(axes, line, look[line.label])
    _step_axes(axes, lines)
    axes.set_title(
        rf"{part.study.arch}, $\epsilon$ = {eps_text(part.study.eps)}",
        fontsize=9.5,
        parse_math=True,
    )
    title = (TITLE_A, reading(lines), caption)
    figure.suptitle(fitted(title, COLUMN * 9.0 / _POINTS), fontsize=_POINTS)
    handles, names = axes.get_legend_handles_labels()
    by_name = dict(zip(names, handles, strict=True))
    changes = {one.line.label: _change_text(one) for one in found}
    steps = [x for line in lines for x, _ in line.points]
    figure.legend(
        [by_name[legend_label(name)] for name in in_order(lines)],
        [f"{legend_label(name)}{changes[name]}" for name in in_order(lines)],
        loc="outside lower center",
        frameon=False,
        fontsize=_POINTS,
        handlelength=2.6,
        title=f"change in points, {min(steps):g} to {max(steps):g} steps (same images)",
        title_fontsize=_POINTS,
    )
    return figure


def _step_axes(axes: Axes, lines: Sequence[Series]) -> None:
    """Scale accuracy to the numbers: few points separate the steps."""
    steps = sorted({x for line in lines for x, _ in line.points})
    axes.set_xscale("log")
    axes.set_xticks(steps, [f"{n:g}" for n in steps])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("steps of PGD (log scale)")
    axes.set_ylabel("accuracy on test images (%)")
    edges = [100 * edge for line in lines for _, e in line.points for edge in error_limits(e)]
    room = 0.05 * (max(edges) - min(edges)) + 0.5
    axes.set_ylim(min(edges) - room, max(edges) + room)
    grid(axes)


def _change_text(one: StepSeries) -> str:
    """Return `: -2.1 [-3.0, -1.3]`; empty for a single number of steps."""
    change = one.changes[-1]
    if change is None or change.value is None:
        return ""
    if change.std is not None:
        return f": {percent(change.value)} \u00b1 {percent(change.std)}"
    low, high = error_limits(change)
    return f": {percent(change.value)} [{percent(low)}, {percent(high)}]"


def make_figure4b(chosen: SuiteRuns) -> Output:
    """Return PGD-20 over the radii and three attacks at the training radius."""
    (part,) = parts(chosen)
    curves = against_eps(part, PGD)
    others = [one for attack in _DOTS[1:] for one in against_eps(part, attack, clean=False)]
    if not curves and not others:
        return Output(lacks=lacks([part]))
    labels = [one.label for one in [*curves, *others]]
    caption = captioned(chosen, labels)
    return Output(
        numbers={"figure4b": pd.DataFrame(series_rows([*curves, *others], "eps"))},
        figures={"figure4b": partial(_draw_ablations, part, curves, others, caption)},
        note=alarm_note(labels),
        lacks=lacks([part]),
    )


def _draw_ablations(
    part: Part, curves: Sequence[Series], others: Sequence[Series], caption: str
) -> Figure:
    from matplotlib.figure import Figure

    everything, eps = [*curves, *others], part.study.eps
    look = styles(one.label for one in everything)
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.15, 1.0])
    for one in curves:
        draw_line(left, one, look[one.label])
    eps_axis(left, [x for one in everything for x, _ in one.points], eps)
    left.set_title(f"{part.study.arch}, {TITLES[PGD]}", fontsize=9.5)
    left.set_ylabel("accuracy on test images (%)")
    groups = {TITLES[attack]: _at(everything, attack, eps) for attack in _DOTS}
    draw_dots(right, {name: group for name, group in groups.items() if group}, look)
    right.set_title(
        rf"{part.study.arch}, at $\epsilon$ = {eps_text(eps)}", fontsize=9.5, parse_math=True
    )
    right.set_xlabel("attack")
    for axes in (left, right):
        percent_axis(axes)
    title = (TITLE_B, reading(everything, [eps]), caption)
    figure.suptitle(fitted(title, WIDTH), fontsize=9.0)
    figure.legend(
        *legend_entries([left, right]),
        loc="outside lower center",
        frameon=False,
        ncols=len(look),
        handlelength=2.6,
    )
    return figure


def _at(found: Sequence[Series], attack: str, eps: float) -> list[Series]:
    """Return every method's accuracy at one radius."""
    return [
        replace(one, points=(point,))
        for one in found
        for point in one.points
        if one.attack == attack and same_eps(point[0], eps)
    ]
