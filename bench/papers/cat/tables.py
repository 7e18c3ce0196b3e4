"""Tables 1, 2 and 4: training at several radii, the losses of the methods, transferred attacks."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.experiments.study import AttackConfig
from bench.papers.cat.parts import (
    CLEAN,
    PERCENT,
    Part,
    alarm_note,
    lacks,
    parts,
)
from bench.papers.cat.stated import STATED
from bench.records.spec import CHECKPOINTS
from bench.report.accuracy import AccuracyEstimate
from bench.report.artefact import Output
from bench.report.columns import accuracy_text, difference_cells, estimate_cells, number
from bench.report.export import Bold, Notes, Table
from bench.report.formatting import MISSING, eps_text, listed, percent, span
from bench.report.frame import Outcome, same_eps
from bench.report.groups import shown
from bench.report.published import shown_name
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import PGD

TITLE_1 = "Table 1: robust accuracy of training at several radii, attacked at the smallest"
TITLE_2 = "Table 2: the losses of the methods"
TITLE_4 = "Table 4: transferred attacks, next to the white-box attack at the same radius"
_SPLITS = ("test", "train")
_TRANSFER = "transfer"
_ALL = ", all images"
"""Ends the headings of accuracies that count images misclassified without an attack."""
_ARCHS_4 = [arch for arch in STATED.more["table4"] if arch != "note"]
_LOSSES = (
    "x: image, x': attacked image, y: its class, Z: logits, p: their softmax; e_i, r_i: radius of "
    "image i, eps: of the threat; margin: the largest other logit minus that of the class, SLM: "
    "the same with a soft maximum; BCE: boosted cross entropy; FOSC: first-order stationary "
    "condition; label: that of the outer loss. The outer loss is averaged over a batch. With: "
    "parameters that the formulas name, every length at eps 8/255; it scales with eps."
)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A table in the making: rows for readers, and for the .csv."""

    name: str
    n_left: int
    """Columns of text."""
    widths: tuple[float, ...] = ()
    rows: list[dict[str, str]] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    def output(self, reading: str, lacks: tuple[str, ...]) -> Output:
        """Return the table and its numbers; nothing without numbers."""
        if not self.numbers:
            return Output(lacks=lacks)
        text = pd.DataFrame(self.rows)
        notes = tuple(self.notes.texts)
        table = Table(text=text, notes=notes, n_left=self.n_left, widths=self.widths)
        return Output(
            tables={self.name: table},
            numbers={self.name: pd.DataFrame(self.numbers)},
            below=[reading, *filter(None, [alarm_note(text["Method"])])],
            lacks=lacks,
        )


def make_table1(chosen: SuiteRuns) -> Output:
    """Return a row per radius and checkpoint; nothing if nothing was attacked."""
    found, made = parts(chosen), Made(name="table1", n_left=2)
    for part in found:
        for method in part.study.methods:
            _table1(part, method, chosen.full, made)
    radii = listed([part.eps_text(part.study.eps) for part in found])
    sizes = [row["n"] for row in made.numbers]
    reading = (
        f"{PERCENT} Robust: under PGD-20 at eps {found[0].eps_text(found[0].eps(_pgd(found[0])))}; "
        f"n = {span(sizes) if sizes else MISSING}. Trained at {radii}. Training images are not "
        "augmented. best: the epoch with the highest robust accuracy on the validation split."
    )
    return made.output(reading, lacks(found))


def _table1(part: Part, method: str, full: bool, made: Made) -> None:
    """Add the rows of one training radius."""
    eps, n_seeds = part.study.eps, len(part.runs(method))
    label = f"{_label(part, method, made.notes)}, eps {eps_text(eps)}"
    for checkpoint in CHECKPOINTS if n_seeds else [MISSING]:
        first = checkpoint != CHECKPOINTS[-1]
        row = {"Method": label if first else "", "Checkpoint": checkpoint}
        papers = {}
        for split in _SPLITS:
            attacks = AttackConfig(name=CLEAN, split=split), _pgd(part, split)
            clean, robust = (part.accuracy(method, a, checkpoint) for a in attacks)
            stated = _stated1(part, split)
            for config, estimate in zip(attacks, (clean, robust), strict=True):
                if estimate:
                    attacked = config.name != CLEAN
                    compared = attacked and checkpoint == CHECKPOINTS[0]
                    made.numbers.append(
                        {
                            "method": method,
                            "label": part.label(method),
                            "train_eps": number(eps, "%.9g"),
                            "paper_train_eps": number(part.paper_eps(eps), "%.9g"),
                            "checkpoint": checkpoint,
                            "split": split,
                            "attack": config.name,
                            "eps": number(part.eps(config), "%.9g") if attacked else "0",
                            **estimate_cells(estimate),
                            "paper_accuracy": stated if compared else None,
                        }
                    )
            row[f"Clean, {split}"] = MISSING if clean is None else percent(clean.value)
            row[f"Robust, {split}"] = accuracy_text(robust, n_seeds, robust.n if robust else None)
            if full:
                stated_here = stated is not None and first
                papers[f"Paper, {split}"] = percent(stated or 0.0, 2) if stated_here else ""
        made.rows.append(row | papers)


def _label(part: Part, method: str, notes: Notes) -> str:
    absent = "" if part.runs(method) else notes.mark("No training on record.")
    return f"{shown_name(part.label(method))}{absent}"


def _pgd(part: Part, split: str = "test") -> AttackConfig:
    return part.attacks(PGD, split)[0]


def _stated1(part: Part, split: str) -> float | None:
    """Return the paper's accuracy for this training radius."""
    own = part.paper_eps(part.study.eps)
    rows = STATED.more["table1"]["rows"]
    return next((row[split] for row in rows if same_eps(row["eps"], own)), None)


def make_table2(chosen: SuiteRuns) -> Output:
    """Return what each method minimises and its adversary maximises; nothing without a card."""
    (part,), made = (
        parts(chosen),
        Made(name="table2", n_left=5, widths=(0.1, 0.3, 0.26, 0.11, 0.12)),
    )
    absent = []
    for method in part.study.methods:
        cards = [run.card for run in part.runs(method)]
        card = next((card for card in cards if card.get("objective")), {})
        outer, inner, paper, title = (
            str(card.get(key) or "") for key in ("objective", "inner", "paper", "title")
        )
        params, defect = dict(card.get("params", {})), STATED.more["table2"].get(method)
        if card:
            made.numbers.append(
                {
                    "method": method,
                    "title": title,
                    "paper": paper,
                    "outer_minimisation": outer,
                    "inner_maximisation": inner,
                    "parameters": json.dumps(params, sort_keys=True),
                }
            )
        else:
            why = "no objective on record" if cards else "no training"
            defect = f"{why.capitalize()}."
            absent.append(f"{method}: {why}")
        words = set(re.findall(r"\w+", f"{outer} {inner}"))
        named = [f"{name} = {shown(value)}" for name, value in params.items() if name in words]
        mark = made.notes.mark(defect) if defect else ""
        made.rows.append(
            {
                "Method": shown_name(method),
                "Outer: minimised": f"{outer or MISSING}{mark}",
                "Inner: the attack": inner or MISSING,
                "With": ", ".join(named) or MISSING,
                "Source": paper or MISSING,
            }
        )
    return made.output(_LOSSES, tuple(absent))


def make_table4(chosen: SuiteRuns) -> Output:
    """Return accuracy on images crafted on other networks, per network and method.

    An image from elsewhere that breaks a model which its own gradients do not break is a symptom
    of masked gradients (Athalye et al., arXiv 1802.00420).
    """
    found, made = parts(chosen), Made(name="table4", n_left=2)
    for part in found:
        for method in part.study.methods:
            _table4(part, method, chosen.full, made)
    both = [name for name in made.rows[0] if name.startswith("From") and name.endswith(_ALL)]
    if all(
        row[name.removesuffix(_ALL)].startswith(row[name]) for row in made.rows for name in both
    ):
        made.rows[:] = [{k: v for k, v in row.items() if k not in both} for row in made.rows]
    return made.output(_reading4(found), lacks(found))


def _table4(part: Part, method: str, full: bool, made: Made) -> None:
    """Add the row of one method on one network."""
    names = ((config, config.name.partition(":")) for config in part.study.attacks)
    transfers = {s or "natural": config for config, (name, _, s) in names if name == _TRANSFER}
    eps, n_seeds = _eps4(part), len(part.runs(method))
    white = next((a for a in part.attacks(PGD) if same_eps(part.eps(a), eps)), None)
    stated = _stated4(part, method)
    scored = [("", white, "robust")] if white else []
    for source, config in transfers.items():
        scored += [(source, config, "robust"), (source, config, "all images")]
    found: dict[tuple[str, str], AccuracyEstimate | None] = {}
    gaps: dict[str, AccuracyEstimate | None] = {}
    for source, config, scoring in scored:
        robust = scoring == "robust"
        kind: Outcome = "correct" if robust else "after"
        estimate = found[source, scoring] = part.accuracy(method, config, kind=kind)
        if white and source and robust:
            gaps[source] = part.difference(method, config, white)
        if estimate is None:
            continue
        made.numbers.append(
            {
                "arch": part.study.arch,
                "method": method,
                "label": part.label(method),
                "attack": config.name,
                "source": source,
                "eps": number(part.eps(config), "%.9g"),
                "paper_eps": number(part.paper_eps(part.eps(config)), "%.9g"),
                "scoring": scoring,
                **estimate_cells(estimate),
                **difference_cells("minus_white_box", gaps.get(source) if robust else None),
                **{f"paper_{arch}": None if robust else stated.get(arch) for arch in _ARCHS_4},
            }
        )
    by_scoring = sorted(found, key=lambda key: key[1], reverse=True)  # robust first
    n = next((estimate.n for key in by_scoring if (estimate := found[key])), None)
    label = _label(part, method, made.notes)
    texts = {key: accuracy_text(estimate, n_seeds, n) for key, estimate in found.items()}
    for source, gap in gaps.items():
        if gap is not None and gap.value < 0:
            below = f"{texts[source, 'robust']}{made.notes.mark(_below_white_box(gap))}"
            texts[source, "robust"] = Bold(below)
    row = {
        "Network": part.study.arch if method == part.study.methods[0] else "",
        "Method": label,
        "White-box PGD-20": texts.get(("", "robust"), MISSING),
        **{f"From {_source(source)}": texts[source, "robust"] for source in transfers},
    }
    stated_text = _paper4(part, method, stated, made.notes) if full else ""
    for source in transfers:
        every = found[source, "all images"]
        text = MISSING if every is None else percent(every.value)
        row[f"From {_source(source)}{_ALL}"] = text
    made.rows.append(row | ({f"Paper{_ALL}": stated_text} if full else {}))


def _source(methods: str) -> str:
    """Return `Natural and Madry AT` for `natural+madry`."""
    return listed([shown_name(method) for method in methods.split("+")])


def _eps4(part: Part) -> float:
    """Return the radius of the transferred attacks."""
    return next(part.eps(a) for a in part.study.attacks if a.name.startswith(_TRANSFER))


def _below_white_box(gap: AccuracyEstimate) -> str:
    interval = f"\u00b1 {percent(gap.std)} over seeds" if gap.std is not None else ""
    if gap.low is not None and gap.high is not None:
        interval = f"[{percent(gap.low)}, {percent(gap.high)}]"
        interval += ", which holds 0" if gap.high >= 0 else ""
    return (
        "Below the white-box accuracy on the same images, which is a symptom of masked gradients: "
        f"the difference is {percent(gap.value)} points {interval}."
    )


def _paper4(part: Part, method: str, stated: Mapping[str, float], notes: Notes) -> str:
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
        f"{PERCENT} At eps {found[0].eps_text(_eps4(found[0]))}. Correct without and under the "
        "attack; all images: correct under it, whatever the clean outcome. From: images crafted on "
        f"networks of that method, of several on the mean of their logits,{by}; the network is of "
        "the target's kind, and of another seed if it is of the target's method. In bold: "
        f"below the white-box accuracy. Best checkpoints. {MISSING}: not on record."
    )
