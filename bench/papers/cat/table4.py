"""Table 4: accuracy on images crafted on other networks, next to the white-box attack.

An image from elsewhere that breaks a model which its own gradients do not break is a symptom of
masked gradients (Athalye et al., arXiv 1802.00420).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.papers.cat.parts import (
    PERCENT,
    Part,
    eps_of_paper,
    lacks,
    not_comparable,
    parts,
)
from bench.papers.cat.trainings import alarm_note
from bench.report.accuracy import AccuracyEstimate, error_limits
from bench.report.artefact import Output
from bench.report.columns import accuracy_text, estimate_cells, number
from bench.report.export import Bold, Notes, Table
from bench.report.formatting import MISSING, percent, span
from bench.report.published import published
from bench.report.select import same_eps
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import PGD
from bench.study import AskedAttack

TITLE = "Table 4: transferred attacks, next to the white-box attack at the same radius"
_TRANSFER = "transfer"


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """One method under one transferred attack."""

    source: str
    asked: AskedAttack
    robust: AccuracyEstimate | None
    """Correct without and under the attack."""
    all_images: AccuracyEstimate | None
    """Correct under the attack, whatever the clean outcome."""
    minus_white_box: AccuracyEstimate | None
    """`robust` minus the white-box accuracy, on the images that they share."""


def make_table4(chosen: SuiteRuns) -> Output:
    """Return rows per network and method; nothing if nothing was attacked."""
    found = parts(chosen)
    numbers = pd.DataFrame(row for part in found for row in _numbers(part))
    if numbers.empty:
        return Output(lacks=lacks(found))
    notes = Notes()
    text = pd.DataFrame(
        _row(part, method, not_comparable(chosen), notes)
        for part in found
        for method in part.study.methods
    )
    return Output(
        tables={"table4": Table(text=text, notes=tuple(notes.texts), n_left=2)},
        numbers={"table4": numbers},
        below=[_reading(found), *filter(None, [alarm_note(text["Method"])])],
        lacks=lacks(found),
    )


def _transfers(part: Part, method: str) -> list[TransferResult]:
    """Return the method under each transferred attack of the study, in its order."""
    white = _white_box(part)
    return [
        TransferResult(
            source=_source(asked),
            asked=asked,
            robust=part.accuracy(method, asked),
            all_images=part.accuracy(method, asked, kind="after"),
            minus_white_box=part.difference(method, asked, white) if white else None,
        )
        for asked in _asked(part)
    ]


def _asked(part: Part) -> list[AskedAttack]:
    return [a for a in part.study.attacks if a.name.partition(":")[0] == _TRANSFER]


def _white_box(part: Part) -> AskedAttack | None:
    """Return the attack on the model itself at the radius of the transferred ones."""
    eps = part.eps(_asked(part)[0])
    return next((a for a in part.attacks(PGD) if same_eps(part.eps(a), eps)), None)


def _source(asked: AskedAttack) -> str:
    """Return `natural+madry`; the attack without a source takes natural networks."""
    return asked.name.partition(":")[2] or "natural"


def _row(part: Part, method: str, not_comparable: str, notes: Notes) -> dict[str, str]:
    n_seeds, found, white = len(part.runs(method)), _transfers(part, method), _white_box(part)
    direct = part.accuracy(method, white) if white else None
    estimates = [direct, *(f.robust for f in found), *(f.all_images for f in found)]
    n = next((estimate.n for estimate in estimates if estimate), None)
    absent = "" if n_seeds else notes.mark("No training on record.")
    eps = eps_of_paper(part, part.eps(_asked(part)[0]))
    return {
        "Network": part.study.arch if method == part.study.methods[0] else "",
        "Method": f"{part.label(method)}{absent}",
        f"White-box PGD-20 at {eps}": accuracy_text(direct, n_seeds, n),
        **{f"From {f.source}": _robust_text(f, n_seeds, n, notes) for f in found},
        **{f"From {f.source}, all images": accuracy_text(f.all_images, n_seeds, n) for f in found},
        "n": span(n) if n else MISSING,
        "Seeds": str(n_seeds) if n_seeds else MISSING,
        f"Paper, all images{not_comparable}": _paper_text(part, method, notes),
    }


def _robust_text(
    found: TransferResult, n_seeds: int, n: tuple[int, ...] | None, notes: Notes
) -> str:
    """Return the accuracy, in bold with a note if it is below the white-box accuracy."""
    text, gap = accuracy_text(found.robust, n_seeds, n), found.minus_white_box
    if gap is None or gap.value is None or gap.value >= 0:
        return text
    low, high = error_limits(gap)
    if gap.std is not None:
        interval = f"\u00b1 {percent(gap.std)} over seeds"
    else:
        interval = f"[{percent(low)}, {percent(high)}]" + (", which holds 0" if high >= 0 else "")
    note = (
        "Below the white-box accuracy on the same images, which is a symptom of masked gradients: "
        f"the difference is {percent(gap.value)} points {interval}."
    )
    return Bold(f"{text}{notes.mark(note)}")


def _paper_text(part: Part, method: str, notes: Notes) -> str:
    stated = _stated(part, method)
    if not stated:
        return MISSING
    several = len(part.originals) > 1
    words = (f"{percent(v, 2)} ({a})" if several else percent(v, 2) for a, v in stated.items())
    paper = published("cat")
    mark = notes.mark(paper.more["table4"]["note"]) if method in paper.own else ""
    return f"{', '.join(words)}{mark}"


def _stated(part: Part, method: str) -> dict[str, float]:
    """Return the paper's accuracy for each of its networks that this one stands for."""
    paper = published("cat")
    name, rows = "cat" if method in paper.own else method, paper.more["table4"]
    archs = [original.arch for original in part.originals]
    return {arch: rows[arch][name] for arch in archs if name in rows.get(arch, {})}


def _reading(found: list[Part]) -> str:
    crafted = {
        ", then ".join(e.spec.params.get("crafted_with", ()))
        for part in found
        for method in part.study.methods
        for run in part.runs(method)
        for e in run.evaluations
        if e.spec.attack.partition(":")[0] == _TRANSFER
    }
    by = f" by {' or '.join(sorted(crafted))}" if any(crafted) else ""
    return (
        f"{PERCENT} Of n test images those that are correct without and under the attack; all "
        "images: correct under the attack, whatever the clean outcome. From: images crafted on "
        f"networks of that method, of several on the mean of their logits,{by}; the network is of "
        "the target's kind, and of another seed if it is of the target's method. In bold: "
        f"below the white-box accuracy. Best checkpoints. {MISSING}: not on record."
    )


def _numbers(part: Part) -> Iterator[dict[str, Any]]:
    archs = [arch for arch in published("cat").more["table4"] if arch != "note"]
    white = _white_box(part)
    for method in part.study.methods:

        def row(
            asked: AskedAttack,
            source: str,
            scoring: str,
            estimate: AccuracyEstimate,
            gap: AccuracyEstimate | None = None,
            stated: dict[str, float] | None = None,
            method: str = method,
        ) -> dict[str, Any]:
            return {
                "arch": part.study.arch,
                "method": method,
                "label": part.label(method),
                "attack": asked.name,
                "source": source,
                "eps": number(part.eps(asked), "%.9g"),
                "paper_eps": number(part.paper_eps(part.eps(asked)), "%.9g"),
                "scoring": scoring,
                **estimate_cells(estimate),
                "minus_white_box": gap.value if gap else None,
                "minus_white_box_low": gap.low if gap else None,
                "minus_white_box_high": gap.high if gap else None,
                **{f"paper_{arch}": (stated or {}).get(arch) for arch in archs},
            }

        direct = part.accuracy(method, white) if white else None
        if white and direct:
            yield row(white, "", "robust", direct)
        for one in _transfers(part, method):
            if one.robust:
                yield row(one.asked, one.source, "robust", one.robust, one.minus_white_box)
            if one.all_images:
                stated = _stated(part, method)
                yield row(one.asked, one.source, "all images", one.all_images, None, stated)
