"""Figures 2, 4a and 4b: accuracy of methods along a radius or a number of steps of PGD.

What is drawn is what the .csv holds: a row per method, attack and abscissa. Colour, marker and
dash belong to the method in every figure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.papers.cat.parts import (
    CLEAN,
    Part,
    alarm_note,
    captioned,
    difference_cells,
    grid,
    lacks,
    parts,
)
from bench.report.accuracy import bars_text
from bench.report.artefact import Output
from bench.report.columns import estimate_cells
from bench.report.export import fitted, legend_label
from bench.report.formatting import eps_text, span
from bench.report.frame import same_eps
from bench.report.style import Style, order, styles
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import AUTOATTACK, CW, PGD, TITLES, attack_title
from bench.study import AttackConfig

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE_2 = "Figure 2: robust accuracy against the radius"
TITLE_4A = "Figure 4a: accuracy against the steps of PGD"
TITLE_4B = "Figure 4b: ablations of CAT against the radius"
Panel = Callable[["Axes", Part, pd.DataFrame, Mapping[str, Style]], None]
"""Draws the rows of a part."""
_ATTACKS = (PGD, CW, AUTOATTACK)
_STEPS = re.compile(r"pgd-(\d+)")
_WIDTH = 7.0
"""Inches: of a page's text."""
_EPS_LABEL = r"$L_\infty$ radius $\epsilon$ (pixels in [0, 1])"
_BAND = 0.13
"""Opacity: ten bands leave every line visible."""
_APART = 0.16
"""Largest distance of two dots of one group, in distances of the groups."""


def make_figure2(chosen: SuiteRuns) -> Output:
    """Return PGD-20 and C&W over the radii, and AutoAttack; nothing if nothing was attacked."""
    found = parts(chosen)
    rows = [
        row
        for part in found
        for attack in _ATTACKS
        for row in _against_eps(part, attack, clean=attack != AUTOATTACK)
    ]
    panels = (partial(_eps_curves, PGD), partial(_eps_curves, CW), _autoattack_dots)
    return _output(chosen, found, "figure2", TITLE_2, rows, panels)


def make_figure4a(chosen: SuiteRuns) -> Output:
    """Return accuracy by steps of PGD; nothing if nothing was attacked.

    A fall over the steps means that few steps are not enough.
    """
    (part,) = parts(chosen)
    rows = [row for method in part.study.methods for row in _by_steps(part, method)]
    return _output(chosen, [part], "figure4a", TITLE_4A, rows, (_step_curves, _change_dots))


def make_figure4b(chosen: SuiteRuns) -> Output:
    """Return PGD-20 over the radii and three attacks at the training radius."""
    (part,) = parts(chosen)
    rows = [row for attack in _ATTACKS for row in _against_eps(part, attack, clean=attack == PGD)]
    panels = (partial(_eps_curves, PGD), _attack_dots)
    return _output(chosen, [part], "figure4b", TITLE_4B, rows, panels)


def _output(
    chosen: SuiteRuns,
    found: Sequence[Part],
    name: str,
    title: str,
    rows: list[dict[str, Any]],
    panels: Sequence[Panel],
) -> Output:
    if not rows:
        return Output(lacks=lacks(found))
    drawn = pd.DataFrame(rows)
    x = "steps" if "steps" in drawn else "eps"
    numbers = drawn.assign(**{x: drawn[x].map("{:.9g}".format)})
    caption = captioned(chosen, drawn["label"])
    return Output(
        numbers={name: numbers.drop(columns="change_std", errors="ignore")},
        figures={name: partial(_draw, found, drawn, panels, title, caption)},
        note=alarm_note(drawn["label"]),
        lacks=lacks(found),
    )


def _against_eps(part: Part, attack: str, *, clean: bool) -> Iterator[dict[str, Any]]:
    """Yield every method that has the attack, over its radii; with `clean` also at eps 0."""
    for method in part.study.methods:
        found = [
            row for a in part.attacks(attack) for row in _row(part, method, attack, a, part.eps(a))
        ]
        if found and clean:
            for config in part.attacks(CLEAN):
                yield from _row(part, method, attack, config, 0.0)
        yield from found


def _by_steps(part: Part, method: str) -> Iterator[dict[str, Any]]:
    """Yield accuracy by rising steps, and its change from the fewest steps on the same images."""
    matches = [(_STEPS.fullmatch(config.name), config) for config in part.study.attacks]
    fewest = None
    for n, config in sorted(((int(m[1]), a) for m, a in matches if m), key=lambda pair: pair[0]):
        for row in _row(part, method, "pgd", config, n, "steps"):
            change = part.difference(method, config, fewest) if fewest else None
            fewest = fewest or config
            std = {"change_std": change.std if change else None}
            yield row | difference_cells("change", change) | std


def _row(
    part: Part, method: str, attack: str, config: AttackConfig, x: float, name: str = "eps"
) -> Iterator[dict[str, Any]]:
    """Yield the accuracy under an attack, if it is on record."""
    estimate = part.accuracy(method, config)
    if estimate is not None:
        own = {"arch": part.study.arch, "method": method, "label": part.label(method)}
        yield {**own, "attack": attack, name: x, **estimate_cells(estimate)}


def _draw(
    found: Sequence[Part], rows: pd.DataFrame, panels: Sequence[Panel], title: str, caption: str
) -> Figure:
    """Draw a row of panels per network, on one scale of accuracy; the legend below them."""
    from matplotlib.figure import Figure

    found = [part for part in found if part.study.arch in set(rows["arch"])]
    figure = Figure(figsize=(_WIDTH, 2.7 * len(found) + 1.1), layout="constrained")
    grids = figure.subplots(len(found), len(panels), squeeze=False)
    look = styles(rows["label"])
    for part, row in zip(found, grids, strict=True):
        for panel, axes in zip(panels, row, strict=True):
            axes.set_ylim(-3, 103)
            axes.set_yticks(range(0, 101, 20))
            grid(axes)
            panel(axes, part, rows[rows["arch"] == part.study.arch], look)
        row[0].set_ylabel("accuracy on test images (%)")
    trained = [part.study.eps for part in found] if "eps" in rows else []
    figure.suptitle(fitted((title, _reading(rows, trained), caption), _WIDTH), fontsize=9.0)
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    names = _in_order(handles)
    figure.legend(
        [handles[name] for name in names],
        names,
        ncols=min(5, len(names)),
        loc="outside lower center",
        frameon=False,
        handlelength=2.6,
    )
    return figure


def _eps_curves(
    attack: str, axes: Axes, part: Part, rows: pd.DataFrame, look: Mapping[str, Style]
) -> None:
    """Draw accuracy from eps 0 to the largest radius, and the training radius as a dotted line."""
    last, trained = max(rows["eps"]), part.study.eps
    _lines(axes, rows[rows["attack"] == attack], "eps", look)
    axes.set_title(f"{part.study.arch}, {TITLES[attack]}", fontsize=9.5)
    axes.set_xlim(-0.03 * last, 1.03 * last)
    axes.set_xlabel(_EPS_LABEL, parse_math=True)
    if trained <= last:
        axes.axvline(trained, color="#777777", linewidth=0.8, linestyle=":", zorder=0)


def _step_curves(axes: Axes, part: Part, rows: pd.DataFrame, look: Mapping[str, Style]) -> None:
    _lines(axes, rows, "steps", look)
    steps = sorted(set(rows["steps"]))
    axes.set_xscale("log")
    axes.set_xticks(steps, [f"{n:g}" for n in steps])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("steps of PGD (log scale)")
    radius = eps_text(part.study.eps)
    axes.set_title(rf"{part.study.arch}, $\epsilon$ = {radius}", fontsize=9.5, parse_math=True)


def _autoattack_dots(axes: Axes, part: Part, rows: pd.DataFrame, look: Mapping[str, Style]) -> None:
    marked = rows[rows["attack"] == AUTOATTACK]
    _dots(axes, {eps_text(float(str(eps))): dots for eps, dots in marked.groupby("eps")}, look)
    axes.set_title(f"{part.study.arch}, {TITLES[AUTOATTACK]}", fontsize=9.5)
    axes.set_xlabel(_EPS_LABEL, parse_math=True)


def _attack_dots(axes: Axes, part: Part, rows: pd.DataFrame, look: Mapping[str, Style]) -> None:
    """Draw the attacks at the training radius."""
    trained = rows[[same_eps(eps, part.study.eps) for eps in rows["eps"]]]
    groups = {TITLES[attack]: trained[trained["attack"] == attack] for attack in _ATTACKS}
    _dots(axes, {name: group for name, group in groups.items() if len(group)}, look)
    title = rf"{part.study.arch}, at $\epsilon$ = {eps_text(part.study.eps)}"
    axes.set_title(title, fontsize=9.5, parse_math=True)
    axes.set_xlabel("attack")


def _change_dots(axes: Axes, part: Part, rows: pd.DataFrame, look: Mapping[str, Style]) -> None:
    """Draw the change from the fewest steps, on a scale that fits it: few points, but paired."""
    from matplotlib.ticker import AutoLocator

    known = rows.dropna(subset="change")
    _dots(axes, {f"{n:g}": dots for n, dots in known.groupby("steps")}, look, "change")
    low, high = _edges(known, "change")
    bottom, top = min(100 * low, default=-1.0), max(100 * high, default=0.0)
    axes.set_ylim(bottom - 0.5, max(top, 0.0) + 0.5)
    axes.yaxis.set_major_locator(AutoLocator())
    axes.set_xlabel("steps of PGD")
    title = f"change from {min(rows['steps']):g} steps (points, same images)"
    axes.set_title(title, fontsize=9.5)


def _edges(rows: pd.DataFrame, value: str = "accuracy") -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of error bars: 95% intervals of one seed, a deviation of several."""
    before = "" if value == "accuracy" else f"{value}_"
    low, high, std = (rows[f"{before}{end}"].astype(float) for end in ("low", "high", "std"))
    at = rows[value].astype(float)
    return low.fillna(at - std).to_numpy(), high.fillna(at + std).to_numpy()


def _lines(axes: Axes, rows: pd.DataFrame, x: str, look: Mapping[str, Style]) -> None:
    """Draw a line in a band of its error bars per label, broken where one is not on record."""
    places = np.unique(rows[x])
    for label, found in rows.groupby("label", sort=False):
        own, style = found.set_index(x).reindex(places), look[str(label)]
        low, high = (100 * edge for edge in _edges(own))
        axes.fill_between(places, low, high, color=style.colour, alpha=_BAND, linewidth=0)
        drawn = {"label": legend_label(str(label)), "linewidth": 1.3, "markersize": 4.5}
        axes.plot(places, 100 * own["accuracy"].to_numpy(), **style.line | drawn)


def _dots(
    axes: Axes,
    groups: Mapping[str, pd.DataFrame],
    look: Mapping[str, Style],
    name: str = "accuracy",
) -> None:
    """Draw a group of dots per heading, every method at its own place in each of them."""
    methods = _in_order(set().union(*(group["label"] for group in groups.values())))
    step = min(0.8 / max(1, len(methods)), _APART)
    for place, group in enumerate(groups.values()):
        edges = _edges(group, name)
        for label, value, low, high in zip(group["label"], group[name], *edges, strict=True):
            axes.errorbar(
                [place + (methods.index(label) - (len(methods) - 1) / 2) * step],
                [100 * value],
                yerr=[[100 * (value - low)], [100 * (high - value)]],
                label=legend_label(label),
                markersize=4.5,
                elinewidth=0.9,
                capsize=1.6,
                **look[label].line | {"linestyle": "none"},
            )
    for place in range(len(groups) - 1):
        axes.axvline(place + 0.5, color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_xlim(-0.5, max(1, len(groups)) - 0.5)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.tick_params(axis="x", length=0)


def _in_order(labels: Iterable[str]) -> list[str]:
    """Return labels, such as `madry` or one with an alarm's mark, in the papers' order."""
    return sorted(labels, key=lambda label: order(label.split()[0]))


def _reading(rows: pd.DataFrame, trained: Iterable[float] = ()) -> str:
    """Return what a figure's title says of its numbers: images, intervals, the dotted line."""
    bars = bars_text(rows["std"].notna())
    lines = ", ".join(dict.fromkeys(eps_text(eps) for eps in trained))
    dotted = f"; dotted: training radius {lines}" if lines else ""
    counts = rows.groupby("attack", sort=False)["n"]
    spans = {attack_title(str(attack)): span(list(n)) for attack, n in counts}
    usual = next(iter(spans.values()))
    others = [f"{attack} {n}" for attack, n in spans.items() if n != usual]
    images = f"n = {usual} test images" + (f" ({', '.join(others)})" if others else "")
    return f"{images}, {bars}{dotted}"
