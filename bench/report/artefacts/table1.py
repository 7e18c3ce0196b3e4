"""Table 1: what training at a larger radius does to accuracy under an attack at a small one."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report.aggregate import PGD
from bench.report.artefacts.artefact import Made
from bench.report.artefacts.parts import CLEAN, Part, lacks, parts
from bench.report.artefacts.written import (
    NUMBERS,
    PERCENT,
    alarm_notes,
    csv_bytes,
    fraction,
    not_comparable,
    numbers,
    remark,
    table_files,
)
from bench.report.groups import same_eps
from bench.report.joins import Cell
from bench.report.layout import Line, Notes, Table, Text, cell_text
from bench.report.published import TABLE_1
from bench.report.suite_runs import SuiteRuns
from bench.report.units import MISSING, eps_text, percent, span
from bench.spec import CHECKPOINTS
from bench.study import AskedAttack

TITLE = "Table 1: robust accuracy of training at several radii, attacked at the smallest"
_SPLITS = ("test", "train")
_PAPER_NOTE = (
    'The paper heads these columns "error"; its values are accuracies. It names no checkpoint: '
    "they stand beside best."
)
_HEAD = ("method", "label", "train_eps", "paper_train_eps", "checkpoint", "split", "attack", "eps")


def make_table1(chosen: SuiteRuns, note: str) -> Made:
    """table1.md, .csv and .tex; no files where nothing was attacked."""
    rows = list(_rows(chosen))
    if not rows:
        return Made(files={}, lacks=lacks(chosen))
    head = (*_HEAD, *NUMBERS, "paper_accuracy")
    table = table1(chosen)
    files = table_files("table1", TITLE, table, _below(chosen, table), chosen, note)
    files["table1.csv"] = csv_bytes(head, rows, remark(chosen, note))
    return Made(files=files, lacks=lacks(chosen))


def table1(chosen: SuiteRuns) -> Table:
    """A line for each radius and checkpoint."""
    notes = Notes()
    mark = notes.mark(_PAPER_NOTE)
    lines = tuple(
        line
        for part in parts(chosen)
        for method in part.study.methods
        for line in _lines(part, method, mark)
    )
    return Table(
        headings=(
            *("Method", "Trained at eps", "Checkpoint", "Clean, test", "Robust, test", "n (test)"),
            *("Clean, train", "Robust, train", "n (train)", "Seeds"),
            *(f"Paper: robust, {split}{not_comparable(chosen)}" for split in _SPLITS),
        ),
        lines=lines,
        notes=tuple(notes.texts),
    )


def _lines(part: Part, method: str, mark: int) -> Iterator[Line]:
    name, radius = Text(main=part.label(method)), Text(main=_radius(part, part.study.eps))
    runs = part.runs(method)
    if not runs:
        head = (name, radius, Text(main=MISSING))
        yield Line(head=head, cells=(), status="no training")
    for checkpoint in CHECKPOINTS if runs else ():
        cells: list[Text] = []
        for split in _SPLITS:
            cells += _split(part, method, checkpoint, split)
        paper = [Text(main=""), Text(main="")]
        if checkpoint == CHECKPOINTS[0]:
            stated = [_stated(part, split) for split in _SPLITS]
            paper = [
                Text(main=MISSING) if v is None else Text(main=percent(v, 2), marks=(mark,))
                for v in stated
            ]
        named = (name, radius) if checkpoint == CHECKPOINTS[0] else (Text(main=""), Text(main=""))
        head = (*named, Text(main=checkpoint))
        yield Line(head=head, cells=(*cells, Text(main=str(len(runs))), *paper))


def _split(part: Part, method: str, checkpoint: str, split: str) -> list[Text]:
    """Clean, robust, and how many images."""
    robust = part.cell(method, _attack(part, split), checkpoint)
    clean = part.cell(method, _clean(split), checkpoint)
    n = robust.n if robust else clean.n if clean else None
    n_seeds = len(part.runs(method))
    images = Text(main=span(n) if n else MISSING)
    return [cell_text(clean, n_seeds, n), cell_text(robust, n_seeds, n), images]


def _attack(part: Part, split: str = "test") -> AskedAttack:
    return part.attacks(PGD, split)[0]


def _clean(split: str) -> AskedAttack:
    return AskedAttack(name=CLEAN, split=split)


def _radius(part: Part, eps: float) -> str:
    """`0.06375 (the paper's 0.01)`, or `0.01`."""
    paper = part.paper_eps(eps)
    return eps_text(eps) + ("" if same_eps(paper, eps) else f" (the paper's {eps_text(paper)})")


def _stated(part: Part, split: str) -> float | None:
    """The paper's accuracy for this training radius."""
    own = part.paper_eps(part.study.eps)
    return next((row[1 + _SPLITS.index(split)] for row in TABLE_1 if same_eps(row[0], own)), None)


def _below(chosen: SuiteRuns, table: Table) -> list[str]:
    part = parts(chosen)[0]
    radius = _radius(part, part.eps(_attack(part)))
    return [
        f"{PERCENT} Robust: under PGD-20 at eps {radius}. Train images are not augmented. "
        "best: the epoch with the highest robust accuracy on the validation split; last: the "
        f"final epoch. {MISSING}: not on record.",
        *alarm_notes(line.head[0].main for line in table.lines),
    ]


def _rows(chosen: SuiteRuns) -> Iterator[list[str]]:
    for part in parts(chosen):
        for method in part.study.methods:
            for checkpoint in CHECKPOINTS:
                for split in _SPLITS:
                    for asked in (_clean(split), _attack(part, split)):
                        cell = part.cell(method, asked, checkpoint)
                        if cell is not None:
                            yield _row(part, method, checkpoint, asked, cell)


def _row(part: Part, method: str, checkpoint: str, asked: AskedAttack, cell: Cell) -> list[str]:
    clean, eps = asked.name == CLEAN, part.study.eps
    return [
        *(method, part.label(method), f"{eps:.9g}", f"{part.paper_eps(eps):.9g}"),
        *(checkpoint, asked.split, asked.name, "0" if clean else f"{part.eps(asked):.9g}"),
        *numbers(cell),
        "" if clean or checkpoint != CHECKPOINTS[0] else fraction(_stated(part, asked.split)),
    ]
