"""DataFrames and figures as files: .md, .tex and .csv, .png, .pdf and .svg. Deterministic bytes.

Text from outside may hold any character: it is escaped here, and nowhere else.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from bench.report.formatting import ALARM, MINUS, MISSING, superscript

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 300
_RC: Any = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 9.0,
    "text.parse_math": False,  # names come from outside; our own formulas ask for it
}
_ONE_COLUMN = 4
"""Columns of a table that fit one column of a page of two."""
_CHARACTERS = 110
"""That fit a page, at 8 points."""
_NO_WIDTH = "\u200b"
_CODE = re.compile(r"(?<!`)(`+)(?!`)(?:.*?[^`])\1(?!`)")
"""A span of code, used for commands and run ids."""
_MARKUP = re.compile(
    r"\\(?=[!-/:-@\[-`{-~]|$)"  # a backslash that would escape the next character
    r"|[*$~`<]|&(?=#?\w+;)|(?<=\])\("
    r"|(?<![^\W_])_"  # after a letter it begins nothing
)
_START = re.compile(r"^(\d*)((?<=\d)[.)](?=\s|$)|[#>+-](?=[\s#>]|$)|\[(?=[ xX]\]))")
"""What markdown reads at the start of a line: a heading, a nested list, a check box."""
_LATEX = {
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
    "\u03b5": r"$\epsilon$",
    "\u2026": r"\dots{}",
    ALARM.strip(): r"$^\dagger$",
    **{superscript([n]): f"$^{{{n}}}$" for n in range(10)},
}


class Markup(str):
    """Text of ours that is markdown already: links, bold words."""

    __slots__ = ()


class Bold(str):
    """A cell in bold."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table for readers: text in cells, with numbered notes."""

    text: pd.DataFrame
    """Strings; its columns are the headings."""
    notes: tuple[str, ...] = ()
    """A cell refers to note 1 by `superscript([1])` at its end."""
    n_left: int = 1
    """Columns aligned to the left; the others to the right in LaTeX."""
    widths: tuple[float, ...] = ()
    """Of the first columns in LaTeX, where their texts are to be wrapped: shares of a line."""


class Notes:
    """Notes of a table in the order of their first mention; equal texts are one note."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def mark(self, *texts: str) -> str:
        """Return the raised numbers of some notes with a space before them; empty for none."""
        numbers = [self.texts.setdefault(text, len(self.texts) + 1) for text in texts]
        return f" {superscript(numbers)}" if numbers else ""


def markdown(table: Table, below: Sequence[str] = ()) -> Markup:
    """Return the table in GitHub's markdown, then a list of its notes and of `below`."""
    text = table.text.map(_cell).rename(columns=_cell)
    lines = text.to_markdown(index=False, disable_numparse=True, stralign="left")
    listed = bullets(
        [*(f"{superscript([n])} {note}" for n, note in enumerate(table.notes, 1)), *below]
    )
    return Markup(f"{lines}\n\n{listed}" if listed else lines)


def latex(table: Table, caption: str, label: str, below: Sequence[str] = ()) -> str:
    """Return a table environment at 8 points, its notes and `below` under the rules.

    As wide as the page, where it has more columns than fit one column of it; of very many columns
    several tables below each other.
    """
    text = table.text.map(_latex_cell).rename(columns=_latex_heading)
    wrapped = [rf">{{\raggedright\arraybackslash}}p{{{w}\linewidth}}" for w in table.widths]
    left = [*wrapped, *"l" * (table.n_left - len(wrapped))]
    tabulars = []
    for places in _blocks(table):
        own = text.iloc[:, [*range(table.n_left), *places]].style.hide(axis="index")
        columns = "".join(["@{}", *left, *"r" * len(places), "@{}"])
        tabulars.append(own.to_latex(column_format=columns, hrules=True).strip())
    environment, space = ("table*", 4) if len(text.columns) > _ONE_COLUMN else ("table", 3)
    notes = [f"$^{{{n}}}$ {latex_escaped(note)}" for n, note in enumerate(table.notes, 1)]
    under = " ".join([*notes, *map(latex_escaped, below)])
    return "\n".join(
        [
            rf"\begin{{{environment}}}",
            rf"\caption{{{latex_escaped(caption)}}}\label{{tab:{label}}}",
            rf"\centering\fontsize{{8}}{{9.6}}\selectfont\setlength{{\tabcolsep}}{{{space}pt}}",
            "\n\\par\\medskip\n".join(tabulars),
            *([r"\par\smallskip\raggedright", under] if under else []),
            rf"\end{{{environment}}}",
        ]
    )


def _blocks(table: Table) -> list[list[int]]:
    """Return the places of the columns of numbers, in blocks that fit a page."""
    sizes = [2 + max(map(len, [*_lines(str(name)), *table.text[name]])) for name in table.text]
    blocks: list[list[int]] = [[]]
    start = sum(sizes[: table.n_left])
    total = start
    for place in range(table.n_left, len(sizes)):
        if total + sizes[place] > _CHARACTERS and not table.widths and blocks[-1]:
            blocks.append([])
            total = start
        blocks[-1].append(place)
        total += sizes[place]
    return blocks


def latex_document(tables: Iterable[str]) -> str:
    """Return the text of a file of LaTeX tables."""
    return "\n\n".join(["% Needs the packages booktabs and array.", *tables])


def csv_text(frame: pd.DataFrame, note: str) -> str:
    """Return a comment line with `note`, the header and the rows; missing values are empty."""
    rows = frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return f"# {note}\n{rows}"


def bullets(lines: Iterable[str]) -> Markup:
    """Return a markdown list of free text."""
    return Markup("\n".join("- " + _START.sub(r"\1\\\2", plain(line)) for line in lines))


def plain(text: str) -> str:
    """Return free text on one line, escaped so that it does not become markdown.

    Spans of code and `Markup` are left as they are.
    """
    line = " ".join(text.split())
    if isinstance(text, Markup):
        return line
    parts, end = [], 0
    for code in _CODE.finditer(line):
        parts += [_MARKUP.sub(r"\\\g<0>", line[end : code.start()]), code[0]]
        end = code.end()
    parts.append(_MARKUP.sub(r"\\\g<0>", line[end:]))
    return "".join(parts)


def alternative(text: str) -> str:
    """Return free text as the alternative text of an image, which ends at a bracket."""
    return re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", plain(text))


def latex_escaped(text: str) -> str:
    """Return free text on one line, escaped so that it does not become LaTeX."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _cell(text: str) -> str:
    escaped = plain(text).replace("|", "\\|")
    return f"**{escaped}**" if isinstance(text, Bold) else escaped


def _latex_cell(text: str) -> str:
    escaped = latex_escaped(text)
    escaped = rf"\textbf{{{escaped}}}" if isinstance(text, Bold) else escaped
    # a cell may follow `\\` or a rule, which take [ and * as arguments
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def _latex_heading(text: str) -> str:
    """Return a heading; what follows a comma or stands in brackets is on a line of its own."""
    lines = r"\\".join(map(latex_escaped, _lines(text)))
    return rf"\shortstack[r]{{{lines}}}" if r"\\" in lines else lines


def _lines(heading: str) -> list[str]:
    return re.split(r", | (?=\()", heading)


def render(template: str, /, package: str = "bench.report", **context: Any) -> str:
    """Return a page from a template in the folder `templates` of a package.

    Whatever a template prints is escaped like `plain` does, but for `Markup`.
    """
    return _environment(package).get_template(template).render(**context)


@cache
def _environment(package: str) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else plain(str(value)),
        autoescape=False,  # `finalize` escapes for markdown; autoescape would for HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def fitted(lines: Iterable[str], inches: float) -> str:
    """Return lines of text at 9 points, broken to a figure's width; empty ones left out."""
    return "\n".join(textwrap.fill(line, int(13.5 * inches)) for line in lines if line)


def legend_label(name: str) -> str:
    """Return the name as a legend's label; matplotlib drops labels that begin with `_`."""
    return f"{_NO_WIDTH}{name}" if name.startswith("_") else name


def figure_files(draw: Callable[[], Figure], note: str, salt: str) -> dict[str, bytes]:
    """Return the .png, .pdf and .svg of a figure and its caption in LaTeX, by suffix.

    `draw` makes it under our style; its caption is its label. `note` says where its numbers come
    from. `salt` names the kind of figure: it keeps the ids inside two .svg files apart, should a
    page hold both.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC | {"svg.hashsalt": salt})
        figure = draw()
        FigureCanvasAgg(figure)
        figure.set_dpi(DPI)
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)  # once: `savefig` would lay the figure out again for each file
            figure.set_layout_engine(None)
        metadata: dict[str, Any] = {
            "png": {"Software": None, "Description": note},
            "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Subject": note},
            "svg": {"Date": None, "Creator": None, "Description": note},
        }
        files = {f".{kind}": _saved(figure, kind, facts) for kind, facts in metadata.items()}
    caption = str(figure.get_label())
    if not caption:
        return files
    files[".svg"] = _described(files[".svg"], caption)
    text = rf"\caption{{{latex_escaped(caption)}}}\label{{fig:{salt}}}"
    return files | {"-caption.tex": f"% {note}\n{text}\n".encode()}


def captioned(figure: Figure, texts: Iterable[str]) -> Figure:
    """Keep a figure's caption, which is no part of the picture; return the figure."""
    sentences = (f"{text.rstrip('.')}." for text in texts if text)
    figure.set_label(" ".join(sentences))
    return figure


def _described(svg: bytes, caption: str) -> bytes:
    """Return a .svg that names and describes itself to a screen reader."""
    title = escape(caption.partition(". ")[0].rstrip("."))
    inside = f"<title>{title}</title>\n <desc>{escape(caption)}</desc>\n <metadata>"
    named = svg.replace(b"<metadata>", inside.encode(), 1)
    return named.replace(b"<svg ", b'<svg role="img" ', 1)


def _saved(figure: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()
