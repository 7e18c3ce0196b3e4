"""Tables as GitHub's markdown, aligned so that they also read well as plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.report.layout import Line, Table, Text
from bench.report.units import MISSING

_SUPERSCRIPTS = str.maketrans(
    "0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)
_CODE = re.compile(r"(?<!`)(`+)(?!`)(?:.*?[^`])\1(?!`)")
"""A span of code, as our own lines hold for commands and run ids."""
_MARKUP = re.compile(
    r"\\(?=[!-/:-@\[-`{-~]|$)"  # a backslash that would take the next character's meaning
    r"|[*$~`<]|&(?=#?\w+;)|(?<=\])\("
    r"|(?<![^\W_])_"  # after a letter it begins nothing
)
_START = re.compile(r"^(\d*)((?<=\d)[.)](?=\s|$)|[#>+-](?=[\s#>]|$)|\[(?=[ xX]\]))")
"""What the start of a line would make of it: a heading, a list in the list, a box to tick."""
_STOPPED = r"\1\\\2"


class Markup(str):
    """Text of ours that is markdown already: links, bold words."""

    __slots__ = ()


def markdown(table: Table, below: Sequence[str] = ()) -> str:
    """The table; under it a list of its notes, then of `below`."""
    headings = list(table.headings)
    if table.paper_heading:
        headings.append(f"Paper: clean / PGD-20 / C&W ({': '.join(table.paper_heading)})")
    headings = [_escaped(heading) for heading in headings]
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
    return "\n".join(f"- {_START.sub(_STOPPED, plain(line))}" for line in lines)


def superscript(number: int) -> str:
    """12 as raised digits."""
    return str(number).translate(_SUPERSCRIPTS)


def plain(text: str) -> str:
    """Return free text on one line, such that it does not become markup.

    Spans of code and `Markup` stay what they are.
    """
    line = " ".join(text.split())
    if isinstance(text, Markup):
        return line
    parts, end = [], 0
    for span in _CODE.finditer(line):
        parts += [_MARKUP.sub(r"\\\g<0>", line[end : span.start()]), span[0]]
        end = span.end()
    parts.append(_MARKUP.sub(r"\\\g<0>", line[end:]))
    return "".join(parts)


def alternative(text: str) -> str:
    """Return free text as that of an image, which ends at a bracket."""
    return re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", plain(text))


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
    words = Markup(words) if isinstance(text.main, Markup) else words
    shown = f"**{_escaped(words)}**" if text.strong else _escaped(words)
    return _marked(shown, text.marks)


def _marked(words: str, marks: Sequence[int]) -> str:
    return " ".join([words, *(superscript(mark) for mark in marks)])


def _escaped(words: str) -> str:
    return plain(words).replace("|", "\\|")
