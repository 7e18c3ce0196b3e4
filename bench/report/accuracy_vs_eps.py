"""Robust accuracy against eps: the numbers of each method's curve, its .csv and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.records.spec import CHECKPOINTS, GIVEN
from bench.report.accuracy import AccuracyEstimate, bars_text, error_limits, mean_accuracy
from bench.report.columns import estimate_cells, number
from bench.report.export import captioned, legend_label
from bench.report.formatting import eps_text, span
from bench.report.frame import EPS_DIGITS, Outcome, ResultsFrame, outcomes, select
from bench.report.groups import Group, Setting
from bench.report.published import method_order, shown_name
from bench.report.rows import MOST, SPLIT, Section, by_robustness
from bench.report.style import Style, figure_styles
from bench.report.titles import CW, PGD, TITLES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTACKS = (PGD, CW)
"""Attacks with a panel, where any run has them."""
_PANEL_INCHES = (3.1, 3.1)
"""Two panels and the legend fit the width of a page, so that the print keeps its font size."""
_LABEL_FRACTION = 0.17
"""Least distance of two labels on the eps axis, in units of its length."""
_LEGEND_ROWS = 24


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One method under one attack."""

    label: str
    method: str
    attack: str
    checkpoint: str
    points: Mapping[float, AccuracyEstimate]
    """eps -> accuracy, by rising eps; at eps 0 without an attack."""
    positions: tuple[int, ...]
    """Of its evaluations in the frame."""

    @property
    def name(self) -> str:
        """Its name in the legend."""
        return legend_label(f"{self.label} (last)" if self.checkpoint == "last" else self.label)


@lru_cache(maxsize=64)
def curves(section: Section) -> list[Curve]:
    """Return the curve of every method that has the attack at any eps above 0, by attack."""
    labels = {run.run_id: group.label for group in section.groups for run in group.runs}
    table = select(section.frame, run_ids=labels, norm=section.setting.norm, split=SPLIT)
    table = table.assign(label=table["run_id"].map(labels), eps=table["eps"].round(EPS_DIGITS))
    rows = dict(iter(table.groupby(["label", "checkpoint"])))
    made = [
        _curve(group, attack, section.frame, rows) for attack in ATTACKS for group in section.groups
    ]
    return [curve for curve in made if curve is not None]


def drawn(section: Section, found: Sequence[Curve]) -> list[Curve]:
    """Return those of the MOST most robust methods: more lines are a tangle."""
    labels = {curve.label for curve in found}
    most = [label for label in by_robustness(section) if label in labels][:MOST]
    return [curve for curve in found if curve.label in most]


def _curve(
    group: Group, attack: str, frame: ResultsFrame, rows: Mapping[Any, pd.DataFrame]
) -> Curve | None:
    """Return the best checkpoint's curve; the last one's where only that was attacked."""
    for checkpoint in (*CHECKPOINTS, GIVEN):
        own = rows.get((group.label, checkpoint), pd.DataFrame())
        attacked = own[(own["attack"] == attack) & (own["eps"] > 0)] if len(own) else own
        if attacked.empty:
            continue
        # runs that were never attacked this way would move only the point at eps 0
        clean = own[own["run_id"].isin(attacked["run_id"])]
        points = {0.0: _accuracy(frame, clean, "clean")}
        radii: Any = attacked.groupby("eps")
        points |= {float(eps): _accuracy(frame, found) for eps, found in radii}
        return Curve(
            label=group.label,
            method=group.method,
            attack=attack,
            checkpoint=checkpoint,
            points={eps: cell for eps, cell in points.items() if cell},
            positions=tuple(attacked.index),
        )
    return None


def _accuracy(
    frame: ResultsFrame, rows: pd.DataFrame, kind: Outcome = "correct"
) -> AccuracyEstimate | None:
    return mean_accuracy(outcomes(frame, own, kind) for _, own in rows.groupby("run_id"))


def curve_csv(found: Sequence[Curve]) -> pd.DataFrame:
    """Return a row per point; fractions."""
    return pd.DataFrame(
        {
            "method": curve.label,
            "checkpoint": curve.checkpoint,
            "attack": curve.attack,
            "eps": number(eps, "%.9g"),
            **estimate_cells(cell),
        }
        for curve in found
        for eps, cell in curve.points.items()
    )


def draw_curves(found: Sequence[Curve], setting: Setting) -> Figure:
    """Draw one panel per attack, with one legend to the right of them."""
    from matplotlib.figure import Figure

    attacks = [attack for attack in ATTACKS if any(c.attack == attack for c in found)]
    width, height = _PANEL_INCHES
    order = {curve.name: (method_order(curve.method), curve.label) for curve in found}
    n_columns = 1 + (len(order) - 1) // _LEGEND_ROWS
    legend_width = n_columns * (0.7 + 0.075 * max(map(len, order)))
    total = width * len(attacks) + legend_width
    size = (total, max(height, 1.2 + 0.21 * min(len(order), _LEGEND_ROWS)))
    figure = Figure(figsize=size, layout="constrained")
    look = figure_styles(curve.label for curve in found)
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    radii = sorted({eps for curve in found for eps in curve.points})
    handles = {}
    for axes, attack in zip(panels, attacks, strict=True):
        own = [curve for curve in found if curve.attack == attack]
        measured = sorted({eps for curve in own for eps in curve.points})
        for curve in own:
            handles[curve.name] = _line(axes, curve, measured, look[curve.label])
        _axis(axes, radii, setting)
        axes.set_title(TITLES[attack])
    panels[0].set_ylabel("accuracy on test images (%)")
    captioned(figure, ["Robust accuracy against eps", *_title(found, setting)])
    names = sorted(handles, key=order.__getitem__)
    figure.legend(
        [handles[name] for name in names],
        [shown_name(name) for name in names],
        loc="outside right center",
        frameon=False,
        ncols=n_columns,
        handlelength=2.8,
    )
    return figure


def _line(axes: Axes, curve: Curve, radii: Sequence[float], style: Style) -> Artist:
    """Draw a curve, broken where it lacks one of the panel's radii."""
    cells = [curve.points.get(eps) for eps in radii]
    gap = (np.nan,) * 3
    points = [(cell.value, *error_limits(cell)) if cell else gap for cell in cells]
    value, low, high = 100 * np.array(points).T
    container = axes.errorbar(
        radii,
        value,
        yerr=[value - low, high - value],
        label=curve.name,
        **{"linewidth": 1.4, "markersize": 5.0, "elinewidth": 0.9, "capsize": 1.8} | style.line,
    )
    line: Artist = container[0]  # without its error bars
    return line


def _axis(axes: Axes, radii: Sequence[float], setting: Setting) -> None:
    """Set the same scale in every panel, so that attacks can be compared by eye."""
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


def _spaced(radii: Sequence[float], distance: float) -> list[float]:
    """Return as many radii as have room for a label, always with the largest and smallest."""
    kept = [radii[-1]]
    for eps in reversed(radii[:-1]):
        if kept[-1] - eps >= distance and (eps == radii[0] or eps - radii[0] >= distance):
            kept.append(eps)
    return sorted({*kept, radii[0]})


def _tick(eps: float) -> str:
    return f"{eps:.3g}"


def _title(found: Sequence[Curve], setting: Setting) -> list[str]:
    cells = [cell for curve in found for cell in curve.points.values()]
    bars = bars_text(cell.std is not None for cell in cells)
    parts = [setting.dataset, setting.arch, setting.recipe and f"recipe {setting.recipe}"]
    dotted = f"dotted: training radius {eps_text(setting.eps)}" if setting.arch else ""
    details = (f"n = {span([n for cell in cells for n in cell.n])} images", f"bars: {bars}", dotted)
    return [", ".join(part for part in parts if part), "; ".join(part for part in details if part)]
