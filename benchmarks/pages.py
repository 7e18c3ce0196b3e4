"""docs/speed.md and docs/scaling.md, from the records in results/speed; without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tabulate import tabulate

from bench.machine import machine_text

LINEAR = (0.9, 1.1)
"""Exponents that are called linear."""
CALLS = 0.25
"""Share of the time from which the calls alone are named as the reason."""
FASTER = 1.1
"""Smallest ratio of two speeds that is worth a word."""
Row = Mapping[str, Any]


def speed_page(rows: Sequence[Row], profile: str = "", fused: str = "") -> str:
    """Return docs/speed.md: a section per machine, each with the commands that measured it."""
    machines: dict[str, list[Row]] = {}
    for row in rows:
        torch_version = row["machine"]["packages"]["torch"]
        machines.setdefault(f"{machine_text(row['machine'])}, torch {torch_version}", []).append(
            row
        )
    sections = [_section(machine, found) for machine, found in machines.items()]
    if profile:
        sections.append(f"## Where the time goes\n\n{profile}")
    return SPEED.format(sections="\n\n".join(sections), fused=fused)


def _section(machine: str, rows: Sequence[Row]) -> str:
    commands = "\n".join(f"    {command}" for command in dict.fromkeys(r["command"] for r in rows))
    head = (
        *("what", "network", "precision", "images", "images/s", "next to", "its images/s"),
        *("times faster", "of convolution peak", "of matrix peak", "robust", "apart", "rounds"),
    )
    table = [list(head), *map(_cells, rows)]
    columns = [column for column in zip(*table, strict=True) if set(column[1:]) != {"-"}]
    text = markdown_table(list(zip(*columns, strict=True)))
    return f"## {machine}\n\nMeasured by\n\n{commands}\n\n{text}"


def _cells(row: Row) -> list[str]:
    what = f"{row['what']} ({row['note']})" if row["note"] else row["what"]
    return [
        *(what, row["arch"], row["precision"], str(row["n_images"])),
        significant(row["ours_images_per_second"]),
        row["reference"] or "-",
        significant(row["reference_images_per_second"]),
        faster(row),
        percent(row["share_of_peak"]),
        percent(row.get("share_of_matrix_peak")),
        percent(row["robust_share"]),
        "-" if row["n_apart"] is None else str(row["n_apart"]),
        str(row["n_rounds"]),
    ]


def fused_section(record: Mapping[str, Any]) -> str:
    """Return what was measured of FusedConv, which was dropped."""
    rows = [["whole step or evaluation", "seconds with it", "without it", "times faster", "rounds"]]
    for row in record["rows"]:
        numbers = (row["seconds"], row["seconds_without"])
        cells = (*map(significant, numbers), f"{row['ratio']:.2f}", str(row["n_rounds"]))
        rows.append([row["what"], *cells])
    return FUSED.format(
        machine=machine_text(record["machine"]),
        revision=record["revision"],
        command=record["command"],
        table=markdown_table(rows),
    )


def profile_section(record: Mapping[str, Any], picture: str) -> str:
    """Return the section of docs/speed.md on where the time goes; `picture` is a relative path."""
    return "\n\n".join(
        [
            f"Measured on {machine_text(record['machine'])} by\n\n    {record['command']}",
            f"![seconds of a step by kind of operation]({picture})",
            PROFILE,
            profile_tables(record["steps"]),
        ]
    )


def profile_tables(steps: Sequence[Row]) -> str:
    """Return a Markdown table for each method and network."""
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


def scaling_page(record: Mapping[str, Any], picture: str) -> str:
    """Return docs/scaling.md; `picture` is a relative path."""
    where = f"{record['method']} in {record['precision']}, on {machine_text(record['machine'])}"
    head = SCALING.format(where=where, picture=picture)
    return "\n\n".join([head, *scaling_tables(record)]) + "\n"


def scaling_tables(record: Mapping[str, Any]) -> list[str]:
    """Return a section per axis: its table, and where the time is not linear."""
    return [
        f"## {curve['name'][0].upper()}{curve['name'][1:]}\n\nWith {curve['fixed']}.\n\n"
        f"{_curve_table(curve)}\n\n{linearity(curve['points'])}"
        for curve in record["curves"]
    ]


def _curve_table(curve: Mapping[str, Any]) -> str:
    rows = [[curve["name"], "GFLOP", "seconds", "exponent", "calls alone", "GFLOP/s"]]
    exponents = ["", *(f"{exponent:.2f}" for exponent in _exponents(curve["points"]))]
    for point, exponent in zip(curve["points"], exponents, strict=True):
        rows.append(
            [
                *(str(point["value"]), significant(point["flops"] / 1e9)),
                *(significant(point["seconds"]), exponent, percent(_calls(point))),
                significant(_rate(point) / 1e9),
            ]
        )
    return markdown_table(rows)


def linearity(points: Sequence[Row]) -> str:
    """Return where the time is not linear in FLOP, and what was measured there."""
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
    """Return a table whose first row is the headings; numbers to the right."""
    align = ("left", *["right"] * (len(rows[0]) - 1))
    text: str = tabulate(
        rows, headers="firstrow", tablefmt="pipe", colalign=align, disable_numparse=True
    )
    return text


def faster(row: Row) -> str:
    """Return `1.85 (1.79 to 1.92)`: the median of the rounds, the least and the most."""
    ratio, ratios = row["ratio"], row.get("ratios", ())
    if ratio is None:
        return "-"
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{ratio:.2f}{spread}"


def significant(value: float | None) -> str:
    """Return three digits that count: `1,230`, `12.3`, `0.0123`."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}".rstrip(".")


def percent(share: float | None) -> str:
    """Return a fraction as percent."""
    return "-" if share is None else f"{100 * share:.0f}%"


SPEED = """\
# How fast

Made from the records in `results/speed` by `make docs`. Measure on your machine by
`python -m benchmarks.steps`, `attacks`, `memory`, `profile`, `scaling` or `layers` in a checkout;
`--help` says how. Older records name `bench speed`, as these commands were called.

Both sides of a row do the same work on the same images and take turns in one process. Numbers are
medians over the rounds; `times faster` is the median of the rounds' ratios, with the smallest and
the largest. A step is one whole update of a method (`step-METHOD`) next to a plain loop of what the
authors' code computes (`benchmarks/loops.py`: fp32, NCHW). `of convolution peak` is the time that
the step's layers take alone, each at its fastest, over the step's time; `of matrix peak` the time
that as many multiplications take in one large matrix product. `robust` is the share of images that
are still classified correctly under the attack, `apart` the images that only one side broke:
another package's PGD starts from noise of its own.

Only the ratios mean something elsewhere, and they depend on the processor: on how fast it
multiplies bf16, and on how much of a plain loop is more than convolutions. Each machine was shared
with other work. The rows were measured before FusedConv was dropped (see below).

{sections}

## FusedConv

{fused}

## Memory

`python -m benchmarks.memory` measures the peak memory of a step in a process of its own. An update
keeps the activations of its passes; an attack those of one pass of its copy, in `--precision bf16`
in half the bytes. `tests/test_step_memory.py` counts what WRN-34-10 keeps for 128 images under
TRADES, whose update keeps two whole passes, and holds that to 16 GiB; nothing is computed twice to
save memory.

## Compiling

`bench run --compile` has `torch.compile` compile the copy that a training attacks, and not the
update, which is the smaller part. On CUDA each pass becomes a CUDA graph, and batches are filled up
to one size. Evaluations are not compiled: their batches shrink as images are broken. It is off by
default: rows marked `compiled` show what it costs on a CPU, and no GPU is on record yet;
`python -m benchmarks.steps --methods madry --compile` measures it.
"""
FUSED = """\
A layer that did a convolution with its ReLU by private oneDNN operators, and kept its weight in
their order, was measured alone and dropped: no training step became 10% faster, and those of the
digits suite became slower. Each row is the median ratio of alternating turns on {machine}, shared
with other work. The command ran at revision {revision}, the last one with the layer, and cannot run
since:

    {command}

{table}

The row marked `again` repeats a noisy one with more rounds. AutoAttack on 4 images gained most, 1.2
to 1.4; an evaluation takes chunks of 256 images, where only `cnn` was measured, at 0.98 to 1.06."""
PROFILE = """\
Seconds of a step under the profiler, which has a cost of its own, and their share of it, of the
median round. Each kind includes its gradient. A BatchNorm layer that is folded takes no time of its
own. `between`: no operation runs, but Python; or, on a GPU, it waits for the next."""
SCALING = """\
# How a training step scales

Seconds of one step of {where}. Generated from the record that
`python -m benchmarks.scaling --out results/speed/scaling.json` writes; each number is a median over
rounds in which all points of a table take turns.

![seconds of a step against what varies]({picture})

The exponent is that of the time against the FLOP of the step's convolutions and linear layers, from
the row above to this one: 1 is linear, 0 means that more work costs nothing. Calls alone: the share
of the time that the same step takes on two images of one pixel, with the same layers and next to
nothing to compute."""
