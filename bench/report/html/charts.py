"""What the page's charts and its comparison draw, as JSON: the numbers of the .csv files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from bench.report.accuracy import error_limits
from bench.report.accuracy_vs_eps import Curve, curves, drawn
from bench.report.compare import MethodComparison, p_text, sentence
from bench.report.formatting import MISSING, eps_text, listed, percent, span
from bench.report.html.leaderboard import LeaderboardRow, shown_names
from bench.report.rows import Section
from bench.report.style import styles
from bench.report.tables.pairwise import pair_matrix
from bench.report.titles import attack_title

SHAPES = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "D": "diamond",
    "P": "cross",
    "X": "M-1,-.4L-.4,-1L0,-.6L.4,-1L1,-.4L.6,0L1,.4L.4,1L0,.6L-.4,1L-1,.4L-.6,0Z",
    "d": "M0,-1.2L.6,0L0,1.2L-.6,0Z",
    "p": "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z",
    "h": "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",
    "*": "M0,-1.2L.3,-.4L1.1,-.4L.5,.15L.7,1L0,.5L-.7,1L-.5,.15L-1.1,-.4L-.3,-.4Z",
}
"""Markers of matplotlib in Vega's terms."""
DASHES: dict[Any, list[float]] = {"-": [], "--": [6, 3], ":": [1.5, 2.5], "-.": [6, 2, 1.5, 2]}


def looks(found: Sequence[LeaderboardRow]) -> dict[str, dict[str, Any]]:
    """Return by name the colour, marker and dash that the figures have."""
    style = styles(entry.row.group.label for entry in found)
    result = {}
    for entry in found:
        own = style[entry.row.group.label]
        dash = DASHES.get(own.dash, [4, 1, 1, 1]) if isinstance(own.dash, str) else [4, 1, 1, 1]
        shape = SHAPES.get(own.marker, "circle")
        result[entry.name] = {"colour": own.colour, "shape": shape, "dash": dash}
    return result


def curve_points(section: Section) -> list[dict[str, Any]]:
    """Return a row per method, attack and radius; the value is None where it was not attacked.

    So a line breaks where a radius is missing.
    """
    found = drawn(section, curves(section))
    names = shown_names(section)
    rows = []
    for attack in dict.fromkeys(curve.attack for curve in found):
        own = [curve for curve in found if curve.attack == attack]
        radii = sorted({eps for curve in own for eps in curve.points})
        rows += [_point(curve, eps, names[curve.label]) for curve in own for eps in radii]
    return rows


def _point(curve: Curve, eps: float, name: str) -> dict[str, Any]:
    last = " (last)" if curve.checkpoint == "last" else ""
    row: dict[str, Any] = {
        "method": name + last,
        "attack": attack_title(curve.attack),
        "eps": float(f"{eps:.9g}"),
        "radius": eps_text(eps) if eps else "0",
    }
    cell = curve.points.get(eps)
    if cell is None:
        return row | {"accuracy": None, "low": None, "high": None, "interval": "", "n": ""}
    low, high = error_limits(cell)
    interval = f"\u00b1 {percent(cell.std)}" if cell.std is not None else ""
    return row | {
        "accuracy": _rounded(cell.value),
        "low": _rounded(low),
        "high": _rounded(high),
        "interval": interval or f"{percent(low)} to {percent(high)}",
        "n": span(cell.n),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6f}")


def curve_tables(points: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each attack the radii, and the points of each method, for a table."""
    tables: dict[str, dict[str, Any]] = {}
    for point in points:
        table = tables.setdefault(point["attack"], {"radii": {}, "rows": {}})
        table["radii"][point["radius"]] = None
        table["rows"].setdefault(point["method"], []).append(point)
    return tables


def comparisons(section: Section) -> list[dict[str, Any]]:
    """Return every pair that comparisons.csv has, in words too."""
    matrix = pair_matrix(section)
    names = shown_names(section)
    return [_pair(c, names) for c in matrix.pairs.values()] if matrix else []


def _pair(c: MethodComparison, names: dict[str, str]) -> dict[str, Any]:
    n, (first, second) = c.numbers, (side.group.label for side in c.sides)
    return {
        "first": names[first],
        "second": names[second],
        "attacks": [attack_title(attack) for attack in c.attacks],
        "n": n.n,
        **n.fractions,
        **{f"{name}_text": percent(value) for name, value in n.fractions.items()},
        "first_only": n.first_only,
        "second_only": n.second_only,
        "test": "McNemar's exact test" if c.one_seed else "t test over seeds and images",
        "p": n.p,
        "p_holm": c.p_holm,
        "p_text": _p(n.p),
        "p_holm_text": _p(c.p_holm),
        "n_pairs": c.n_pairs,
        "significant": c.significant,
        "sentence": _sentence(c, names),
    }


def _p(value: float | None) -> str:
    return MISSING if value is None else p_text(value).removeprefix("p ").removeprefix("= ")


def _sentence(c: MethodComparison, names: dict[str, str]) -> str:
    """Return the sentence of `bench compare` with the names that the page uses."""
    groups = (replace(side.group, label=names[side.group.label]) for side in c.sides)
    first, second = (replace(s, group=g) for s, g in zip(c.sides, groups, strict=True))
    titles = listed([attack_title(attack) for attack in c.attacks])
    return sentence(replace(c, sides=(first, second))).replace(listed(c.attacks), titles)
