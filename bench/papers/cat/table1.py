"""Table 1: what training at a larger radius does to accuracy under an attack at a small one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from bench.papers.cat.parts import (
    CLEAN,
    PERCENT,
    Part,
    eps_of_paper,
    lacks,
    not_comparable,
    parts,
)
from bench.papers.cat.trainings import alarm_note
from bench.report.artefact import Output
from bench.report.columns import accuracy_text, estimate_cells, number
from bench.report.export import Notes, Table
from bench.report.formatting import MISSING, percent, span
from bench.report.published import published
from bench.report.select import same_eps
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import PGD
from bench.spec import CHECKPOINTS
from bench.study import AskedAttack

TITLE = "Table 1: robust accuracy of training at several radii, attacked at the smallest"
_SPLITS = ("test", "train")


def make_table1(chosen: SuiteRuns) -> Output:
    """Return a row per radius and checkpoint; nothing if nothing was attacked."""
    found = parts(chosen)
    numbers = pd.DataFrame(row for part in found for row in _numbers(part))
    if numbers.empty:
        return Output(lacks=lacks(found))
    notes = Notes()
    text = pd.DataFrame(row for part in found for row in _rows(part, chosen, notes))
    radius = eps_of_paper(found[0], found[0].eps(_attack(found[0])))
    reading = (
        f"{PERCENT} Robust: under PGD-20 at eps {radius}. Training images are not augmented. "
        "best: the epoch with the highest robust accuracy on the validation split; last: the "
        f"final epoch. {MISSING}: not on record."
    )
    return Output(
        tables={"table1": Table(text=text, notes=tuple(notes.texts), n_left=3)},
        numbers={"table1": numbers},
        below=[reading, *filter(None, [alarm_note(text["Method"])])],
        lacks=lacks(found),
    )


def _rows(part: Part, chosen: SuiteRuns, notes: Notes) -> Iterator[dict[str, str]]:
    for method in part.study.methods:
        runs = part.runs(method)
        for checkpoint in CHECKPOINTS if runs else [MISSING]:
            first = checkpoint != CHECKPOINTS[-1]
            absent = "" if runs else notes.mark("No training on record.")
            row = {
                "Method": f"{part.label(method)}{absent}" if first else "",
                "Trained at eps": eps_of_paper(part, part.study.eps) if first else "",
                "Checkpoint": checkpoint,
            }
            for split in _SPLITS:
                row |= _split(part, method, checkpoint, split)
            row["Seeds"] = str(len(runs)) if runs else MISSING
            for split in _SPLITS:
                heading = f"Paper: robust, {split}{not_comparable(chosen)}"
                row[heading] = _paper(part, split, notes) if first else ""
            yield row


def _split(part: Part, method: str, checkpoint: str, split: str) -> dict[str, str]:
    robust = part.accuracy(method, _attack(part, split), checkpoint)
    clean = part.accuracy(method, _clean(split), checkpoint)
    n = robust.n if robust else clean.n if clean else None
    n_seeds = len(part.runs(method))
    return {
        f"Clean, {split}": accuracy_text(clean, n_seeds, n),
        f"Robust, {split}": accuracy_text(robust, n_seeds, n),
        f"n ({split})": span(n) if n else MISSING,
    }


def _paper(part: Part, split: str, notes: Notes) -> str:
    stated = _stated(part, split)
    if stated is None:
        return MISSING
    return percent(stated, 2) + notes.mark(published("cat").more["table1"]["note"])


def _stated(part: Part, split: str) -> float | None:
    """Return the paper's accuracy for this training radius."""
    own = part.paper_eps(part.study.eps)
    rows = published("cat").more["table1"]["rows"]
    return next((row[split] for row in rows if same_eps(row["eps"], own)), None)


def _attack(part: Part, split: str = "test") -> AskedAttack:
    return part.attacks(PGD, split)[0]


def _clean(split: str) -> AskedAttack:
    return AskedAttack(name=CLEAN, split=split)


def _numbers(part: Part) -> Iterator[dict[str, Any]]:
    eps = part.study.eps
    for method in part.study.methods:
        for checkpoint in CHECKPOINTS:
            for split in _SPLITS:
                for asked in (_clean(split), _attack(part, split)):
                    estimate = part.accuracy(method, asked, checkpoint)
                    if estimate is None:
                        continue
                    clean = asked.name == CLEAN
                    compared = not clean and checkpoint == CHECKPOINTS[0]
                    yield {
                        "method": method,
                        "label": part.label(method),
                        "train_eps": number(eps, "%.9g"),
                        "paper_train_eps": number(part.paper_eps(eps), "%.9g"),
                        "checkpoint": checkpoint,
                        "split": split,
                        "attack": asked.name,
                        "eps": "0" if clean else number(part.eps(asked), "%.9g"),
                        **estimate_cells(estimate),
                        "paper_accuracy": _stated(part, split) if compared else None,
                    }
