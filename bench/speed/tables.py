"""Tables of the speed pages, as markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned, the first row the headings; the first column to the left, numbers to the right."""
    widths = [max(3, *(len(cell) for cell in column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    head, *body = rows
    return "\n".join(_line(row, widths) for row in [head, rule, *body])


def significant(value: float, digits: int = 3) -> str:
    """`1,230`, `12.3`, `0.0123`: so many digits that count, none of them an exponent."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".rpartition("e")[2])  # of the rounded number
    places = digits - 1 - exponent
    return f"{round(value, places):,.{max(places, 0)}f}"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    others = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return f"| {' | '.join((first, *others))} |"
