"""Tables as LaTeX, for the packages booktabs and graphicx."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.layout import Line, Table, Text
from bench.report.units import ALARM, MINUS, MISSING

_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\u00b1": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u00f7": r"$\div$",
    MINUS: "$-$",
    MISSING: "--",
    ALARM.strip(): r"$^\dagger$",
}
_PAPER = ("Clean", "PGD-20", "C&W")


def latex(table: Table, caption: str, label: str, below: Sequence[str]) -> str:
    """A table environment as wide as the page; under the rules its notes, then `below`."""
    n_columns, paper = len(table.headings), table.paper_heading
    n_left = len(table.lines[0].head)
    columns = "l" * n_left + "r" * (n_columns - n_left + (3 if paper else 0))
    headings = [escaped(heading) for heading in table.headings]
    lines = [r"\begin{table*}", r"\centering\footnotesize", rf"\caption{{{escaped(caption)}}}"]
    lines += [rf"\label{{tab:{label}}}", r"\resizebox{\linewidth}{!}{%"]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    if paper:
        origin = r"\\".join(escaped(part) for part in ("Paper", *paper))
        span = rf"\multicolumn{{3}}{{c}}{{\shortstack{{{origin}}}}}"
        lines.append(f"{'& ' * n_columns}{span} \\\\")
        lines.append(rf"\cmidrule(l){{{n_columns + 1}-{n_columns + 3}}}")
        headings += [escaped(heading) for heading in _PAPER]
    lines += [_row(headings), r"\midrule"]
    lines += [_row(_cells(line, n_columns, bool(paper))) for line in table.lines]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    notes = [f"$^{{{number}}}$ {escaped(note)}" for number, note in enumerate(table.notes, 1)]
    for paragraph in (*notes, *(escaped(text) for text in below)):
        lines += ["", rf"\noindent\scriptsize {paragraph}"]
    return "\n".join([*lines, r"\end{table*}"])


def escaped(text: str) -> str:
    """Return free text on one line, such that it does not become markup."""
    return "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))


def _row(cells: Sequence[str]) -> str:
    r"""A line of a table: what comes before may end in `\\` or a rule, which take `[` and `*`."""
    line = " & ".join(cells)
    guard = "{}" if line.startswith(("[", "*")) else ""
    return rf"{guard}{line} \\"


def _cells(line: Line, n_columns: int, with_paper: bool) -> list[str]:
    cells = [_text(text) for text in (*line.head, *line.cells)]
    if line.status:
        cells.append(rf"\multicolumn{{{n_columns - len(cells)}}}{{l}}{{{escaped(line.status)}}}")
    if with_paper:
        values = [escaped(value) for value in line.paper or ("", "", "")]
        cells += [*values[:2], values[2] + _marks(line.paper_marks)]
    return cells


def _text(text: Text) -> str:
    interval = rf"{{\scriptsize {escaped(text.interval)}}}" if text.interval else ""
    parts = (escaped(text.main), interval, escaped(text.remark))
    words = " ".join(part for part in parts if part)
    return (rf"\textbf{{{words}}}" if text.strong else words) + _marks(text.marks)


def _marks(marks: Sequence[int]) -> str:
    return f"$^{{{','.join(str(mark) for mark in marks)}}}$" if marks else ""
