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

from bench.experiments.study import AttackConfig
from bench.papers.cat.drawing import (
    band,
    curve,
    grid,
    legend_below,
    legend_in,
    percent_axis,
    titled,
)
from bench.papers.cat.parts import (
    CLEAN,
    Part,
    alarm_note,
    captioned,
    lacks,
    parts,
)
from bench.report.accuracy import bars_text
from bench.report.artefact import Output
from bench.report.columns import difference_cells, estimate_cells
from bench.report.export import legend_label
from bench.report.formatting import eps_text, span
from bench.report.frame import same_eps
from bench.report.published import REFERENCE, shown_name
from bench.report.style import Style, figure_styles, order
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import AUTOATTACK, CW, PGD, TITLES, attack_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE_2 = "Figure 2: robust accuracy against the radius"
TITLE_4A = "Figure 4a: accuracy against the steps of PGD"
TITLE_4B = "Figure 4b: ablations of CAT against the radius"
Look = Mapping[str, Style]
Panel = Callable[["Axes", Part, pd.DataFrame, Look], None]
"""Draws the rows of a part."""
_ATTACKS = (PGD, CW, AUTOATTACK)
_STEPS = re.compile(r"pgd-(\d+)")
_WIDTH = 7.0
"""Inches: of a page's text."""
_EPS_LABEL = r"$L_\infty$ radius / training radius"
_BAND = 0.13
"""Opacity: ten bands leave every line visible."""
_APART = 0.16
"""Largest distance of two dots of one group, in distances of the groups."""


def make_figure2(chosen: SuiteRuns) -> Output:
    """Return PGD-20 and C&W over the radii, and AutoAttack; nothing if nothing was attacked.

    Below them the differences to the reference, where it is on record.
    """
    found = parts(chosen)
    rows = [_paired(part, *one) for part in found for one in _against_eps(part, clean=(PGD, CW))]
    panels = (partial(_eps_curves, PGD), partial(_eps_curves, CW), _autoattack_dots)
    below = (partial(_eps_differences, PGD), partial(_eps_differences, CW))
    apart = any(row["difference"] is not None for row in rows)
    grids = (panels, below) if apart else (panels,)
    return _output(chosen, found, "figure2", TITLE_2, rows, grids)


def make_figure4a(chosen: SuiteRuns) -> Output:
    """Return accuracy by steps of PGD; nothing if nothing was attacked.

    A fall over the steps means that few steps are not enough.
    """
    (part,) = parts(chosen)
    rows = [row for method in part.study.methods for row in _by_steps(part, method)]
    return _output(chosen, [part], "figure4a", TITLE_4A, rows, ((_step_curves, _change_dots),))


def make_figure4b(chosen: SuiteRuns) -> Output:
    """Return PGD-20 over the radii and three attacks at the training radius."""
    (part,) = parts(chosen)
    rows = [row for _, row in _against_eps(part, clean=(PGD,))]
    return _output(
        chosen, [part], "figure4b", TITLE_4B, rows, ((partial(_eps_curves, PGD), _attack_dots),)
    )


def _output(
    chosen: SuiteRuns,
    found: Sequence[Part],
    name: str,
    title: str,
    rows: list[dict[str, Any]],
    panels: Sequence[Sequence[Panel]],
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


def _against_eps(part: Part, clean: Sequence[str]) -> Iterator[tuple[AttackConfig, dict[str, Any]]]:
    """Yield every attack of every method over its radii; those of `clean` also at eps 0."""
    for attack in _ATTACKS:
        for method in part.study.methods:
            found = [
                (config, row)
                for config in part.attacks(attack)
                for row in _row(part, method, attack, config, eps=part.eps(config))
            ]
            if found and attack in clean:
                for config in part.attacks(CLEAN):
                    for row in _row(part, method, attack, config, eps=0.0):
                        yield config, row
            yield from found


def _paired(part: Part, config: AttackConfig, row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with its difference to the reference."""
    other = row["method"] != REFERENCE
    found = part.versus(row["method"], REFERENCE, config) if other else None
    return row | difference_cells("difference", found)


def _by_steps(part: Part, method: str) -> Iterator[dict[str, Any]]:
    """Yield accuracy by rising steps, and its change from the fewest steps on the same images."""
    matches = ((_STEPS.fullmatch(config.name), config) for config in part.study.attacks)
    by_steps = {int(match[1]): config for match, config in matches if match}
    fewest = None
    for n, config in sorted(by_steps.items()):
        for row in _row(part, method, "pgd", config, steps=n):
            change = part.difference(method, config, fewest) if fewest else None
            fewest = fewest or config
            std = {"change_std": change.std if change else None}
            yield row | difference_cells("change", change) | std


def _row(
    part: Part, method: str, attack: str, config: AttackConfig, **x: float
) -> Iterator[dict[str, Any]]:
    """Yield the accuracy under an attack, if it is on record."""
    estimate = part.accuracy(method, config)
    if estimate is not None:
        own = {"arch": part.study.arch, "method": method, "label": part.label(method)}
        yield {**own, "attack": attack, **x, **estimate_cells(estimate)}


def _draw(
    found: Sequence[Part],
    rows: pd.DataFrame,
    panels: Sequence[Sequence[Panel]],
    title: str,
    caption: str,
) -> Figure:
    """Draw the rows of panels of each network, the legend below them or in the first free place."""
    by_arch = dict(list(rows.groupby("arch")))
    found = [part for part in found if part.study.arch in by_arch]
    trained = {eps_text(part.study.eps): None for part in found if "eps" in rows}
    dotted = f"; dotted: training radius \u03b5 = {', '.join(trained)}" if trained else ""
    below = f"Below: differences to {shown_name(REFERENCE)} on the same images, 95% interval"
    texts = title, _reading(rows) + dotted, below * (len(panels) > 1), caption
    figure = titled(_WIDTH, (2.3 * len(panels) + 0.4) * len(found) + 0.9, texts)
    look = figure_styles(rows["label"])
    lines = [(part, place, line) for part in found for place, line in enumerate(panels)]
    grids = figure.subplots(len(lines), len(panels[0]), squeeze=False)
    for (part, place, line), row in zip(lines, grids, strict=True):
        for panel, axes in zip(line, row, strict=False):
            if place == 0:
                percent_axis(axes)
                axes.set_yticks(range(0, 101, 20))
            panel(axes, part, by_arch[part.study.arch], look)
        for axes in row[len(line) :]:
            axes.set_axis_off()
        row[0].set_ylabel(
            f"difference to\n{shown_name(REFERENCE)} (points)"
            if place
            else "accuracy on test images (%)"
        )
    in_order = partial(_by_accuracy, rows)
    if len(panels) > 1:
        legend_in(figure, grids[1][-1], in_order)
    else:
        legend_below(figure, 5, in_order)
    return figure


def _eps_curves(attack: str, axes: Axes, part: Part, rows: pd.DataFrame, look: Look) -> None:
    """Draw accuracy from eps 0 to the largest radius."""
    _lines(axes, rows[rows["attack"] == attack], "eps", look)
    axes.set_title(f"{part.study.arch}, {TITLES[attack]}", fontsize=9.5)
    _eps_axis(axes, part, rows)


def _eps_differences(attack: str, axes: Axes, part: Part, rows: pd.DataFrame, look: Look) -> None:
    """Draw the differences of the methods that train against an attack to the reference."""
    here = (rows["attack"] == attack) & rows["method"].isin(part.defended)
    _lines(axes, rows[here].dropna(subset="difference"), "eps", look, "difference")
    grid(axes)
    axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    _eps_axis(axes, part, rows)


def _eps_axis(axes: Axes, part: Part, rows: pd.DataFrame) -> None:
    """Number the radii in units of the training radius, which is a dotted line."""
    last, trained = max(rows["eps"]), part.study.eps
    axes.set_xlim(-0.03 * last, 1.03 * last)
    units = np.arange(0, 1.001 * last / trained, 0.5)
    axes.set_xticks(units * trained, [f"{unit:g}" for unit in units])
    axes.set_xlabel(_EPS_LABEL, parse_math=True)
    axes.axvline(trained, color="#777777", linewidth=0.8, linestyle=":", zorder=0)


def _step_curves(axes: Axes, part: Part, rows: pd.DataFrame, look: Look) -> None:
    _lines(axes, rows, "steps", look)
    steps = sorted(set(rows["steps"]))
    axes.set_xscale("log")
    axes.set_xticks(steps, [f"{n:g}" for n in steps])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("steps of PGD (log scale)")
    title = rf"{part.study.arch}, $\epsilon$ = {eps_text(part.study.eps)}"
    axes.set_title(title, fontsize=9.5, parse_math=True)


def _autoattack_dots(axes: Axes, part: Part, rows: pd.DataFrame, look: Look) -> None:
    marked = rows[rows["attack"] == AUTOATTACK].sort_values("eps", kind="stable")
    _dots(axes, marked, (marked["eps"] / part.study.eps).map("{:.2g}".format), look)
    axes.set_title(f"{part.study.arch}, {TITLES[AUTOATTACK]}", fontsize=9.5)
    axes.set_xlabel(_EPS_LABEL, parse_math=True)


def _attack_dots(axes: Axes, part: Part, rows: pd.DataFrame, look: Look) -> None:
    """Draw the attacks at the training radius."""
    trained = rows[[same_eps(eps, part.study.eps) for eps in rows["eps"]]]
    _dots(axes, trained, trained["attack"].map(TITLES), look)
    title = rf"{part.study.arch}, at $\epsilon$ = {eps_text(part.study.eps)}"
    axes.set_title(title, fontsize=9.5, parse_math=True)
    axes.set_xlabel("attack")


def _change_dots(axes: Axes, part: Part, rows: pd.DataFrame, look: Look) -> None:
    """Draw the change from the fewest steps, on a scale that fits it: few points, but paired."""
    axes.clear()
    grid(axes)
    known = rows.dropna(subset="change").sort_values("steps", kind="stable")
    _dots(axes, known, known["steps"].map("{:g}".format), look, "change")
    axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    axes.set_xlabel("steps of PGD")
    title = f"change from {min(rows['steps']):g} steps (points, same images)"
    axes.set_title(title, fontsize=9.5)


def _percent(rows: pd.DataFrame, value: str = "accuracy") -> pd.DataFrame:
    """Return value, low and high: 95% intervals of one seed, a deviation of several."""
    before = "" if value == "accuracy" else f"{value}_"
    at, low, high = (rows[name].astype(float) for name in (value, f"{before}low", f"{before}high"))
    std = rows[f"{before}std"].astype(float) if f"{before}std" in rows else 0.0
    ends = {"low": low.fillna(at - std), "high": high.fillna(at + std)}
    return 100 * pd.DataFrame({"value": at, **ends})


def _lines(axes: Axes, rows: pd.DataFrame, x: str, look: Look, value: str = "accuracy") -> None:
    """Draw a line in a band of its error bars per label, broken where one is not on record."""
    places = np.unique(rows[x])
    for label, found in rows.groupby("label", sort=False):
        own, style = _percent(found.set_index(x).reindex(places), value), look[str(label)]
        if not style.muted:
            band(axes, places, own["low"], own["high"], color=style.colour, alpha=_BAND)
        curve(axes, places, own["value"], str(label), style, markevery=1, markersize=4.5)


def _dots(
    axes: Axes, rows: pd.DataFrame, group: pd.Series[Any], look: Look, name: str = "accuracy"
) -> None:
    """Draw the rows' dots by their group, every method at its own place in each of them."""
    groups, labels = list(group.unique()), _in_order(rows["label"].unique())
    step = min(0.8 / max(1, len(labels)), _APART)
    for number, label in enumerate(labels):
        here = rows["label"] == label
        own = _percent(rows[here], name)
        axes.errorbar(
            group[here].map(groups.index) + (number - (len(labels) - 1) / 2) * step,
            own["value"],
            yerr=[own["value"] - own["low"], own["high"] - own["value"]],
            label=legend_label(label),
            markersize=4.5,
            elinewidth=0.9,
            capsize=1.6,
            **look[label].line | {"linestyle": "none"},
        )
    for place in range(len(groups) - 1):
        axes.axvline(place + 0.5, color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_xlim(-0.5, max(1, len(groups)) - 0.5)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)


def _in_order(labels: Iterable[str]) -> list[str]:
    """Return labels, such as `madry` or one with an alarm's mark, in the papers' order."""
    return sorted(labels, key=lambda label: order(label.split()[0]))


def _by_accuracy(rows: pd.DataFrame, labels: Iterable[str]) -> list[str]:
    """Return labels by falling mean accuracy, like their lines."""
    mean = rows.groupby(rows["label"].map(legend_label))["accuracy"].mean()
    return sorted(_in_order(labels), key=lambda label: -mean[label])


def _reading(rows: pd.DataFrame) -> str:
    """Return what a figure's title says of its numbers: images and intervals."""
    counts = rows.groupby("attack", sort=False)["n"]
    spans = {attack_title(str(attack)): span(list(n)) for attack, n in counts}
    usual = next(iter(spans.values()))
    others = [f"{attack} {n}" for attack, n in spans.items() if n != usual]
    images = f"n = {usual} test images" + (f" ({', '.join(others)})" if others else "")
    return f"{images}, {bars_text(rows['std'].notna())}"
