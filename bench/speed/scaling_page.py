"""docs/scaling.md: where the time of a step stops being linear, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.speed.scaling import Curve, Point, Scaling
from bench.speed.tables import markdown_table, significant

LINEAR = (0.9, 1.1)
"""Exponents that are called linear."""
CALLS = 0.25
"""Share of the time from which the calls alone are named as the reason."""
FASTER = 1.1
"""Least ratio of two speeds that is worth a word."""


def scaling_page(scaling: Scaling, command: str, picture: str) -> str:
    """The page as markdown; `picture` is the path of the figure from there."""
    parts = [
        "# How a training step scales",
        f"Seconds of one step of {scaling.method} in {scaling.precision}, on "
        f"{where(scaling.machine)}. Generated from the record that `{command}` makes; each figure "
        "is a median over rounds in which all points of a table take turns.",
        f"![seconds of a step against what varies]({picture})",
        "The exponent is that of the time against the FLOP of the step's convolutions and linear "
        "layers, from the row above to this one: 1 is linear, 0 means that more work costs "
        "nothing. Calls alone: the share of the time that the same step takes on two images of "
        "one pixel, with the same layers and next to nothing to compute.",
    ]
    for curve in scaling.curves:
        title = curve.name[0].upper() + curve.name[1:]
        parts += [f"## {title}", f"With {curve.fixed}.", table(curve), verdict(curve)]
    return "\n\n".join(parts) + "\n"


def where(machine: Mapping[str, Any]) -> str:
    """The device in words."""
    if machine["device"] != "cpu":
        return str(machine["device"])
    threads = machine["threads"]
    return f"{machine['processor']}, {threads} thread{'' if threads == 1 else 's'}"


def table(curve: Curve) -> str:
    """A row for each point."""
    rows = [[curve.name, "GFLOP", "seconds", "exponent", "calls alone", "GFLOP/s"]]
    exponents = ["", *(f"{exponent:.2f}" for exponent in curve.exponents())]
    for point, exponent in zip(curve.points, exponents, strict=True):
        numbers = (point.flops / 1e9, point.seconds)
        rows.append(
            [
                str(point.value),
                *(significant(number) for number in numbers),
                exponent,
                f"{point.calls_share:.0%}",
                significant(point.rate / 1e9),
            ]
        )
    return markdown_table(rows)


def verdict(curve: Curve) -> str:
    """Where the time is linear, and what was measured where it is not."""
    pairs = zip(curve.points, curve.points[1:], curve.exponents(), strict=False)
    apart = [(a, b, e) for a, b, e in pairs if not LINEAR[0] <= e <= LINEAR[1]]
    if not apart:
        return f"Linear throughout: every exponent is between {LINEAR[0]} and {LINEAR[1]}."
    words = [_why(a, b, exponent) for a, b, exponent in apart]
    if len(apart) < len(curve.points) - 1:
        words.append(f"Elsewhere it is linear: between {LINEAR[0]} and {LINEAR[1]}.")
    return "\n".join(f"- {line}" for line in words)


def _why(a: Point, b: Point, exponent: float) -> str:
    less = exponent < LINEAR[0]
    head = f"{a.value} to {b.value}: {'less' if less else 'more'} than linear ({exponent:.2f})."
    if less and a.calls_share >= CALLS:
        return f"{head} The calls alone are {a.calls_share:.0%} of the time at {a.value}."
    speeds = f"from {significant(a.rate / 1e9)} to {significant(b.rate / 1e9)} GFLOP/s"
    if b.rate > FASTER * a.rate:
        return f"{head} The arithmetic itself gets faster with size, {speeds}."
    if a.rate > FASTER * b.rate:
        return f"{head} The arithmetic itself gets slower with size, {speeds}."
    return f"{head} The speed hardly changes, {speeds}."
