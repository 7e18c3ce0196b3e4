"""Tables of the records in results/speed, for the terminal and docs/templates; without torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tabulate import tabulate

LINEAR = (0.9, 1.1)
"""Exponents that count as linear."""
CALLS = 0.25
"""Share of the time from which the calls alone are named as the reason."""
FASTER = 1.1
"""Smallest ratio of two speeds that is worth a word."""
Row = Mapping[str, Any]


def significant(value: float | None) -> str:
    """Return three significant digits: `1,230`, `12.3`, `0.0123`."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}".rstrip(".")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"


def faster(row: Row) -> str:
    """Return `1.85 (1.79 to 1.92)`: the median of the rounds, the smallest and the largest."""
    ratio, ratios = row["ratio"], row.get("ratios", ())
    if ratio is None:
        return "-"
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{ratio:.2f}{spread}"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "what": lambda r: f"{r['what']} ({r['note']})" if r["note"] else r["what"],
    "network": lambda r: r["arch"],
    "precision": lambda r: r["precision"],
    "images": lambda r: str(r["n_images"]),
    "images/s": lambda r: significant(r["ours_images_per_second"]),
    "next to": lambda r: r["reference"] or "-",
    "its images/s": lambda r: significant(r["reference_images_per_second"]),
    "times faster": faster,
    "of convolution peak": lambda r: percent(r["share_of_peak"]),
    "of matrix peak": lambda r: percent(r.get("share_of_matrix_peak")),
    "robust": lambda r: percent(r["robust_share"]),
    "apart": lambda r: "-" if r["n_apart"] is None else str(r["n_apart"]),
    "rounds": lambda r: str(r["n_rounds"]),
}


def speed_table(rows: Sequence[Row]) -> str:
    """Return the rows of one machine, without the columns that are empty."""
    cells = [[name, *map(of, rows)] for name, of in COLUMNS.items()]
    filled = [column for column in cells if set(column[1:]) != {"-"}]
    return markdown_table(list(zip(*filled, strict=True)))


NOT_MEASURED = "not measured"


def gpu_table(rows: Sequence[Row]) -> str:
    """Return the rows of `benchmarks.gpu`; what only a GPU shows reads `not measured` elsewhere."""
    head = ["what", "network", "precision", "side", "images", "images/s"]
    return markdown_table(
        [[*head, "of bf16 matrix peak", "peak memory, GiB"]]
        + [
            [
                *(str(r[key]) for key in ("what", "arch", "precision", "side", "n_images")),
                "fails"
                if r.get("error", NOT_MEASURED) != NOT_MEASURED
                else _or_not(r, "images_per_second", significant),
                _or_not(r, "share_of_matrix_peak", percent),
                _or_not(r, "peak_bytes", lambda n: significant(n / 2**30)),
            ]
            for r in rows
        ]
    )


def launches_table(rows: Sequence[Row]) -> str:
    """Return the counts of `benchmarks.launches`."""
    head = ("what", "network", "side", "launches", "waits of the host")
    return markdown_table(
        [head]
        + [(r["what"], r["arch"], r["side"], f"{r['launches']:,}", str(r["waits"])) for r in rows]
    )


def _or_not(row: Row, key: str, text: Callable[[float], str]) -> str:
    if row.get("error", NOT_MEASURED) != NOT_MEASURED:
        return "fails"
    value = row.get(key)
    return NOT_MEASURED if value is None else text(value)


def fused_table(rows: Sequence[Row]) -> str:
    """Return the speed with and without FusedConv, a layer that was dropped."""
    head = ["whole step or evaluation", "seconds with it", "without it", "times faster", "rounds"]
    return markdown_table(
        [head]
        + [
            [
                *(row["what"], significant(row["seconds"]), significant(row["seconds_without"])),
                *(f"{row['ratio']:.2f}", str(row["n_rounds"])),
            ]
            for row in rows
        ]
    )


def profile_tables(steps: Sequence[Row]) -> str:
    """Return a table for each method and network: seconds by kind of operation."""
    panels: dict[str, list[Row]] = {}
    for step in steps:
        side = step["image_size"]
        title = f"{step['method']}, {step['arch']}, {step['n_images']} images of {side}x{side}"
        panels.setdefault(f"{title} pixels", []).append(step)
    return "\n\n".join(f"{title}:\n\n{_profile_table(found)}" for title, found in panels.items())


def _profile_table(steps: Sequence[Row]) -> str:
    totals = [sum(step["parts"].values()) for step in steps]
    head = [s["side"] if s["side"] != "ours" else f"ours, {s['precision']}" for s in steps]
    rows = [["", *head]]
    for kind in steps[0]["parts"]:
        found = [step["parts"][kind] for step in steps]
        if any(found):
            pairs = zip(found, totals, strict=True)
            rows.append([kind, *(f"{significant(v)} ({percent(v / all_)})" for v, all_ in pairs)])
    rows.append(["together", *map(significant, totals)])
    rows.append(["without the profiler", *(significant(step["seconds"]) for step in steps)])
    rows.append(["rounds", *(str(step["n_rounds"]) for step in steps)])
    return markdown_table(rows)


def scaling_tables(record: Row) -> str:
    """Return a section per axis: its table, and where the time is not linear."""
    return "\n\n".join(
        f"## {curve['name'][0].upper()}{curve['name'][1:]}\n\nWith {curve['fixed']}.\n\n"
        f"{_curve_table(curve)}\n\n{linearity(curve['points'])}"
        for curve in record["curves"]
    )


def _curve_table(curve: Row) -> str:
    rows = [[curve["name"], "GFLOP", "seconds", "exponent", "calls alone", "GFLOP/s"]]
    exponents = ["", *(f"{exponent:.2f}" for exponent in _exponents(curve["points"]))]
    for point, exponent in zip(curve["points"], exponents, strict=True):
        size = str(point["value"]), significant(point["flops"] / 1e9)
        speed = percent(_calls(point)), significant(_rate(point) / 1e9)
        rows.append([*size, significant(point["seconds"]), exponent, *speed])
    return markdown_table(rows)


def linearity(points: Sequence[Row]) -> str:
    """Return where the time is not linear in FLOP, and the measured reason."""
    lines = []
    for (a, b), exponent in zip(pairwise(points), _exponents(points), strict=True):
        if LINEAR[0] <= exponent <= LINEAR[1]:
            continue
        less = exponent < LINEAR[0]
        head = f"- {a['value']} to {b['value']}: {'less' if less else 'more'} than linear"
        before, after = _rate(a), _rate(b)
        speeds = f"from {significant(before / 1e9)} to {significant(after / 1e9)} GFLOP/s"
        if less and _calls(a) >= CALLS:
            why = f"The calls alone are {percent(_calls(a))} of the time at {a['value']}."
        elif after > FASTER * before:
            why = f"The arithmetic itself gets faster with size, {speeds}."
        elif before > FASTER * after:
            why = f"The arithmetic itself gets slower with size, {speeds}."
        else:
            why = f"The speed hardly changes, {speeds}."
        lines.append(f"{head} ({exponent:.2f}). {why}")
    if not lines:
        return f"Linear throughout: every exponent is between {LINEAR[0]} and {LINEAR[1]}."
    if len(lines) < len(points) - 1:
        lines.append(f"- Elsewhere it is linear: between {LINEAR[0]} and {LINEAR[1]}.")
    return "\n".join(lines)


def _exponents(points: Sequence[Row]) -> list[float]:
    return [
        math.log(b["seconds"] / a["seconds"]) / math.log(b["flops"] / a["flops"])
        for a, b in pairwise(points)
    ]


def _calls(point: Row) -> float:
    """Share of the time that the calls alone take."""
    return float(min(1.0, point["empty_seconds"] / point["seconds"]))


def _rate(point: Row) -> float:
    return float(point["flops"] / point["seconds"])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row is the head; numbers to the right."""
    align = ("left", *["right"] * (len(rows[0]) - 1))
    text: str = tabulate(
        rows, headers="firstrow", tablefmt="pipe", colalign=align, disable_numparse=True
    )
    return text
