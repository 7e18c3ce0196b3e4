"""docs/speed.md: what `bench speed` wrote, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.speed.row import times_faster
from bench.speed.tables import markdown_table, significant

HEAD = (
    *("what", "network", "precision", "images", "images/s", "beside", "images/s", "times faster"),
    *("share of peak", "of matrix peak", "robust", "apart", "rounds"),
)
NOTHING = "-"


def speed_page(rows: Sequence[Mapping[str, Any]], profile: str = "") -> str:
    """The rows of the records, a section a machine, each with the commands that measured it.

    profile: the text of a section of its own, if there is one.
    """
    machines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        machines.setdefault(_machine(row), []).append(row)
    sections = [_section(*found) for found in machines.items()]
    if profile:
        sections.append(f"## Where the time goes\n\n{profile}")
    return PAGE.format(sections="\n\n".join(sections))


def _machine(row: Mapping[str, Any]) -> str:
    about = row["machine"]
    threads = f"{row['threads']} threads, torch {about['packages']['torch']}"
    return f"{about['device']}, {about['processor']}, {threads}"


def _section(machine: str, rows: Sequence[Mapping[str, Any]]) -> str:
    return SECTION.format(
        machine=machine,
        commands="\n".join(f"    {c}" for c in dict.fromkeys(row["command"] for row in rows)),
        table=markdown_table(_filled_columns([HEAD, *map(_cells, rows)])),
    )


def _filled_columns(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Without columns that no row but the first has anything in."""
    columns = [column for column in zip(*rows, strict=True) if set(column[1:]) != {NOTHING}]
    return list(zip(*columns, strict=True))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    what = f"{row['what']} ({row['note']})" if row["note"] else row["what"]
    return (
        *(what, row["arch"], row["precision"], str(row["n_images"])),
        significant(row["ours_images_per_second"]),
        row["reference"] or NOTHING,
        _or_dash(row["reference_images_per_second"]),
        times_faster(row["ratio"], row.get("ratios", ())),
        _percent(row["share_of_peak"]),
        _percent(row.get("share_of_matrix_peak")),
        _percent(row["robust_share"]),
        NOTHING if row["n_apart"] is None else str(row["n_apart"]),
        str(row["n_rounds"]),
    )


def _or_dash(value: float | None) -> str:
    return NOTHING if value is None else significant(value)


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.0f}%"


PAGE = """\
# How fast

Made from the records in `results/speed` by `make docs`.

Both sides of a row do the same work on the same images and take turns in one process; figures are
medians over the rounds, and `times faster` is the median of the rounds' ratios, with the least and
the most of them. A step is one whole update of a method (`step-METHOD`) beside a plain loop written
as its authors spend it (`benchmarks/loops.py`: fp32, NCHW). `share of peak` is the time that the
step's convolutions take alone, each at its fastest in the same round, over the step's time, and
`of matrix peak` the time that as many multiplications take in one large product of matrices.
`robust` is the share of the images that are still right under the attack, and `apart` the images
that one side broke and the other did not, where another package's PGD starts from noise of its own.

Only the ratios mean something elsewhere, and they depend on the processor: on how fast it
multiplies bf16, and on how much of a plain loop is more than convolutions. Each machine was shared
with other work.

{sections}

## Memory

`bench speed` prints the most memory of a step beside its speed, measured in a process of its own.
An update keeps the maps of its passes; an attack those of one pass of its copy, in `--precision
bf16` in half the bytes. `tests/test_step_memory.py` counts what WRN-34-10 keeps for 128 images
under TRADES, whose update keeps two whole passes, and holds that to 16 GiB; nothing is computed
twice to save memory.

## Compiling

`bench run --compile` has `torch.compile` compile the copy that a training attacks, and not the
update, which is the smaller part. On CUDA each pass becomes a CUDA graph, and batches are filled up
to one size. Evaluations are not compiled: their batches shrink as images are found. It is off
unless asked for: rows marked `compiled` show what it costs on a CPU, and on a GPU nothing of it is
on record yet; `bench speed --only step-madry --compile` measures it.
"""

SECTION = """\
## {machine}

Measured by

{commands}

{table}"""
