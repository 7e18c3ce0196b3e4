"""Figure 2: robust accuracy against the radius under PGD-20 and C&W, and AutoAttack beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.report.aggregate import AUTOATTACK, CW, PGD
from bench.report.artefacts.artefact import Made
from bench.report.artefacts.parts import Part, lacks, parts
from bench.report.artefacts.series import (
    EPS_LABEL,
    TITLES,
    WIDTH,
    Series,
    against_eps,
    csv_head,
    csv_rows,
    draw_dots,
    draw_line,
    eps_axis,
    legend_entries,
    percent_axis,
    reading,
)
from bench.report.artefacts.trained import captioned
from bench.report.artefacts.written import csv_bytes, remark
from bench.report.picture import fitted, picture_files
from bench.report.style import Style, styles
from bench.report.suite_runs import SuiteRuns
from bench.report.units import eps_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Figure 2: robust accuracy against the radius"
_CURVES = (PGD, CW)
_ROW_INCHES = 2.7
_LEGEND_COLUMNS = 5


def make_figure2(chosen: SuiteRuns, note: str) -> Made:
    """figure2.png, .svg and .csv; no files where nothing was attacked."""
    found = [(part, own) for part in parts(chosen) if (own := drawn(part))]
    rows = [one for _, own in found for one in own]
    if not rows:
        return Made(files={}, lacks=lacks(chosen))
    origin = remark(chosen, note)
    caption = captioned(chosen, (one.label for one in rows))
    pictures = picture_files(lambda: draw_figure2(found, caption), origin, "figure 2")
    files = {f"figure2{suffix}": content for suffix, content in pictures.items()}
    files["figure2.csv"] = csv_bytes(csv_head("eps"), csv_rows(rows), origin)
    return Made(files=files, lacks=lacks(chosen))


def drawn(part: Part) -> list[Series]:
    """The curves, then AutoAttack at its radii."""
    curves = [one for attack in _CURVES for one in against_eps(part, attack)]
    return [*curves, *against_eps(part, AUTOATTACK, clean=False)]


def draw_figure2(found: Sequence[tuple[Part, Sequence[Series]]], caption: str) -> Figure:
    """A row of panels for each network, on one scale of accuracy; the legend below them."""
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
    for axes, attack in zip(panels, _CURVES, strict=False):
        curves = [one for one in own if one.attack == attack]
        for one in curves:
            draw_line(axes, one, look[one.label])
        radii = [point.x for one in own for point in one.points]
        eps_axis(axes, radii, part.study.eps)
        axes.set_title(f"{part.study.arch}, {TITLES[attack]}", fontsize=9.5)
    marked = [one for one in own if one.attack == AUTOATTACK]
    radii = sorted({point.x for one in marked for point in one.points})
    groups = {
        eps_text(eps): [
            replace(one, points=(point,))
            for one in marked
            for point in one.points
            if point.x == eps
        ]
        for eps in radii
    }
    draw_dots(panels[-1], groups, look)
    panels[-1].set_title(f"{part.study.arch}, {TITLES[AUTOATTACK]}", fontsize=9.5)
    panels[-1].set_xlabel(EPS_LABEL, parse_math=True)
    for axes in panels:
        percent_axis(axes)
    panels[0].set_ylabel("accuracy on test images (%)")
