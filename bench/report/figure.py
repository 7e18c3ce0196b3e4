"""Robust accuracy against eps, drawn."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.report.curves import PANELS, Curve
from bench.report.groups import Setting
from bench.report.picture import legend_label, picture_files
from bench.report.style import Style, order, styles
from bench.report.units import eps_text, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_INCHES = (3.1, 3.1)
"""Two panels and the legend fit the width of a page, so that the print keeps its font size."""
_LABEL_FRACTION = 0.17
"""Least distance of two labels on the eps axis, in units of its length."""
_LEGEND_ROWS = 24


def figure_files(
    curves: Sequence[Curve], setting: Setting, note: str, drawn: Sequence[Curve] | None = None
) -> dict[str, bytes]:
    """The .png, .svg and .csv of one setting, by suffix. `note` says where the numbers are from.

    `drawn`: those of the curves that the pictures show; None is all.
    """
    shown = curves if drawn is None else drawn
    pictures = picture_files(lambda: draw(shown, setting), note, "robust accuracy")
    return {**pictures, ".csv": _csv(curves, note).encode()}


def draw(curves: Sequence[Curve], setting: Setting) -> Figure:
    """One panel an attack, side by side, with one legend beside them."""
    from matplotlib.figure import Figure

    attacks = [attack for attack in PANELS if any(c.attack == attack for c in curves)]
    width, height = _PANEL_INCHES
    labels = {_legend_text(c): (order(c.method), c.label) for c in curves}
    n_columns = 1 + (len(labels) - 1) // _LEGEND_ROWS
    legend_width = n_columns * (0.7 + 0.075 * max(len(label) for label in labels))
    total = width * len(attacks) + legend_width
    size = (total, max(height, 1.2 + 0.21 * min(len(labels), _LEGEND_ROWS)))
    figure = Figure(figsize=size, layout="constrained")
    look = styles(curve.label for curve in curves)
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    radii = sorted({point.eps for curve in curves for point in curve.points})
    for axes, attack in zip(panels, attacks, strict=True):
        _lines(axes, [c for c in curves if c.attack == attack], look)
        _axis(axes, radii, setting)
        axes.set_title(PANELS[attack])
    panels[0].set_ylabel("accuracy on test images (%)")
    title = [textwrap.fill(line, int(13.5 * total)) for line in _title(curves, setting)]
    figure.suptitle("\n".join(title), fontsize=9.0)
    handles = {
        name: handle[0]  # the line without its error bars
        for axes in panels
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names = sorted(handles, key=lambda name: labels[name])
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside right center",
        frameon=False,
        ncols=n_columns,
        handlelength=2.8,
    )
    return figure


def _lines(axes: Axes, curves: Sequence[Curve], look: Mapping[str, Style]) -> None:
    for curve in curves:
        style = look[curve.label]
        x = [point.eps for point in curve.points]
        y = [100 * (point.cell.value or 0.0) for point in curve.points]
        axes.errorbar(
            x,
            y,
            yerr=_bars(curve),
            label=_legend_text(curve),
            color=style.colour,
            marker=style.marker,
            linestyle=style.dash,
            linewidth=1.4,
            markersize=5.0,
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=0.9,
            capsize=1.8,
        )


def _axis(axes: Axes, radii: Sequence[float], setting: Setting) -> None:
    """The same scale in every panel, so that attacks can be compared by eye."""
    margin = 0.04 * radii[-1]
    axes.set_xlim(-margin, radii[-1] + margin)
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    ticks = _spaced(radii, _LABEL_FRACTION * radii[-1])
    axes.set_xticks(radii, minor=True)
    axes.set_xticks(ticks, [_tick(eps) for eps in ticks])
    axes.set_xlabel(r"$L_\infty$ radius $\epsilon$ (pixel range [0, 1])", parse_math=True)
    if 0 < setting.eps <= radii[-1]:
        axes.axvline(setting.eps, color="#999999", linewidth=0.8, linestyle=":", zorder=0)


def _bars(curve: Curve) -> list[list[float]]:
    """(2, points): Wilson's interval for one seed, one standard deviation for several."""
    below, above = [], []
    for point in curve.points:
        cell, value = point.cell, point.cell.value or 0.0
        low = value - cell.std if cell.std is not None else cell.low
        high = value + cell.std if cell.std is not None else cell.high
        below.append(100 * (value - (value if low is None else low)))
        above.append(100 * ((value if high is None else high) - value))
    return [below, above]


def _spaced(radii: Sequence[float], distance: float) -> list[float]:
    """As many radii as have room for a label; the largest and smallest always."""
    kept = [radii[-1]]
    for eps in reversed(radii[:-1]):
        if kept[-1] - eps >= distance and (eps == radii[0] or eps - radii[0] >= distance):
            kept.append(eps)
    return sorted({*kept, radii[0]})


def _tick(eps: float) -> str:
    text = eps_text(eps)
    return f"{text}\n{eps:.3f}" if "/" in text else text


def _legend_text(curve: Curve) -> str:
    return legend_label(f"{curve.label} (last)" if curve.checkpoint == "last" else curve.label)


def _title(curves: Sequence[Curve], setting: Setting) -> list[str]:
    numbers = [n for curve in curves for point in curve.points for n in point.cell.n]
    n = span(tuple(numbers))
    several = any(point.cell.std is not None for curve in curves for point in curve.points)
    bars = "95% interval (Wilson)" + (", or standard deviation over seeds" if several else "")
    parts = [setting.dataset, setting.arch, setting.recipe and f"recipe {setting.recipe}"]
    dotted = f"dotted: training radius {eps_text(setting.eps)}" if setting.arch else ""
    details = (f"n = {n} images", f"bars: {bars}", dotted)
    return [", ".join(part for part in parts if part), "; ".join(part for part in details if part)]


def _csv(curves: Sequence[Curve], note: str) -> str:
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(
        ("method", "checkpoint", "attack", "eps", "accuracy", "low", "high", "std", "n", "n_seeds")
    )
    for curve in curves:
        for point in curve.points:
            cell = point.cell
            numbers = [cell.value, cell.low, cell.high, cell.std]
            rows.writerow(
                [
                    *(curve.label, curve.checkpoint, curve.attack, f"{point.eps:.9g}"),
                    *("" if number is None else f"{number:.6f}" for number in numbers),
                    *(min(cell.n), len(cell.n)),
                ]
            )
    return buffer.getvalue()
