"""Figure 4b: what of CAT does it. Its radius, its labels and both, against the radius of attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.report.aggregate import AUTOATTACK, CW, PGD
from bench.report.artefacts.artefact import Made
from bench.report.artefacts.parts import Part, lacks, parts
from bench.report.artefacts.series import (
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
from bench.report.groups import same_eps
from bench.report.picture import fitted, picture_files
from bench.report.style import styles
from bench.report.suite_runs import SuiteRuns
from bench.report.units import eps_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Figure 4b: ablations of CAT against the radius"
_DOTS = (PGD, CW, AUTOATTACK)
_HEIGHT = 3.6


def make_figure4b(chosen: SuiteRuns, note: str) -> Made:
    """figure4b.png, .svg and .csv; no files where nothing was attacked."""
    (part,) = parts(chosen)
    curves = against_eps(part, PGD)
    others = [one for attack in _DOTS[1:] for one in against_eps(part, attack, clean=False)]
    if not curves and not others:
        return Made(files={}, lacks=lacks(chosen))
    origin = remark(chosen, note)
    caption = captioned(chosen, (one.label for one in [*curves, *others]))
    pictures = picture_files(
        lambda: draw_figure4b(part, curves, others, caption), origin, "figure 4b"
    )
    files = {f"figure4b{suffix}": content for suffix, content in pictures.items()}
    files["figure4b.csv"] = csv_bytes(csv_head("eps"), csv_rows([*curves, *others]), origin)
    return Made(files=files, lacks=lacks(chosen))


def draw_figure4b(
    part: Part, curves: Sequence[Series], others: Sequence[Series], caption: str
) -> Figure:
    """PGD-20 over the radii; beside it three attacks at the training radius."""
    from matplotlib.figure import Figure

    everything, eps = [*curves, *others], part.study.eps
    look = styles(one.label for one in everything)
    figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.15, 1.0])
    for one in curves:
        draw_line(left, one, look[one.label])
    eps_axis(left, [point.x for one in everything for point in one.points], eps)
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
    title = (TITLE, reading(everything, [eps]), caption)
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
    """Every method's accuracy at one radius."""
    return [
        replace(one, points=(point,))
        for one in found
        for point in one.points
        if one.attack == attack and same_eps(point.x, eps)
    ]
