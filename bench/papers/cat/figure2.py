"""Figure 2: robust accuracy against the radius under PGD-20 and C&W, and AutoAttack next to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from bench.papers.cat.parts import Part, lacks, parts
from bench.papers.cat.series import (
    EPS_LABEL,
    WIDTH,
    Series,
    against_eps,
    draw_dots,
    draw_line,
    eps_axis,
    legend_entries,
    percent_axis,
    reading,
    series_rows,
)
from bench.papers.cat.trainings import alarm_note, captioned
from bench.report.artefact import Output
from bench.report.export import fitted
from bench.report.formatting import eps_text
from bench.report.style import Style, styles
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import AUTOATTACK, CW, PGD, TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Figure 2: robust accuracy against the radius"
_CURVES = (PGD, CW)
_ROW_INCHES = 2.7
_LEGEND_COLUMNS = 5


def make_figure2(chosen: SuiteRuns) -> Output:
    """Return the curves of every network; nothing if nothing was attacked."""
    found = parts(chosen)
    drawn = [(part, own) for part in found if (own := _series(part))]
    everything = [one for _, own in drawn for one in own]
    if not everything:
        return Output(lacks=lacks(found))
    labels = [one.label for one in everything]
    return Output(
        numbers={"figure2": pd.DataFrame(series_rows(everything, "eps"))},
        figures={"figure2": partial(_draw, drawn, captioned(chosen, labels))},
        note=alarm_note(labels),
        lacks=lacks(found),
    )


def _series(part: Part) -> list[Series]:
    curves = [one for attack in _CURVES for one in against_eps(part, attack)]
    return [*curves, *against_eps(part, AUTOATTACK, clean=False)]


def _draw(found: Sequence[tuple[Part, Sequence[Series]]], caption: str) -> Figure:
    """Draw a row of panels per network, on one scale of accuracy; the legend below them."""
    from matplotlib.figure import Figure

    everything = [one for _, own in found for one in own]
    look = styles(one.label for one in everything)
    height = _ROW_INCHES * len(found) + 1.1
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    widths = (*(1.0 for _ in _CURVES), 0.95)
    rows = figure.subplots(
        len(found), len(widths), sharey=True, squeeze=False, width_ratios=list(widths)
    )
    for axes, (part, own) in zip(rows, found, strict=True):
        _row(axes, part, own, look)
    trained = [part.study.eps for part, _ in found]
    title = (TITLE, reading(everything, trained), caption)
    figure.suptitle(fitted(title, WIDTH), fontsize=9.0)
    figure.legend(
        *legend_entries(rows[:, 0]),
        loc="outside lower center",
        frameon=False,
        ncols=_LEGEND_COLUMNS,
        handlelength=2.6,
    )
    return figure


def _row(panels: Sequence[Axes], part: Part, own: Sequence[Series], look: dict[str, Style]) -> None:
    radii = [x for one in own for x, _ in one.points]
    for axes, attack in zip(panels, _CURVES, strict=False):
        for one in own:
            if one.attack == attack:
                draw_line(axes, one, look[one.label])
        eps_axis(axes, radii, part.study.eps)
        axes.set_title(f"{part.study.arch}, {TITLES[attack]}", fontsize=9.5)
    groups: dict[str, list[Series]] = {}
    marked = [one for one in own if one.attack == AUTOATTACK]
    for eps in sorted({x for one in marked for x, _ in one.points}):
        groups[eps_text(eps)] = [
            replace(one, points=(point,))
            for one in marked
            for point in one.points
            if point[0] == eps
        ]
    draw_dots(panels[-1], groups, look)
    panels[-1].set_title(f"{part.study.arch}, {TITLES[AUTOATTACK]}", fontsize=9.5)
    panels[-1].set_xlabel(EPS_LABEL, parse_math=True)
    for axes in panels:
        percent_axis(axes)
    panels[0].set_ylabel("accuracy on test images (%)")
