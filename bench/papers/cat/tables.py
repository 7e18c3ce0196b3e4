"""Tables 1, 2 and 4: training at several radii, the losses of the methods, transferred attacks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from bench.papers.cat.parts import (
    CLEAN,
    PERCENT,
    Part,
    alarm_note,
    difference_cells,
    lacks,
    not_comparable,
    parts,
)
from bench.papers.cat.stated import STATED
from bench.report.accuracy import AccuracyEstimate
from bench.report.artefact import Output
from bench.report.columns import accuracy_text, estimate_cells, number
from bench.report.export import Bold, Notes, Table
from bench.report.formatting import MISSING, percent, span
from bench.report.groups import shown
from bench.report.select import same_eps
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import PGD
from bench.spec import CHECKPOINTS
from bench.study import AttackConfig

TITLE_1 = "Table 1: robust accuracy of training at several radii, attacked at the smallest"
TITLE_2 = "Table 2: the losses of the methods"
TITLE_4 = "Table 4: transferred attacks, next to the white-box attack at the same radius"
_SPLITS = ("test", "train")
_TRANSFER = "transfer"
_LOSSES = (
    "x: image, x': attacked image, y: its class, Z: logits, p: their softmax; e_i, r_i: radius of "
    "image i, eps: of the threat; margin: the largest other logit minus that of the class, SLM: "
    "the same with a soft maximum; BCE: boosted cross entropy; FOSC: first-order stationary "
    "condition; label: that of the outer loss. The outer loss is averaged over a batch. With: "
    "parameters that the formulas name, every length at eps 8/255; it scales with eps."
)


def _output(
    name: str,
    numbers: Iterable[dict[str, Any]],
    rows: Iterable[dict[str, str]],
    notes: Notes,
    reading: str,
    lacks: tuple[str, ...],
    n_left: int,
) -> Output:
    """Return a table and its numbers; nothing without numbers."""
    values = pd.DataFrame(numbers)
    if values.empty:
        return Output(lacks=lacks)
    text = pd.DataFrame(rows)
    return Output(
        tables={name: Table(text=text, notes=tuple(notes.texts), n_left=n_left)},
        numbers={name: values},
        below=[reading, *filter(None, [alarm_note(text["Method"])])],
        lacks=lacks,
    )


def make_table1(chosen: SuiteRuns) -> Output:
    """Return a row per radius and checkpoint; nothing if nothing was attacked."""
    found, notes = parts(chosen), Notes()
    reading = (
        f"{PERCENT} Robust: under PGD-20 at eps {found[0].eps_text(found[0].eps(_pgd(found[0])))}. "
        "Training images are not augmented. best: the epoch with the highest robust accuracy on "
        f"the validation split; last: the final epoch. {MISSING}: not on record."
    )
    numbers = (row for part in found for row in _numbers1(part))
    rows = (row for part in found for row in _rows1(part, not_comparable(chosen), notes))
    return _output("table1", numbers, rows, notes, reading, lacks(found), n_left=3)


def _rows1(part: Part, not_comparable: str, notes: Notes) -> Iterator[dict[str, str]]:
    for method in part.study.methods:
        n_seeds = len(part.runs(method))
        for checkpoint in CHECKPOINTS if n_seeds else [MISSING]:
            first = checkpoint != CHECKPOINTS[-1]
            label = _label(part, method, notes) if first else ""
            radius = part.eps_text(part.study.eps) if first else ""
            row = {"Method": label, "Trained at eps": radius, "Checkpoint": checkpoint}
            for split in _SPLITS:
                clean = part.accuracy(method, AttackConfig(name=CLEAN, split=split), checkpoint)
                robust = part.accuracy(method, _pgd(part, split), checkpoint)
                n = next((estimate.n for estimate in (robust, clean) if estimate), None)
                row[f"Clean, {split}"] = accuracy_text(clean, n_seeds, n)
                row[f"Robust, {split}"] = accuracy_text(robust, n_seeds, n)
                row[f"n ({split})"] = span(n) if n else MISSING
            row["Seeds"] = str(n_seeds) if n_seeds else MISSING
            for split in _SPLITS:
                stated = _stated1(part, split)
                text = MISSING
                if stated is not None and first:
                    text = percent(stated, 2) + notes.mark(STATED.more["table1"]["note"])
                row[f"Paper: robust, {split}{not_comparable}"] = text if first else ""
            yield row


def _numbers1(part: Part) -> Iterator[dict[str, Any]]:
    eps = part.study.eps
    for method in part.study.methods:
        for checkpoint in CHECKPOINTS:
            for split in _SPLITS:
                for config in (AttackConfig(name=CLEAN, split=split), _pgd(part, split)):
                    estimate = part.accuracy(method, config, checkpoint)
                    if estimate is None:
                        continue
                    clean = config.name == CLEAN
                    compared = not clean and checkpoint == CHECKPOINTS[0]
                    yield {
                        "method": method,
                        "label": part.label(method),
                        "train_eps": number(eps, "%.9g"),
                        "paper_train_eps": number(part.paper_eps(eps), "%.9g"),
                        "checkpoint": checkpoint,
                        "split": split,
                        "attack": config.name,
                        "eps": "0" if clean else number(part.eps(config), "%.9g"),
                        **estimate_cells(estimate),
                        "paper_accuracy": _stated1(part, split) if compared else None,
                    }


def _label(part: Part, method: str, notes: Notes) -> str:
    absent = "" if part.runs(method) else notes.mark("No training on record.")
    return f"{part.label(method)}{absent}"


def _pgd(part: Part, split: str = "test") -> AttackConfig:
    return part.attacks(PGD, split)[0]


def _stated1(part: Part, split: str) -> float | None:
    """Return the paper's accuracy for this training radius."""
    own = part.paper_eps(part.study.eps)
    rows = STATED.more["table1"]["rows"]
    return next((row[split] for row in rows if same_eps(row["eps"], own)), None)


def make_table2(chosen: SuiteRuns) -> Output:
    """Return what each method minimises and its adversary maximises; nothing without a card."""
    ((part,), notes) = parts(chosen), Notes()
    cards: dict[str, Mapping[str, Any]] = {}
    absent: dict[str, str] = {}
    for method in part.study.methods:
        card = next((run.card for run in part.runs(method) if run.card.get("objective")), None)
        if card:
            cards[method] = card
        else:
            absent[method] = "no objective on record" if part.runs(method) else "no training"
    numbers = (
        {
            "method": method,
            "title": str(card.get("title") or ""),
            "paper": str(card.get("paper") or ""),
            "outer_minimisation": str(card["objective"]),
            "inner_maximisation": str(card.get("inner") or ""),
            "parameters": json.dumps(dict(card.get("params", {})), sort_keys=True),
        }
        for method, card in cards.items()
    )
    defects = STATED.more["table2"] | {m: f"{why.capitalize()}." for m, why in absent.items()}
    rows = (
        _row2(part.label(m), cards.get(m, {}), notes.mark(defects[m]) if m in defects else "")
        for m in part.study.methods
    )
    missing = tuple(f"{method}: {why}" for method, why in absent.items())
    return _output("table2", numbers, rows, notes, _LOSSES, missing, n_left=5)


def _row2(label: str, card: Mapping[str, Any], mark: str) -> dict[str, str]:
    formulas = f"{card.get('objective', '')} {card.get('inner', '')}"
    named = [
        f"{name} = {shown(value)}"
        for name, value in card.get("params", {}).items()
        if re.search(rf"\b{re.escape(name)}\b", formulas)
    ]
    return {
        "Method": label,
        "Outer: minimised": f"{card.get('objective') or MISSING}{mark}",
        "Inner: the attack": str(card.get("inner") or MISSING),
        "With": ", ".join(named) or MISSING,
        "Source": str(card.get("paper") or MISSING),
    }


def make_table4(chosen: SuiteRuns) -> Output:
    """Return accuracy on images crafted on other networks, per network and method.

    An image from elsewhere that breaks a model which its own gradients do not break is a symptom
    of masked gradients (Athalye et al., arXiv 1802.00420).
    """
    found, notes = parts(chosen), Notes()
    numbers = (row for part in found for row in _numbers4(part))
    rows = (
        _row4(part, method, not_comparable(chosen), notes)
        for part in found
        for method in part.study.methods
    )
    return _output("table4", numbers, rows, notes, _reading4(found), lacks(found), n_left=2)


def _transfers(part: Part) -> dict[str, AttackConfig]:
    """Return the attacks by their source, `natural+madry`; without one it is natural."""
    names = ((config, config.name.partition(":")) for config in part.study.attacks)
    return {source or "natural": config for config, (name, _, source) in names if name == _TRANSFER}


def _white_box(part: Part) -> AttackConfig | None:
    """Return the attack on the model itself at the radius of the transferred ones."""
    eps = part.eps(next(iter(_transfers(part).values())))
    return next((a for a in part.attacks(PGD) if same_eps(part.eps(a), eps)), None)


def _row4(part: Part, method: str, not_comparable: str, notes: Notes) -> dict[str, str]:
    n_seeds, transfers, white = len(part.runs(method)), _transfers(part), _white_box(part)
    direct = part.accuracy(method, white) if white else None
    robust = {source: part.accuracy(method, config) for source, config in transfers.items()}
    everything = {s: part.accuracy(method, config, kind="after") for s, config in transfers.items()}
    estimates = [direct, *robust.values(), *everything.values()]
    n = next((estimate.n for estimate in estimates if estimate), None)
    texts = {source: accuracy_text(estimate, n_seeds, n) for source, estimate in robust.items()}
    label = _label(part, method, notes)
    for source, config in transfers.items():
        gap = part.difference(method, config, white) if white else None
        if gap is not None and gap.value < 0:
            texts[source] = Bold(f"{texts[source]}{notes.mark(_below_white_box(gap))}")
    radius = part.eps_text(part.eps(next(iter(transfers.values()))))
    return {
        "Network": part.study.arch if method == part.study.methods[0] else "",
        "Method": label,
        f"White-box PGD-20 at {radius}": accuracy_text(direct, n_seeds, n),
        **{f"From {source}": text for source, text in texts.items()},
        **{f"From {s}, all images": accuracy_text(e, n_seeds, n) for s, e in everything.items()},
        "n": span(n) if n else MISSING,
        "Seeds": str(n_seeds) if n_seeds else MISSING,
        f"Paper, all images{not_comparable}": _paper4(part, method, notes),
    }


def _below_white_box(gap: AccuracyEstimate) -> str:
    interval = f"\u00b1 {percent(gap.std)} over seeds" if gap.std is not None else ""
    if gap.low is not None and gap.high is not None:
        interval = f"[{percent(gap.low)}, {percent(gap.high)}]"
        interval += ", which holds 0" if gap.high >= 0 else ""
    return (
        "Below the white-box accuracy on the same images, which is a symptom of masked gradients: "
        f"the difference is {percent(gap.value)} points {interval}."
    )


def _paper4(part: Part, method: str, notes: Notes) -> str:
    stated = _stated4(part, method)
    if not stated:
        return MISSING
    several = len(part.originals) > 1
    words = (f"{percent(v, 2)} ({a})" if several else percent(v, 2) for a, v in stated.items())
    mark = notes.mark(STATED.more["table4"]["note"]) if method in STATED.own else ""
    return f"{', '.join(words)}{mark}"


def _stated4(part: Part, method: str) -> dict[str, float]:
    """Return the paper's accuracy for each of its networks that this one stands for."""
    name, rows = "cat" if method in STATED.own else method, STATED.more["table4"]
    archs = [original.arch for original in part.originals]
    return {arch: rows[arch][name] for arch in archs if name in rows.get(arch, {})}


def _reading4(found: list[Part]) -> str:
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


def _numbers4(part: Part) -> Iterator[dict[str, Any]]:
    archs = [arch for arch in STATED.more["table4"] if arch != "note"]
    white = _white_box(part)
    scored = [("", white, "robust")] if white else []
    for source, config in _transfers(part).items():
        scored += [(source, config, "robust"), (source, config, "all images")]
    for method in part.study.methods:
        for source, config, scoring in scored:
            robust = scoring == "robust"
            estimate = part.accuracy(method, config, kind="correct" if robust else "after")
            if estimate is None:
                continue
            paired = part.difference(method, config, white) if white and source and robust else None
            stated = {} if robust else _stated4(part, method)
            eps = part.eps(config)
            yield {
                "arch": part.study.arch,
                "method": method,
                "label": part.label(method),
                "attack": config.name,
                "source": source,
                "eps": number(eps, "%.9g"),
                "paper_eps": number(part.paper_eps(eps), "%.9g"),
                "scoring": scoring,
                **estimate_cells(estimate),
                **difference_cells("minus_white_box", paired),
                **{f"paper_{arch}": stated.get(arch) for arch in archs},
            }
