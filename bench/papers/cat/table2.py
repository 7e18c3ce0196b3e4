"""Table 2: what each method minimises, and what its adversary maximises, as it was trained."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.papers.cat.parts import Part, parts
from bench.papers.cat.trainings import alarm_note
from bench.report.artefact import Output
from bench.report.export import Notes, Table
from bench.report.formatting import MISSING
from bench.report.groups import shown
from bench.report.published import published
from bench.report.suite_runs import SuiteRuns

TITLE = "Table 2: the losses of the methods"
_READING = (
    "x: image, x': attacked image, y: its class, Z: logits, p: their softmax; e_i, r_i: radius of "
    "image i, eps: of the threat; margin: the largest other logit minus that of the class, SLM: "
    "the same with a soft maximum; BCE: boosted cross entropy; FOSC: first-order stationary "
    "condition; label: that of the outer loss. The outer loss is averaged over a batch. With: "
    "parameters that the formulas name, every length at eps 8/255; it scales with eps."
)


def make_table2(chosen: SuiteRuns) -> Output:
    """Return a row per method; nothing if no method has a card."""
    (part,) = parts(chosen)
    cards = {method: card for method in part.study.methods if (card := _card(part, method))}
    absent = {
        method: "no objective on record" if part.runs(method) else "no training"
        for method in part.study.methods
        if method not in cards
    }
    lacks = tuple(f"{method}: {why}" for method, why in absent.items())
    if not cards:
        return Output(lacks=lacks)
    notes = Notes()
    text = pd.DataFrame(
        _row(part.label(method), cards.get(method), _note(method, absent), notes)
        for method in part.study.methods
    )
    numbers = [
        {
            "method": method,
            "title": str(card.get("title") or ""),
            "paper": str(card.get("paper") or ""),
            "outer_minimisation": str(card["objective"]),
            "inner_maximisation": str(card.get("inner") or ""),
            "parameters": json.dumps(dict(card.get("params", {})), sort_keys=True),
        }
        for method, card in cards.items()
    ]
    return Output(
        tables={"table2": Table(text=text, notes=tuple(notes.texts), n_left=5)},
        numbers={"table2": pd.DataFrame(numbers)},
        below=[_READING, *filter(None, [alarm_note(text["Method"])])],
        lacks=lacks,
    )


def _card(part: Part, method: str) -> Mapping[str, Any]:
    """Return the card of the first training that has an objective."""
    return next((run.card for run in part.runs(method) if run.card.get("objective")), {})


def _note(method: str, absent: Mapping[str, str]) -> str:
    if method in absent:
        return f"{absent[method].capitalize()}."
    return str(published("cat").more["table2"].get(method, ""))


def _row(label: str, card: Mapping[str, Any] | None, note: str, notes: Notes) -> dict[str, str]:
    mark = notes.mark(note) if note else ""
    card = card or {}
    return {
        "Method": label,
        "Outer: minimised": f"{card.get('objective') or MISSING}{mark}",
        "Inner: the attack": str(card.get("inner") or MISSING),
        "With": _parameters(card),
        "Source": str(card.get("paper") or MISSING),
    }


def _parameters(card: Mapping[str, Any]) -> str:
    """Return the parameters that the formulas name: `beta = 6`."""
    formulas = f"{card.get('objective', '')} {card.get('inner', '')}"
    named = [
        f"{name} = {shown(value)}"
        for name, value in card.get("params", {}).items()
        if re.search(rf"\b{re.escape(name)}\b", formulas)
    ]
    return ", ".join(named) or MISSING
