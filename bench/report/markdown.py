"""Tables as GitHub's markdown, aligned so that they also read well as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.layout import Line, Table, Text
from bench.report.units import MISSING

_SUPERSCRIPTS = str.maketrans(
    "0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


def markdown(table: Table, below: Sequence[str] = ()) -> str:
    """The table; under it a list of its notes, then of `below`."""
    headings = list(table.headings)
    if table.paper_heading:
        headings.append(f"Paper: clean / PGD-20 / C&W ({': '.join(table.paper_heading)})")
    rows = [_cells(line, len(table.headings), bool(table.paper_heading)) for line in table.lines]
    # A reason for a failure may be long: it does not widen its column for all rows.
    measured = [r for r, line in zip(rows, table.lines, strict=True) if not line.status]
    widths = [max(3, *(len(row[i]) for row in [headings, *measured])) for i in range(len(headings))]
    rule = ["-" * width for width in widths]
    text = "\n".join(_row(row, widths) for row in [headings, rule, *rows])
    notes = [f"{superscript(n)} {note}" for n, note in enumerate(table.notes, 1)]
    listed = bullets([*notes, *below])
    return f"{text}\n\n{listed}" if listed else text


def bullets(lines: Sequence[str]) -> str:
    """A list; each line on its own."""
    return "\n".join(f"- {plain(line)}" for line in lines)


def superscript(number: int) -> str:
    """12 as raised digits."""
    return str(number).translate(_SUPERSCRIPTS)


def plain(text: str) -> str:
    """Free text that must not become markup."""
    return " ".join(text.replace("<", "\\<").split())


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"


def _cells(line: Line, n_columns: int, with_paper: bool) -> list[str]:
    cells = [_text(text) for text in (*line.head, *line.cells)]
    if line.status:
        cells += [_escaped(line.status)]
        cells += [MISSING] * (n_columns - len(cells))
    if with_paper:
        cells.append(_marked(" / ".join(line.paper), line.paper_marks) if line.paper else "")
    return cells


def _text(text: Text) -> str:
    words = " ".join(part for part in (text.main, text.interval, text.remark) if part)
    shown = f"**{_escaped(words)}**" if text.strong else _escaped(words)
    return _marked(shown, text.marks)


def _marked(words: str, marks: Sequence[int]) -> str:
    return " ".join([words, *(superscript(mark) for mark in marks)])


def _escaped(words: str) -> str:
    return plain(words).replace("|", "\\|")
