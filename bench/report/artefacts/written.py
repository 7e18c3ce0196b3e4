"""What the files of an artefact have in common: its size and its origin on each of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from bench.report.artefacts.trained import ALARM_TEXT
from bench.report.joins import Cell, Estimate
from bench.report.latex import latex
from bench.report.layout import Table
from bench.report.markdown import markdown, plain
from bench.report.suite_runs import SuiteRuns
from bench.report.units import ALARM

NUMBERS = ("accuracy", "low", "high", "std", "n", "n_seeds")
"""The columns of `numbers`; fractions."""
PERCENT = (
    "Percent. [a, b]: 95% interval over the images (Wilson's). \u00b1: standard deviation over "
    "seeds, beside their mean."
)
"""What the cells of a table are."""


def alarm_notes(labels: Iterable[str]) -> list[str]:
    """What the mark on a label means, where any label has it."""
    return [ALARM_TEXT] if any(ALARM in label for label in labels) else []


def numbers(cell: Cell) -> list[str]:
    """The entries of NUMBERS; of several seeds the smallest n."""
    fractions = (cell.value, cell.low, cell.high, cell.std)
    return [*map(fraction, fractions), str(min(cell.n)), str(len(cell.n))]


def fraction(value: float | None) -> str:
    """With six decimals; empty where there is none."""
    return "" if value is None else f"{value:.6f}"


def limits(cell: Cell | Estimate) -> tuple[float, float]:
    """Of the interval; of several seeds a standard deviation about their mean."""
    value, std = cell.value or 0.0, getattr(cell, "std", None)
    if std is not None:
        return value - std, value + std
    return value if cell.low is None else cell.low, value if cell.high is None else cell.high


def csv_bytes(head: Sequence[str], rows: Iterable[Sequence[object]], remark: str) -> bytes:
    """A comment line, the header, the rows."""
    buffer = io.StringIO()
    buffer.write(f"# {remark}\n")
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow(head)
    lines.writerows(rows)
    return buffer.getvalue().encode()


def remark(chosen: SuiteRuns, note: str) -> str:
    """Origin and size, in a line."""
    return f"{note} {chosen.caption}"


def not_comparable(chosen: SuiteRuns) -> str:
    """What the heading of the paper's numbers says beside ours; empty for the paper's own size."""
    if chosen.full:
        return ""
    return f" ({chosen.dataset}, size {chosen.suite.size}: not comparable)"


def table_files(
    name: str, heading: str, table: Table, below: Sequence[str], chosen: SuiteRuns, note: str
) -> dict[str, bytes]:
    """The .md and .tex of a table; `below` says how it is to be read."""
    text = "\n\n".join([note, f"# {heading}", plain(chosen.caption), markdown(table, below)])
    caption = f"{heading}. {chosen.caption}"
    preamble = f"% {note}\n% Needs the packages booktabs and graphicx."
    tex = "\n\n".join([preamble, latex(table, caption, name, below)])
    return {f"{name}.md": f"{text}\n".encode(), f"{name}.tex": f"{tex}\n".encode()}
