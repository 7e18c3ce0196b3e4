"""Robust accuracy against eps: the numbers of each method's curve, its .csv and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bench.records.spec import CHECKPOINTS, GIVEN
from bench.report.accuracy import (
    AccuracyEstimate,
    ImageOutcomes,
    PairedComparison,
    bars_text,
    error_limits,
    mean_accuracy,
    paired_comparison,
)
from bench.report.columns import difference_cells, estimate_cells, number
from bench.report.cost import references
from bench.report.export import captioned, legend_label
from bench.report.formatting import eps_text, span
from bench.report.frame import EPS_DIGITS, Outcome, ResultsFrame, outcomes, select
from bench.report.groups import Group, Setting
from bench.report.published import REFERENCE, method_order, shown_name
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
_EPS_LABEL = r"$L_\infty$ radius $\epsilon$ (pixel range [0, 1])"


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
    differences: Mapping[float, PairedComparison]
    """eps -> paired with the reference's curve; empty for the reference, and without one."""
    defended: bool
    """Whether the method trains against an attack, as far as its records say."""

    @property
    def name(self) -> str:
        """Its name in the legend."""
        return legend_label(f"{self.label} (last)" if self.checkpoint == "last" else self.label)

    @property
    def compared(self) -> bool:
        """Whether its differences are drawn: those of an undefended model hide all others."""
        return self.defended and bool(self.differences)


@lru_cache(maxsize=64)
def curves(section: Section) -> list[Curve]:
    """Return the curve of every method that has the attack at any eps above 0, by attack.

    Each is paired with the reference method's training that is most alike.
    """
    labels = {run.run_id: group.label for group in section.groups for run in group.runs}
    table = select(section.frame, run_ids=labels, norm=section.setting.norm, split=SPLIT)
    table = table.assign(label=table["run_id"].map(labels), eps=table["eps"].round(EPS_DIGITS))
    rows = dict(iter(table.groupby(["label", "checkpoint"])))
    alike, found = references(section.groups), []
    for attack in ATTACKS:
        outcomes_of = {g.label: _outcomes(g, attack, section.frame, rows) for g in section.groups}
        for group in section.groups:
            theirs = outcomes_of.get(alike.get(group.label, group.label))
            curve = _curve(group, attack, outcomes_of[group.label], theirs)
            found += [curve] if curve else []
    return found


def drawn(section: Section, found: Sequence[Curve]) -> list[Curve]:
    """Return those of the MOST most robust methods: more lines are a tangle."""
    labels = {curve.label for curve in found}
    most = [label for label in by_robustness(section) if label in labels][:MOST]
    return [curve for curve in found if curve.label in most]


class _Outcomes(NamedTuple):
    """One method under one attack."""

    checkpoint: str
    by_eps: Mapping[float, Sequence[ImageOutcomes]]
    """eps -> outcomes of each seed."""
    positions: tuple[int, ...]


def _outcomes(
    group: Group, attack: str, frame: ResultsFrame, rows: Mapping[Any, pd.DataFrame]
) -> _Outcomes | None:
    """Return those of the best checkpoint; of the last one where only that was attacked."""
    for checkpoint in (*CHECKPOINTS, GIVEN):
        own = rows.get((group.label, checkpoint), pd.DataFrame())
        attacked = own[(own["attack"] == attack) & (own["eps"] > 0)] if len(own) else own
        if attacked.empty:
            continue
        # runs that were never attacked this way would move only the point at eps 0
        clean = own[own["run_id"].isin(attacked["run_id"])]
        by_eps = {0.0: _by_seed(frame, clean, "clean")}
        radii: Any = attacked.groupby("eps")
        by_eps |= {float(eps): _by_seed(frame, found) for eps, found in radii}
        return _Outcomes(checkpoint, by_eps, tuple(attacked.index))
    return None


def _by_seed(
    frame: ResultsFrame, rows: pd.DataFrame, kind: Outcome = "correct"
) -> list[ImageOutcomes]:
    return [outcomes(frame, own, kind) for _, own in rows.groupby("run_id")]


def _curve(
    group: Group, attack: str, own: _Outcomes | None, theirs: _Outcomes | None
) -> Curve | None:
    if own is None:
        return None
    cells = {eps: mean_accuracy(seeds) for eps, seeds in own.by_eps.items()}
    others = theirs.by_eps if theirs and theirs is not own else {}
    shared = own.by_eps.keys() & others.keys()
    pairs = {eps: paired_comparison(own.by_eps[eps], others[eps]) for eps in sorted(shared)}
    return Curve(
        label=group.label,
        method=group.method,
        attack=attack,
        checkpoint=own.checkpoint,
        points={eps: cell for eps, cell in cells.items() if cell},
        positions=own.positions,
        differences={eps: pair for eps, pair in pairs.items() if pair},
        defended=any(run.card.get("inner") != "none" for run in group.runs),
    )


def curve_csv(found: Sequence[Curve]) -> pd.DataFrame:
    """Return a row per point; fractions."""
    return pd.DataFrame(
        {
            "method": curve.label,
            "checkpoint": curve.checkpoint,
            "attack": curve.attack,
            "eps": number(eps, "%.9g"),
            **estimate_cells(cell),
            **difference_cells("difference", curve.differences.get(eps)),
        }
        for curve in found
        for eps, cell in curve.points.items()
    )


def draw_curves(found: Sequence[Curve], setting: Setting) -> Figure:
    """Draw one panel per attack, below them differences to the reference, and one legend."""
    from matplotlib.figure import Figure

    attacks = [attack for attack in ATTACKS if any(c.attack == attack for c in found)]
    names = _by_accuracy(found, setting)
    n_columns = 1 + (len(names) - 1) // _LEGEND_ROWS
    legend_width = n_columns * (0.7 + 0.075 * max(map(len, names)))
    compared = any(curve.compared for curve in found)
    heights = (_PANEL_INCHES[1], 1.9)[: 1 + compared]
    total = _PANEL_INCHES[0] * len(attacks) + legend_width
    size = (total, max(sum(heights), 1.2 + 0.21 * min(len(names), _LEGEND_ROWS)))
    figure = Figure(figsize=size, layout="constrained")
    look = figure_styles(curve.label for curve in found)
    shared: dict[str, Any] = {"sharex": True, "sharey": "row", "squeeze": False}
    panels = figure.subplots(len(heights), len(attacks), height_ratios=heights, **shared)
    handles: dict[str, Artist] = {}
    for column, attack in zip(panels.T, attacks, strict=True):
        handles |= _draw_attack(column, [c for c in found if c.attack == attack], look)
        column[0].set_title(TITLES[attack])
    radii = sorted({eps for curve in found for eps in curve.points})
    for axes in panels.flat:
        _axis(axes, radii, setting)
    _accuracy_axis(panels[0, 0])
    texts = _title(found, setting)
    if compared:
        other = shown_name(REFERENCE)
        panels[1, 0].set_ylabel(f"difference to\n{other} (points)")
        texts.append(f"Below: differences to {other} on the same images, 95% interval")
    captioned(figure, ["Robust accuracy against eps", *texts])
    figure.legend(
        [handles[name] for name in names],
        [shown_name(name) for name in names],
        loc="outside right center",
        frameon=False,
        ncols=n_columns,
        handlelength=2.8,
    )
    return figure


def _draw_attack(
    panels: Sequence[Axes], found: Sequence[Curve], look: Mapping[str, Style]
) -> dict[str, Artist]:
    """Draw accuracies, below them differences; return the lines by name for the legend."""
    handles = {}
    radii = sorted({eps for curve in found for eps in curve.points})
    for curve in found:
        style = look[curve.label]
        cells = {eps: (c.value, *error_limits(c)) for eps, c in curve.points.items()}
        handles[curve.name] = _line(panels[0], curve.name, cells, radii, style)
        if curve.compared:
            pairs = {e: (p.difference, p.low, p.high) for e, p in curve.differences.items()}
            _line(panels[1], curve.name, pairs, radii, style)
    lowest = panels[-1]
    if any(curve.compared for curve in found):
        lowest.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    elif len(panels) > 1:
        lowest.set_axis_off()
        lowest = panels[0]
        lowest.tick_params(labelbottom=True)
    lowest.set_xlabel(_EPS_LABEL, parse_math=True)
    return handles


def _by_accuracy(found: Sequence[Curve], setting: Setting) -> list[str]:
    """Return the names in the order of the first panel's lines at the training radius."""

    def key(curve: Curve) -> tuple[float, tuple[int, str], str]:
        at = curve.points.get(round(setting.eps, EPS_DIGITS))
        return (-at.value if at else 0.0, method_order(curve.method), curve.label)

    first = {curve.name: curve for curve in reversed(found)}  # of the first attack
    return sorted(first, key=lambda name: key(first[name]))


def _line(
    axes: Axes,
    name: str,
    cells: Mapping[float, tuple[float, float, float]],
    radii: Sequence[float],
    style: Style,
) -> Artist:
    """Draw value, low and high by eps, broken at a radius without them; muted ones without bars."""
    value, low, high = 100 * np.array([cells.get(eps, (np.nan,) * 3) for eps in radii]).T
    container = axes.errorbar(
        radii,
        value,
        yerr=None if style.muted else [value - low, high - value],
        label=name,
        **{"linewidth": 1.4, "markersize": 5.0, "elinewidth": 0.9, "capsize": 1.8} | style.line,
    )
    line: Artist = container[0]  # without its error bars
    return line


def _accuracy_axis(axes: Axes) -> None:
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy on test images (%)")


def _axis(axes: Axes, radii: Sequence[float], setting: Setting) -> None:
    """Number the radii; the training radius is a dotted line."""
    margin = 0.04 * radii[-1]
    axes.set_xlim(-margin, radii[-1] + margin)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    ticks = _spaced(radii, _LABEL_FRACTION * radii[-1])
    axes.set_xticks(radii, minor=True)
    axes.set_xticks(ticks, [_tick(eps) for eps in ticks])
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
