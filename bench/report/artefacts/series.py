"""Accuracy of methods along a number, or under several attacks: what is drawn and what is written.

Colour, marker and dash are the method's own in every figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report.artefacts.parts import CLEAN, Part
from bench.report.artefacts.written import NUMBERS, limits, numbers
from bench.report.joins import Cell
from bench.report.picture import legend_label
from bench.report.style import Style, order
from bench.report.units import eps_text, span

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

WIDTH = 7.0
"""Inches: of a page's text. Half of it is a column."""
COLUMN = 3.5
TITLES = {"pgd-20": "PGD-20", "cw": "C&W", "autoattack": "AutoAttack"}
"""How an attack is named in a figure."""
EPS_LABEL = r"$L_\infty$ radius $\epsilon$ (pixels in [0, 1])"
_BAND = 0.13
"""Opacity, so that ten bands leave every line to be seen."""

_APART = 0.16
"""Of two dots of one group at most, in distances of the groups."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One accuracy; `x` is a radius or a number of steps."""

    x: float
    cell: Cell


@dataclass(frozen=True, kw_only=True)
class Series:
    """One method under one attack, by rising x."""

    arch: str
    method: str
    label: str
    """With the mark of an alarm."""
    attack: str
    points: tuple[Point, ...]


def against_eps(part: Part, attack: str, *, clean: bool = True) -> list[Series]:
    """Every method that has the attack, over its radii; `clean`: without an attack at eps 0."""
    found = []
    for method in part.study.methods:
        asked = part.attacks(attack)
        points = [_point(part.eps(a), part.cell(method, a)) for a in asked]
        attacked = [point for point in points if point]
        if attacked and clean:
            unattacked = (part.cell(method, a) for a in part.attacks(CLEAN))
            points = [*(_point(0.0, cell) for cell in unattacked), *attacked]
        if attacked:
            known = tuple(point for point in points if point)
            found.append(series(part, method, attack, known))
    return found


def series(part: Part, method: str, attack: str, points: Iterable[Point]) -> Series:
    """Of a method of the part."""
    return Series(
        arch=part.study.arch,
        method=method,
        label=part.label(method),
        attack=attack,
        points=tuple(points),
    )


def _point(x: float, cell: Cell | None) -> Point | None:
    return None if cell is None else Point(x=x, cell=cell)


def draw_line(axes: Axes, one: Series, style: Style) -> None:
    """A line with its band: the 95% interval of one seed, a standard deviation of several."""
    x = [point.x for point in one.points]
    band = [[100 * edge for edge in limits(point.cell)] for point in one.points]
    low, high = [edges[0] for edges in band], [edges[1] for edges in band]
    axes.fill_between(x, low, high, color=style.colour, alpha=_BAND, linewidth=0)
    axes.plot(
        x,
        [100 * (point.cell.value or 0.0) for point in one.points],
        label=legend_label(one.label),
        color=style.colour,
        marker=style.marker,
        linestyle=style.dash,
        linewidth=1.3,
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
    )


def draw_dot(axes: Axes, x: float, cell: Cell, style: Style, label: str) -> None:
    """One accuracy with its interval."""
    value, (low, high) = cell.value or 0.0, limits(cell)
    axes.errorbar(
        [x],
        [100 * value],
        yerr=[[100 * (value - low)], [100 * (high - value)]],
        label=legend_label(label),
        color=style.colour,
        marker=style.marker,
        linestyle="none",
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        elinewidth=0.9,
        capsize=1.6,
    )


def draw_dots(
    axes: Axes, groups: Mapping[str, Sequence[Series]], look: Mapping[str, Style]
) -> None:
    """A group of dots for each heading, every method at its own place in each of them.

    Every series has one point.
    """
    methods = in_order(one for group in groups.values() for one in group)
    step = min(0.8 / max(1, len(methods)), _APART)
    for place, group in enumerate(groups.values()):
        for one in group:
            offset = (methods.index(one.label) - (len(methods) - 1) / 2) * step
            draw_dot(axes, place + offset, one.points[0].cell, look[one.label], one.label)
    for place in range(len(groups) - 1):
        axes.axvline(place + 0.5, color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_xlim(-0.5, max(1, len(groups)) - 0.5)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.tick_params(axis="x", length=0)


def percent_axis(axes: Axes) -> None:
    """Accuracy from 0 to 100, with a grid that lines stand out from."""
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
    grid(axes)


def grid(axes: Axes) -> None:
    """Faint horizontal lines behind everything."""
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def eps_axis(axes: Axes, radii: Iterable[float], trained: float) -> None:
    """From 0 to the largest radius; the training radius as a dotted line."""
    last = max(radii)
    axes.set_xlim(-0.03 * last, 1.03 * last)
    axes.set_xlabel(EPS_LABEL, parse_math=True)
    if trained <= last:
        axes.axvline(trained, color="#777777", linewidth=0.8, linestyle=":", zorder=0)


def legend_entries(panels: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """Each label once, in the methods' order."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    names = sorted(handles, key=lambda name: order(name.split()[0]))
    return [handles[name] for name in names], names


def in_order(found: Iterable[Series]) -> list[str]:
    """Labels in the order of the paper's methods."""
    methods = {one.label: one.method for one in found}
    return sorted(methods, key=lambda label: order(methods[label]))


def reading(found: Iterable[Series], trained: Iterable[float] = ()) -> str:
    """What a figure's title says of its numbers: images, intervals, the dotted line."""
    found = list(found)
    several = any(point.cell.std is not None for one in found for point in one.points)
    bars = "95% intervals (Wilson)" + (", or standard deviation over seeds" if several else "")
    lines = ", ".join(dict.fromkeys(eps_text(eps) for eps in trained))
    dotted = f"; dotted: training radius {lines}" if lines else ""
    return f"{_images(found)}, {bars}{dotted}"


def _images(found: Sequence[Series]) -> str:
    """`n = 1000 test images (AutoAttack 256)`."""
    counts: dict[str, list[int]] = {}
    for one in found:
        own = [n for point in one.points for n in point.cell.n]
        counts.setdefault(TITLES.get(one.attack, one.attack), []).extend(own)
    spans = {attack: span(tuple(n)) for attack, n in counts.items()}
    usual = next(iter(spans.values()))
    others = [f"{attack} {n}" for attack, n in spans.items() if n != usual]
    return f"n = {usual} test images" + (f" ({', '.join(others)})" if others else "")


def csv_rows(found: Iterable[Series]) -> Iterator[list[str]]:
    """The drawn numbers, under `csv_head`."""
    for one in found:
        for point in one.points:
            head = (one.arch, one.method, one.label, one.attack, f"{point.x:.9g}")
            yield [*head, *numbers(point.cell)]


def csv_head(x: str) -> tuple[str, ...]:
    """The header of `csv_rows`; `x` names the number along which they go."""
    return ("arch", "method", "label", "attack", x, *NUMBERS)
