"""Table 2: what each method minimises, and what its adversary maximises, as it was trained."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bench.report.artefacts.artefact import Made
from bench.report.artefacts.parts import Part, parts
from bench.report.artefacts.written import alarm_notes, csv_bytes, remark, table_files
from bench.report.groups import shown
from bench.report.layout import Line, Notes, Table, Text
from bench.report.published import TABLE_2_NOTES
from bench.report.suite_runs import SuiteRuns
from bench.report.units import MISSING

TITLE = "Table 2: the losses of the methods"
_LEGEND = (
    "x: image, x': attacked image, y: its class, Z: logits, p: their softmax; e_i, r_i: radius of "
    "image i, eps: of the threat; margin: the largest other logit minus that of the class, SLM: "
    "the same with a soft maximum; BCE: boosted cross entropy; FOSC: first-order stationary "
    "condition; label: that of the outer loss. The outer loss is averaged over a batch. With: "
    "parameters that the formulas name, every length at eps 8/255; it scales with eps."
)
_HEAD = ("method", "title", "paper", "outer_minimisation", "inner_maximisation", "parameters")


def make_table2(chosen: SuiteRuns, note: str) -> Made:
    """table2.md, .csv and .tex; no files where no method has a card."""
    (part,) = parts(chosen)
    cards = {method: card for method in part.study.methods if (card := _card(part, method))}
    lacks = tuple(_lack(part, method) for method in part.study.methods if method not in cards)
    if not cards:
        return Made(files={}, lacks=lacks)
    table = _table(part, cards)
    below = [_LEGEND, *alarm_notes(line.head[0].main for line in table.lines)]
    files = table_files("table2", TITLE, table, below, chosen, note)
    rows = [_row(method, card) for method, card in cards.items()]
    files["table2.csv"] = csv_bytes(_HEAD, rows, remark(chosen, note))
    return Made(files=files, lacks=lacks)


def _card(part: Part, method: str) -> Mapping[str, Any]:
    """Of the first training that has one."""
    return next((run.card for run in part.runs(method) if run.card.get("objective")), {})


def _lack(part: Part, method: str) -> str:
    return f"{method}: {'no objective on record' if part.runs(method) else 'no training'}"


def _table(part: Part, cards: Mapping[str, Mapping[str, Any]]) -> Table:
    notes = Notes()
    lines = [_line(part, method, cards.get(method), notes) for method in part.study.methods]
    return Table(
        headings=("Method", "Outer: minimised", "Inner: the attack", "With", "Source"),
        lines=tuple(lines),
        notes=tuple(notes.texts),
    )


def _line(part: Part, method: str, card: Mapping[str, Any] | None, notes: Notes) -> Line:
    """All of it heads, which stand to the left."""
    words = [_lack(part, method).removeprefix(f"{method}: "), MISSING, MISSING, MISSING]
    marks: tuple[int, ...] = ()
    if card:
        inner, source = (str(card.get(key) or MISSING) for key in ("inner", "paper"))
        words = [card["objective"], inner, _values(card), source]
        if said := TABLE_2_NOTES.get(method):
            marks = (notes.mark(said),)
    outer, *rest = words
    texts = (Text(main=part.label(method)), Text(main=outer, marks=marks))
    return Line(head=(*texts, *(Text(main=text) for text in rest)), cells=())


def _values(card: Mapping[str, Any]) -> str:
    """`beta = 6`: the parameters that the formulas name."""
    formulas = f"{card['objective']} {card.get('inner', '')}"
    named = [
        f"{name} = {shown(value)}"
        for name, value in card.get("params", {}).items()
        if re.search(rf"\b{re.escape(name)}\b", formulas)
    ]
    return ", ".join(named) or MISSING


def _row(method: str, card: Mapping[str, Any]) -> list[str]:
    words = [str(card.get(key) or "") for key in ("title", "paper", "objective", "inner")]
    return [method, *words, json.dumps(dict(card.get("params", {})), sort_keys=True)]
