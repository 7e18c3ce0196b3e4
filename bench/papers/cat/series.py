"""Accuracy of methods along a radius or a number of steps: Figures 2 and 4.

Colour, marker and dash belong to the method in every figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.papers.cat.parts import CLEAN, Part
from bench.report.accuracy import AccuracyEstimate, error_limits
from bench.report.columns import estimate_cells, number
from bench.report.export import legend_label
from bench.report.formatting import eps_text, span
from bench.report.style import Style, order
from bench.report.titles import attack_title

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

WIDTH = 7.0
"""Inches: of a page's text. Half of it is a column."""
COLUMN = 3.5
EPS_LABEL = r"$L_\infty$ radius $\epsilon$ (pixels in [0, 1])"
_BAND = 0.13
"""Opacity: ten bands leave every line visible."""
_APART = 0.16
"""Largest distance of two dots of one group, in distances of the groups."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One method under one attack, by rising x."""

    arch: str
    method: str
    label: str
    """With the mark of an alarm."""
    attack: str
    points: tuple[tuple[float, AccuracyEstimate], ...]
    """x, a radius or a number of steps, and the accuracy there."""


def against_eps(part: Part, attack: str, *, clean: bool = True) -> list[Series]:
    """Return every method that has the attack, over its radii; with `clean` also at eps 0."""
    asked = part.attacks(attack)
    unattacked = part.attacks(CLEAN) if clean else []
    found = []
    for method in part.study.methods:
        attacked = _known((part.eps(a), part.accuracy(method, a)) for a in asked)
        if attacked:
            start = _known((0.0, part.accuracy(method, a)) for a in unattacked)
            found.append(series(part, method, attack, [*start, *attacked]))
    return found


def series(
    part: Part, method: str, attack: str, points: Iterable[tuple[float, AccuracyEstimate]]
) -> Series:
    """Return a series of a method of the part."""
    return Series(
        arch=part.study.arch,
        method=method,
        label=part.label(method),
        attack=attack,
        points=tuple(points),
    )


def _known(
    points: Iterable[tuple[float, AccuracyEstimate | None]],
) -> list[tuple[float, AccuracyEstimate]]:
    return [(x, estimate) for x, estimate in points if estimate is not None]


def draw_line(axes: Axes, one: Series, style: Style) -> None:
    """Draw a line in a band: the 95% interval of one seed, a standard deviation of several."""
    x = [x for x, _ in one.points]
    low, high = zip(*(error_limits(estimate) for _, estimate in one.points), strict=True)
    axes.fill_between(
        x,
        [100 * edge for edge in low],
        [100 * edge for edge in high],
        color=style.colour,
        alpha=_BAND,
        linewidth=0,
    )
    axes.plot(
        x,
        [100 * (estimate.value or 0.0) for _, estimate in one.points],
        label=legend_label(one.label),
        linewidth=1.3,
        markersize=4.5,
        **style.line,
    )


def draw_dots(
    axes: Axes, groups: Mapping[str, Sequence[Series]], look: Mapping[str, Style]
) -> None:
    """Draw a group of dots per heading, every method at its own place in each of them.

    Every series has one point.
    """
    methods = in_order(one for group in groups.values() for one in group)
    step = min(0.8 / max(1, len(methods)), _APART)
    for place, group in enumerate(groups.values()):
        for one in group:
            (_, estimate), style = one.points[0], look[one.label]
            value, (low, high) = estimate.value or 0.0, error_limits(estimate)
            axes.errorbar(
                [place + (methods.index(one.label) - (len(methods) - 1) / 2) * step],
                [100 * value],
                yerr=[[100 * (value - low)], [100 * (high - value)]],
                label=legend_label(one.label),
                markersize=4.5,
                elinewidth=0.9,
                capsize=1.6,
                **style.line | {"linestyle": "none"},
            )
    for place in range(len(groups) - 1):
        axes.axvline(place + 0.5, color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_xlim(-0.5, max(1, len(groups)) - 0.5)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.tick_params(axis="x", length=0)


def percent_axis(axes: Axes) -> None:
    """Scale accuracy from 0 to 100, with a faint grid."""
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
    grid(axes)


def grid(axes: Axes) -> None:
    """Draw faint horizontal lines behind everything."""
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def eps_axis(axes: Axes, radii: Iterable[float], trained: float) -> None:
    """Scale from 0 to the largest radius, with the training radius as a dotted line."""
    last = max(radii)
    axes.set_xlim(-0.03 * last, 1.03 * last)
    axes.set_xlabel(EPS_LABEL, parse_math=True)
    if trained <= last:
        axes.axvline(trained, color="#777777", linewidth=0.8, linestyle=":", zorder=0)


def legend_entries(panels: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """Return the handle of each label once, in the methods' order."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    names = sorted(handles, key=lambda name: order(name.split()[0]))
    return [handles[name] for name in names], names


def in_order(found: Iterable[Series]) -> list[str]:
    """Return the labels in the order of the paper's methods."""
    methods = {one.label: one.method for one in found}
    return sorted(methods, key=lambda label: order(methods[label]))


def reading(found: Sequence[Series], trained: Iterable[float] = ()) -> str:
    """Return what a figure's title says of its numbers: images, intervals, the dotted line."""
    several = any(estimate.std is not None for one in found for _, estimate in one.points)
    bars = "95% intervals (Wilson)" + (", or standard deviation over seeds" if several else "")
    lines = ", ".join(dict.fromkeys(eps_text(eps) for eps in trained))
    dotted = f"; dotted: training radius {lines}" if lines else ""
    counts: dict[str, list[int]] = {}
    for one in found:
        own = [n for _, estimate in one.points for n in estimate.n]
        counts.setdefault(attack_title(one.attack), []).extend(own)
    spans = {attack: span(n) for attack, n in counts.items()}
    usual = next(iter(spans.values()))
    others = [f"{attack} {n}" for attack, n in spans.items() if n != usual]
    images = f"n = {usual} test images" + (f" ({', '.join(others)})" if others else "")
    return f"{images}, {bars}{dotted}"


def series_rows(found: Iterable[Series], x: str) -> Iterator[dict[str, Any]]:
    """Yield the drawn numbers as rows of a .csv; `x` names the column of the abscissa."""
    for one in found:
        for place, estimate in one.points:
            yield {
                "arch": one.arch,
                "method": one.method,
                "label": one.label,
                "attack": one.attack,
                x: number(place, "%.9g"),
                **estimate_cells(estimate),
            }
