"""From records to the rows of the tables. Pure: the same records give the same rows.

Fractions throughout; percent is made when a table is written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.records import EvaluationRecord, RunRecord
from bench.report.groups import Group, Setting, group_runs, same_eps, shown
from bench.report.joins import (
    Cell,
    Flags,
    clean_flags,
    difference,
    mean_accuracy,
    over_seeds,
    survivors,
    worst_case,
)
from bench.report.masking import Masking, masking
from bench.spec import CHECKPOINTS, GIVEN

PGD, CW, AUTOATTACK = "pgd-20", "cw", "autoattack"
CORE = (PGD, CW, AUTOATTACK)
"""The attacks that have a column of their own in every table."""
HEADINGS = {
    f"{attack}-fast{suffix}": f"{title}, fast ({search} search)"
    for attack, title in ((PGD, "PGD-20"), (AUTOATTACK, "AutoAttack"))
    for suffix, search in (("", "bf16"), ("-fp32", "fp32"))
}
"""Attacks that must not be taken for the ones that they are named after."""
SPLIT = "test"
MASKING_GAP = 0.05
"""PGD-20 minus AutoAttack above this marks a row. AutoAttack's authors found 1 to 6 points for
most adversarially trained models, and 24 to 32 for models whose gradients mislead PGD."""

MOST = 30
"""Methods of a setting that are drawn, and compared with one another: of more, the most robust."""

AttackId = tuple[str, str]
"""An attack's name, and its parameters as JSON."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One checkpoint of one way of training. A cell is None where no run has the evaluation."""

    group: Group
    checkpoint: str
    """best or last; empty where nothing was evaluated."""
    n_seeds: int
    """Runs with an evaluation of this checkpoint."""
    clean: Cell | None = None
    attacks: Mapping[str, Cell]
    """By the attack's label, at the setting's eps."""
    after: Mapping[str, Cell] = field(default_factory=dict)
    """Transferred attacks by label: accuracy with the images that are wrong without an attack."""
    worst: Cell | None = None
    worst_over: tuple[str, ...] = ()
    """Labels of the attacks that `worst` joins."""
    gap: Cell | None = None
    """PGD-20 minus AutoAttack."""
    warnings: tuple[str, ...] = ()
    """What the evaluator noticed of the model or the attacks, each once."""
    masking: Masking = field(default_factory=lambda: Masking(findings=()))
    """The checks for masked gradients, at the setting's eps."""

    @property
    def suspicious(self) -> bool:
        """Whether the gap is so large that PGD-20 must not be believed."""
        return self.gap is not None and (self.gap.value or 0.0) > MASKING_GAP

    @property
    def evaluated(self) -> bool:
        """Whether the row has any number."""
        return bool(self.checkpoint)


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """One table. Equal to itself alone, so that what is made of it can be kept."""

    setting: Setting
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    attacks: tuple[str, ...]
    """Labels of the attacks without a column of their own."""


def sections(runs: Iterable[RunRecord]) -> list[Section]:
    """One section a setting: data set, arch, recipe, norm and training eps."""
    return [_section(setting, groups) for setting, groups in group_runs(runs)]


def by_robustness(section: Section) -> list[str]:
    """Labels of the groups by their best checkpoints' worst case, the most robust first."""
    worst = {
        row.group.label: row.worst.value or 0.0
        for row in section.rows
        if row.worst is not None and row.checkpoint != "last"
    }
    labels = [group.label for group in section.groups]
    return sorted(labels, key=lambda label: -worst.get(label, -1.0))


def status(run: RunRecord) -> str:
    """What kept a run from its end, in words; empty where nothing did."""
    if run.status == "failed":
        error = str((run.train or {}).get("error") or "no reason recorded")
        return f"failed: {' '.join(error.split())}"
    if run.status == "unfinished":
        n_epochs = run.spec.get("recipe", {}).get("epochs", "?")
        return f"unfinished: {len(run.history)} of {n_epochs} epochs"
    if run.status != "done":
        return run.status
    return "" if run.evaluations else "not evaluated"


def in_table(evaluation: EvaluationRecord, setting: Setting) -> bool:
    """Whether an evaluation belongs to the setting's table, and not to the figure alone."""
    spec = evaluation.spec
    if spec.split != SPLIT or spec.norm != setting.norm:
        return False
    return spec.attack == "clean" or same_eps(spec.eps, setting.eps)


def evaluations_of(run: RunRecord, checkpoint: str, norm: str) -> list[EvaluationRecord]:
    """The evaluations of one checkpoint on the test split."""
    return [
        e
        for e in run.evaluations
        if e.spec.checkpoint == checkpoint and e.spec.split == SPLIT and e.spec.norm == norm
    ]


def attack_labels(specs: Iterable[AttackId]) -> dict[AttackId, str]:
    """A label for each attack: its name; with other parameters, also those that differ."""
    counts = Counter(specs)
    labels: dict[AttackId, str] = {}
    first: dict[str, dict[str, Any]] = {}
    for attack in sorted(counts, key=lambda attack: (attack[0], -counts[attack], attack[1])):
        name, params = attack[0], json.loads(attack[1])
        base = first.setdefault(name, params)
        changed = [k for k in sorted({*params, *base}) if params.get(k) != base.get(k)]
        suffix = ", ".join(f"{k}={shown(params.get(k))}" for k in changed)
        labels[attack] = f"{name} ({suffix})" if suffix else name
    return labels


def heading(label: str) -> str:
    """What stands above the column of an attack that has none of its own in every table."""
    name, space, changed = label.partition(" ")
    return f"{HEADINGS.get(name, name)}{space}{changed}"


def labels_of(groups: Iterable[Group], setting: Setting) -> dict[AttackId, str]:
    """A label for each attack on the groups that belongs to the setting's table."""
    return attack_labels(
        _attack_id(e)
        for group in groups
        for run in group.runs
        for e in run.evaluations
        if in_table(e, setting) and e.spec.attack != "clean"
    )


def _attack_id(evaluation: EvaluationRecord) -> AttackId:
    """Without the run ids of surrogates, which differ from seed to seed."""
    params = {k: v for k, v in evaluation.spec.params.items() if k != "surrogates"}
    return evaluation.spec.attack, json.dumps(params, sort_keys=True)


def _section(setting: Setting, groups: Sequence[Group]) -> Section:
    labels = labels_of(groups, setting)
    rows = [row for group in groups for row in _rows(group, setting, labels)]
    found = dict.fromkeys(label for label in labels.values() if label not in CORE)
    return Section(
        setting=setting, groups=tuple(groups), rows=tuple(rows), attacks=tuple(sorted(found))
    )


def _rows(group: Group, setting: Setting, labels: Mapping[AttackId, str]) -> list[Row]:
    present = {
        e.spec.checkpoint for run in group.runs for e in run.evaluations if in_table(e, setting)
    }
    if not present:
        return [Row(group=group, checkpoint="", n_seeds=0, attacks={})]
    usual = () if group.outside else CHECKPOINTS
    wanted = [c for c in (*CHECKPOINTS, GIVEN) if c in present or c in usual]
    return [_row(group, checkpoint, setting, labels) for checkpoint in wanted]


def _row(group: Group, checkpoint: str, setting: Setting, labels: Mapping[AttackId, str]) -> Row:
    seeds, warnings, after = [], dict[str, None](), dict[str, list[Flags]]()
    for run in group.runs:
        found = [e for e in evaluations_of(run, checkpoint, setting.norm) if in_table(e, setting)]
        warnings |= dict.fromkeys(text for e in found for text in e.warnings)
        if found:
            seeds.append(joined(found, labels))
        for label, flags in _after(found, labels).items():
            after.setdefault(label, []).append(flags)
    attacks = [by_label for _, by_label in seeds]
    names = sorted({label for by_label in attacks for label in by_label}, key=core_first)
    # A seed that lacks an attack would be judged by a weaker adversary than the others.
    whole = [
        list(by_label.values()) for by_label in attacks if names and len(by_label) == len(names)
    ]
    pairs = [(a[PGD], a[AUTOATTACK]) for a in attacks if PGD in a and AUTOATTACK in a]
    return Row(
        group=group,
        checkpoint=checkpoint,
        n_seeds=len(seeds),
        clean=mean_accuracy([clean for clean, _ in seeds]) if seeds else None,
        attacks={name: mean_accuracy([a[name] for a in attacks if name in a]) for name in names},
        after={label: mean_accuracy(flags) for label, flags in after.items()},
        worst=mean_accuracy([worst_case(flags) for flags in whole]) if whole else None,
        worst_over=tuple(names),
        gap=_gap(pairs) if pairs else None,
        warnings=tuple(warnings),
        masking=masking(group.runs, checkpoint, setting.eps),
    )


def core_first(label: str) -> tuple[int, str]:
    """Sort key of attack labels: those with a column of their own in its order, others by name."""
    return (CORE.index(label) if label in CORE else len(CORE), label)


def joined(
    found: Sequence[EvaluationRecord], labels: Mapping[AttackId, str]
) -> tuple[Flags, dict[str, Flags]]:
    """Clean flags, and the survivors by attack label, of one run's evaluations."""
    by_label: dict[str, list[EvaluationRecord]] = {}
    for evaluation in found:
        if evaluation.spec.attack != "clean":
            by_label.setdefault(labels[_attack_id(evaluation)], []).append(evaluation)
    return clean_flags(found), {label: survivors(parts) for label, parts in by_label.items()}


def _after(found: Sequence[EvaluationRecord], labels: Mapping[AttackId, str]) -> dict[str, Flags]:
    """Of the transferred attacks of one run: right on the attacked image, whatever before."""
    return {
        labels[_attack_id(e)]: Flags(index=e.index, survived=e.after, n_expected=e.spec.n_examples)
        for e in found
        if e.after is not None and len(e.index)
    }


def _gap(pairs: Sequence[tuple[Flags, Flags]]) -> Cell:
    n_expected = max(min(a.n_expected, b.n_expected) for a, b in pairs)
    return over_seeds([difference(a, b) for a, b in pairs], n_expected)
