"""Table 3 in short, for a front page: best checkpoints, few columns, a paragraph on the origin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.records import Records, RunRecord
from bench.report.aggregate import Row, Section, sections
from bench.report.cost import costs
from bench.report.facts import attacks
from bench.report.layout import (
    COST,
    GAP,
    LOWEST,
    MASKED,
    NAMES,
    ROBUST,
    Line,
    Notes,
    Table,
    main_table,
    title,
)
from bench.report.markdown import markdown, plain
from bench.report.published import REFERENCE
from bench.report.revisions import section_code
from bench.report.units import span

_COLUMNS = (*NAMES.values(), ROBUST, LOWEST, MASKED, COST)
_ABSOLUTE = r"(?:^|(?<=[\s:=,]))/(?:[^\s,]*/)?"
"""The folders before the name at the end of an absolute path."""


def brief(records: Records, results: str) -> str:
    """A table and a paragraph for each setting; `results` is the folder that it names."""
    return "\n\n".join(
        f"{markdown(brief_table(section))}\n\n{plain(_origin(section, results))}"
        for section in sections(records)
    )


def brief_table(section: Section) -> Table:
    """The best checkpoints of Table 3, with the notes that their cells need."""
    whole, notes = main_table(section), Notes()
    counts = {len(row.index) for row in _rows(section) if row.clean}
    # one number of images is said below the table
    columns = (*_COLUMNS, "n") if len(counts) > 1 else _COLUMNS
    lines = []
    for line in whole.lines:
        by_heading = dict(zip(whole.headings, (*line.head, *line.cells), strict=False))
        if by_heading["Checkpoint"].main == "last":
            continue
        doubts = by_heading["Checkpoint"].marks
        by_heading["Method"] = replace(
            by_heading["Method"], marks=(*by_heading["Method"].marks, *doubts)
        )
        if line.cells:
            # what is said of the gap, which has no column here, is said of its PGD-20
            doubts = by_heading[GAP].marks
            by_heading["PGD-20"] = replace(by_heading["PGD-20"], marks=doubts)
        name, *cells = (
            replace(text, marks=tuple(notes.mark(whole.notes[mark - 1]) for mark in text.marks))
            for heading in ("Method", *columns)
            if (text := by_heading.get(heading))
        )
        lines.append(Line(head=(name,), cells=tuple(cells), status=line.status))
    return Table(headings=("Method", *columns), lines=tuple(lines), notes=tuple(notes.texts))


def _origin(section: Section, results: str) -> str:
    rows = _rows(section)
    runs = [run for group in section.groups for run in group.runs]
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    machines = {str(r.machine) for cost in costs(section) for r in cost.runs if r.machine}
    spread = any(row.clean and row.clean.std is not None for row in rows)
    interval = "[a, b]: 95% interval over the images"
    interval += "; \u00b1: standard deviation over seeds" if spread else ""
    return (
        f"Percent of the first {_n(rows)} test images, the same in all columns; {interval}. "
        f"{''.join(f'{text} ' for text in attacks(section, last=False))}"
        f"Cost: forward and backward passes of the training, relative to {REFERENCE}'s. "
        f"Setting: {title(section.setting)}; best checkpoints; "
        f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}. "
        f"Trained on: {'; '.join(sorted(machines)) or 'not on record'}. "
        f"From the records in `{results}`, made by {_commands(runs)}. "
        f"{' '.join(section_code(section, last=False))}"
    ).rstrip()


def _rows(section: Section) -> list[Row]:
    return [row for row in section.rows if row.evaluated and row.checkpoint != "last"]


def _n(rows: Iterable[Row]) -> str:
    """Images of the rows: `360`, or the smallest and the largest."""
    counts = tuple(len(row.index) for row in rows if row.clean)
    return span(counts) if counts else "0"


def _commands(runs: Sequence[RunRecord]) -> str:
    """Each recorded command once, without the folders of the machine that ran it."""
    asked = dict.fromkeys(str(run.provenance.get("command") or "bench run") for run in runs)
    return ", ".join(f"`{re.sub(_ABSOLUTE, '', command)}`" for command in asked)
