"""The tables as words in cells, before any markup: what markdown and LaTeX both write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.records import RunRecord
from bench.report.aggregate import (
    AUTOATTACK,
    CLEAN,
    CORE,
    CW,
    MASKING_GAP,
    PGD,
    Row,
    Section,
    heading,
    status,
)
from bench.report.cost import costs
from bench.report.groups import Group, Setting
from bench.report.joins import Cell
from bench.report.masking import Masking
from bench.report.published import REFERENCE, TABLE_3, differences
from bench.report.units import MINUS, MISSING, eps_both, percent, span

MASKING_NOTE = (
    f"PGD-20 is more than {percent(MASKING_GAP, 0)} points above AutoAttack on the same images. "
    "The README of AutoAttack lists 1 to 6 points for most adversarially trained models, and 24 "
    "to 32 for models that mislead attacks by their gradients. Read AutoAttack and the worst "
    "case of this row, not its PGD-20."
)
GAP = f"PGD-20 {MINUS} AutoAttack"
ROBUST = "Robust (worst case)"
LOWEST = "Lowest seen"
MASKED = "Masking checks"
ALL_IMAGES = "(all images)"
FULL = "(full n)"
COST = f"Cost (passes, relative to {REFERENCE})"
"""Headings of columns."""
NAMES = {CLEAN: "Clean", PGD: "PGD-20", CW: "C&W", AUTOATTACK: "AutoAttack"}
"""Headings of what has a column of its own in every table."""
SHOWN_WARNINGS = 3
"""Warnings that a row's note quotes."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """One cell: `52.3`, its interval, what a reader must know at once, numbers of notes."""

    main: str
    interval: str = ""
    remark: str = ""
    marks: tuple[int, ...] = ()
    strong: bool = False
    """Whether it stands out: in bold."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table."""

    head: tuple[Text, ...]
    """Method and checkpoint."""
    cells: tuple[Text, ...]
    status: str = ""
    """In place of the cells, where there is no number at all."""
    paper: tuple[str, str, str] | None = None
    """The paper's clean, PGD and C&W, where it has such a row."""
    paper_marks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table with its numbered notes."""

    headings: tuple[str, ...]
    """Of `head` and `cells`."""
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    paper_heading: tuple[str, ...] = ()
    """Where the paper's columns are from, and why they cannot be compared; or no such columns."""


@dataclass
class Notes:
    """Notes in the order of their first mark; the same text is one note."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> int:
        """The number of a note, added where it is new."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def title(setting: Setting) -> str:
    """`digits, cnn, recipe common, eps 8/255 (0.0314)`."""
    parts = [setting.dataset, setting.arch or "models from outside"]
    parts += [f"recipe {setting.recipe}"] if setting.recipe else []
    parts += [f"eps {eps_both(setting.eps)}"] if setting.eps >= 0 else []
    return ", ".join(parts)


def main_table(section: Section) -> Table:
    """Table 3: a line for each method and checkpoint."""
    setting, notes = section.setting, Notes()
    other = differences(setting.dataset, setting.arch, setting.eps)
    unlike = [f"{' and '.join(other)}, not comparable"] if other else []
    usual = usual_lowest(section)
    relative = {cost.group.label: cost.passes_relative for cost in costs(section)}
    lines, seen = [], None
    for row in section.rows:
        cost = relative[row.group.label]
        lines.append(_line(row, row.group is not seen, usual, cost, notes))
        seen = row.group
    return Table(
        headings=(
            *("Method", "Checkpoint", *NAMES.values(), ROBUST, LOWEST),
            *(GAP, MASKED, "n", "Seeds", COST),
        ),
        lines=tuple(lines),
        notes=tuple(notes.texts),
        paper_heading=("CIFAR-10, WRN-34-10", *unlike),
    )


def other_table(section: Section) -> Table | None:
    """The attacks without a column of their own, and what was evaluated on more images than a row.

    All on every image that was evaluated. None where there is nothing of either kind.
    """
    full = full_labels(section)
    labels = (*full, *section.attacks)
    if not labels:
        return None
    transferred = sorted({label for row in section.rows for label in row.after})
    lines = []
    for row in (row for row in section.rows if row.evaluated):
        cells = [cell_text(row.whole.get(label), row.n_seeds, None) for label in labels]
        cells += [cell_text(row.after.get(label), row.n_seeds, None) for label in transferred]
        checkpoint = MISSING if row.group.outside else row.checkpoint
        head = (Text(main=row.group.label), Text(main=checkpoint))
        lines.append(Line(head=head, cells=tuple(cells)))
    headings = (
        *("Method", "Checkpoint"),
        *(f"{NAMES[label]} {FULL}" for label in full),
        *map(heading, section.attacks),
        *(f"{label} {ALL_IMAGES}" for label in transferred),
    )
    return Table(headings=headings, lines=tuple(lines), notes=())


def full_labels(section: Section) -> tuple[str, ...]:
    """Which of NAMES were evaluated on more images than their row in the table is of."""
    cells = {
        name: [
            (row.whole.get(name), row.clean if name == CLEAN else row.attacks.get(name))
            for row in section.rows
        ]
        for name in (CLEAN, *CORE)
    }
    return tuple(
        name for name, pairs in cells.items() if any(a and b and a.n != b.n for a, b in pairs)
    )


def usual_lowest(section: Section) -> tuple[str, ...]:
    """The attacks that the column "Lowest seen" joins in most rows, last checkpoints aside."""
    found = [row for row in section.rows if row.lowest_over]
    main = [row for row in found if row.checkpoint != "last"] or found
    counts = Counter(row.lowest_over for row in main)
    return max(counts, key=lambda names: (counts[names], len(names), names), default=())


def _line(row: Row, first: bool, usual: tuple[str, ...], cost: float | None, notes: Notes) -> Line:
    """`first`: of its method, the only one that names it; both checkpoints cost the same."""
    group = row.group
    states = [_state(run, group) for run in group.runs if status(run)]
    if not row.evaluated:
        # One run needs no name beside its own row.
        state = "; ".join(states) if len(group.runs) > 1 else status(group.runs[0])
        return _with_paper(
            Line(head=(Text(main=group.label), Text(main=MISSING)), cells=(), status=state),
            group,
            notes,
        )
    marks = tuple(notes.mark(f"{group.label}, {state}.") for state in states)
    doubts = (notes.mark(_doubt(row.warnings)),) if row.warnings else ()
    if group.outside:
        head = (Text(main=group.label, marks=(*marks, *doubts)), Text(main=MISSING))
    else:
        name = Text(main=group.label if first else "", marks=marks if first else ())
        head = (name, Text(main=row.checkpoint, marks=doubts))
    price = MISSING if cost is None else f"{cost:.2f}"
    cells = (*_cells(row, usual, notes), Text(main=price if first else ""))
    line = Line(head=head, cells=cells)
    return _with_paper(line, group, notes) if first else line


def _doubt(warnings: Sequence[str]) -> str:
    """The note of a row that the evaluator warns of; the list below the table has them all."""
    more = len(warnings) - SHOWN_WARNINGS
    rest = f"; and {more} more, listed below" if more > 0 else ""
    return f"The evaluator warns: {'; '.join(warnings[:SHOWN_WARNINGS])}{rest}."


def _state(run: RunRecord, group: Group) -> str:
    return status(run) if group.outside else f"seed {run.seed} {status(run)}"


def _cells(row: Row, usual: tuple[str, ...], notes: Notes) -> tuple[Text, ...]:
    n = (len(row.index),)
    lowest_marks: tuple[int, ...] = ()
    if row.lowest and row.lowest_over != usual:
        lowest_marks = (notes.mark(f"{LOWEST}: over {counted(row.lowest_over)}."),)
    gap_marks = (notes.mark(MASKING_NOTE),) if row.suspicious else ()
    total = len(row.group.runs)
    seeds = str(row.n_seeds) if row.n_seeds == total else f"{row.n_seeds} of {total}"
    return (
        *(cell_text(cell, row.n_seeds, n) for cell in (row.clean, *map(row.attacks.get, CORE))),
        cell_text(row.worst, row.n_seeds, n),
        cell_text(row.lowest, row.n_seeds, n, lowest_marks),
        cell_text(row.gap, row.n_seeds, n, gap_marks),
        masking_text(row.masking),
        Text(main=str(len(row.index)) if row.clean else MISSING),
        Text(main=MISSING if row.group.outside else seeds),
    )


def counted(labels: Sequence[str]) -> str:
    """`2 attacks (pgd-20, cw)`."""
    return f"{len(labels)} attack{'s' * (len(labels) != 1)} ({', '.join(labels)})"


def masking_text(found: Masking) -> Text:
    """`14 passed`, or the checks that raise an alarm: `C8, C14 of 14`."""
    if not found.made:
        return Text(main=MISSING)
    n = len(found.made)
    codes = ", ".join(found.codes)
    return Text(main=f"{codes} of {n}", strong=True) if codes else Text(main=f"{n} passed")


def cell_text(
    cell: Cell | None, n_seeds: int, n: tuple[int, ...] | None, marks: tuple[int, ...] = ()
) -> Text:
    """A cell's words; `n` is what the row's n column says, None where there is no such column."""
    if cell is None:
        return Text(main=MISSING)
    remark = _remark(cell, n_seeds, n)
    if cell.value is None:
        return Text(main="", remark=remark, marks=marks)
    interval = ""
    if cell.std is not None:
        interval = f"\u00b1 {percent(cell.std)}"
    elif cell.low is not None and cell.high is not None:
        interval = f"[{percent(cell.low)}, {percent(cell.high)}]"
    return Text(main=percent(cell.value), interval=interval, remark=remark, marks=marks)


def _remark(cell: Cell, n_seeds: int, n: tuple[int, ...] | None) -> str:
    parts = []
    short = [pair for pair in zip(cell.n, cell.n_expected, strict=True) if pair[0] < pair[1]]
    if short:
        where = f" in {len(short)} of {len(cell.n)} seeds" if len(cell.n) > 1 else ""
        parts.append(f"{short[0][0]} of {short[0][1]} images{where}")
    elif n is None or set(cell.n) != set(n):
        parts.append(f"n = {span(cell.n)}")
    if len(cell.n) < n_seeds:
        parts.append(f"{len(cell.n)} of {n_seeds} seeds")
    return f"({', '.join(parts)})" if parts else ""


def _with_paper(line: Line, group: Group, notes: Notes) -> Line:
    published = TABLE_3.get(group.method)
    if published is None or group.outside:
        return line
    clean, pgd, cw = (MISSING if v is None else percent(v, 2) for v in published.values)
    marks = tuple(notes.mark(note) for note in published.notes)
    return Line(
        head=line.head,
        cells=line.cells,
        status=line.status,
        paper=(clean, pgd, cw),
        paper_marks=marks,
    )
