"""Figure 4a: accuracy against the steps of PGD. A fall says that few are not enough."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report.artefacts.artefact import Made
from bench.report.artefacts.parts import Part, lacks, parts
from bench.report.artefacts.series import (
    COLUMN,
    Point,
    Series,
    csv_head,
    csv_rows,
    draw_line,
    grid,
    in_order,
    reading,
    series,
)
from bench.report.artefacts.trained import captioned
from bench.report.artefacts.written import csv_bytes, fraction, limits, remark
from bench.report.joins import Cell, difference, over_seeds
from bench.report.picture import fitted, legend_label, picture_files
from bench.report.style import styles
from bench.report.suite_runs import SuiteRuns
from bench.report.units import eps_text, percent
from bench.study import AskedAttack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Figure 4a: accuracy against the steps of PGD"
_PGD = re.compile(r"pgd-(\d+)")
_POINTS = 8.0
"""Of the small print: a column is narrow."""
_CHANGE = ("change", "change_low", "change_high")
"""From the fewest steps to these, on the same images."""


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """One method: its accuracy over the steps, and how far it moves from the fewest to each."""

    line: Series
    changes: tuple[Cell | None, ...]
    """Aligned with the points; None at the fewest."""


def make_figure4a(chosen: SuiteRuns, note: str) -> Made:
    """figure4a.png, .svg and .csv; no files where nothing was attacked."""
    (part,) = parts(chosen)
    found = [one for method in part.study.methods if (one := stepped(part, method))]
    if not found:
        return Made(files={}, lacks=lacks(chosen))
    origin = remark(chosen, note)
    caption = captioned(chosen, (one.line.label for one in found))
    pictures = picture_files(lambda: draw_figure4a(found, part, caption), origin, "figure 4a")
    files = {f"figure4a{suffix}": content for suffix, content in pictures.items()}
    files["figure4a.csv"] = csv_bytes((*csv_head("steps"), *_CHANGE), _rows(found), origin)
    return Made(files=files, lacks=lacks(chosen))


def stepped(part: Part, method: str) -> Stepped | None:
    """A method's accuracy by rising steps; None where it was never attacked so."""
    cells = [(n, asked, part.cell(method, asked)) for n, asked in _steps(part)]
    known = [(n, asked, cell) for n, asked, cell in cells if cell is not None]
    if not known:
        return None
    points = [Point(x=n, cell=cell) for n, _, cell in known]
    fewest = known[0][1]
    changes = [_change(part, method, fewest, asked) for _, asked, _ in known[1:]]
    return Stepped(line=series(part, method, "pgd", points), changes=(None, *changes))


def _steps(part: Part) -> list[tuple[int, AskedAttack]]:
    found = [(_PGD.fullmatch(asked.name), asked) for asked in part.study.attacks]
    return sorted(((int(m[1]), a) for m, a in found if m), key=lambda pair: pair[0])


def _change(part: Part, method: str, fewest: AskedAttack, asked: AskedAttack) -> Cell | None:
    pairs = [
        (a, b)
        for run in part.runs(method)
        if (a := part.flags(run, asked)) and (b := part.flags(run, fewest))
    ]
    if not pairs:
        return None
    n_expected = max(min(a.n_expected, b.n_expected) for a, b in pairs)
    return over_seeds([difference(a, b) for a, b in pairs], n_expected)


def draw_figure4a(found: Sequence[Stepped], part: Part, caption: str) -> Figure:
    """One panel as wide as a column; the legend says how far each method falls."""
    from matplotlib.figure import Figure

    lines = [one.line for one in found]
    look = styles(line.label for line in lines)
    figure = Figure(figsize=(COLUMN, 3.5 + 0.13 * len(found)), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        draw_line(axes, line, look[line.label])
    _axes(axes, lines)
    axes.set_title(
        rf"{part.study.arch}, $\epsilon$ = {eps_text(part.study.eps)}",
        fontsize=9.5,
        parse_math=True,
    )
    title = (TITLE, reading(lines), caption)
    figure.suptitle(fitted(title, COLUMN * 9.0 / _POINTS), fontsize=_POINTS)
    handles, names = axes.get_legend_handles_labels()
    by_name = dict(zip(names, handles, strict=True))
    changes = {one.line.label: _change_text(one) for one in found}
    order = in_order(lines)
    figure.legend(
        [by_name[legend_label(name)] for name in order],
        [f"{legend_label(name)}{changes[name]}" for name in order],
        loc="outside lower center",
        frameon=False,
        fontsize=_POINTS,
        handlelength=2.6,
        title=_legend_title(found),
        title_fontsize=_POINTS,
    )
    return figure


def _axes(axes: Axes, lines: Sequence[Series]) -> None:
    """Few points separate the steps, so the scale of accuracy is that of the numbers."""
    steps = sorted({point.x for line in lines for point in line.points})
    axes.set_xscale("log")
    axes.set_xticks(steps, [f"{n:g}" for n in steps])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("steps of PGD (log scale)")
    axes.set_ylabel("accuracy on test images (%)")
    edges = [100 * edge for line in lines for p in line.points for edge in limits(p.cell)]
    room = 0.05 * (max(edges) - min(edges)) + 0.5
    axes.set_ylim(min(edges) - room, max(edges) + room)
    grid(axes)


def _legend_title(found: Sequence[Stepped]) -> str:
    steps = [point.x for one in found for point in one.line.points]
    return f"change in points, {min(steps):g} to {max(steps):g} steps (same images)"


def _change_text(one: Stepped) -> str:
    """`: -2.1 [-3.0, -1.3]`; empty where there is but one number of steps."""
    change = one.changes[-1]
    if change is None or change.value is None:
        return ""
    if change.std is not None:
        return f": {percent(change.value)} \u00b1 {percent(change.std)}"
    low, high = limits(change)
    return f": {percent(change.value)} [{percent(low)}, {percent(high)}]"


def _rows(found: Sequence[Stepped]) -> Iterator[list[str]]:
    for one in found:
        for row, change in zip(csv_rows([one.line]), one.changes, strict=True):
            numbers = (change.value, change.low, change.high) if change else (None, None, None)
            yield [*row, *map(fraction, numbers)]
