"""From records to the rows of the tables. Pure: the same records give the same rows.

Fractions throughout; percent is made when a table is written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from bench.records import EvaluationRecord, RunRecord
from bench.report.groups import Group, Setting, group_runs, same_eps, shown
from bench.report.joins import (
    Cell,
    Flags,
    clean_flags,
    common,
    difference,
    lowest_seen,
    mean_accuracy,
    over_seeds,
    restricted,
    shared,
    survivors,
    worst_case,
)
from bench.report.masking import Masking, masking
from bench.spec import CHECKPOINTS, GIVEN

PGD, CW, AUTOATTACK = "pgd-20", "cw", "autoattack"
CLEAN = "clean"
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


def _no_images() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One checkpoint of one way of training. A cell is None where no run has the evaluation.

    All cells but those of `whole` and `after` are on the images of `index`.
    """

    group: Group
    checkpoint: str
    """best or last; empty where nothing was evaluated."""
    n_seeds: int
    """Runs with an evaluation of this checkpoint."""
    index: np.ndarray = field(default_factory=_no_images, compare=False)
    """(n,) dataset indices of the row's images, ascending."""
    clean: Cell | None = None
    attacks: Mapping[str, Cell]
    """By the attack's label, at the setting's eps."""
    whole: Mapping[str, Cell] = field(default_factory=dict)
    """By label, `clean` among them: on every image that was evaluated."""
    after: Mapping[str, Cell] = field(default_factory=dict)
    """Transferred attacks by label: accuracy with the images that are wrong without an attack."""
    worst: Cell | None = None
    """None where the row lacks one of the attacks that the table's worst case joins."""
    worst_over: tuple[str, ...] = ()
    """Labels of the attacks that `worst` joins: the table's, or none."""
    lowest: Cell | None = None
    """Images that survive everything that was run on them; never above `worst`."""
    lowest_over: tuple[str, ...] = ()
    """Labels of the attacks that `lowest` joins, those that only some seeds have among them."""
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
    worst_over: tuple[str, ...] = ()
    """Labels of the attacks that the worst case of every row joins."""
    index: np.ndarray = field(default_factory=_no_images)
    """(n,) the images that most rows are of; empty where nothing was evaluated."""


def sections(runs: Iterable[RunRecord], worst_over: tuple[str, ...] | None = None) -> list[Section]:
    """One section a setting: data set, arch, recipe, norm and training eps.

    `worst_over`: labels of the attacks that the worst case joins, in place of each table's own.
    """
    return [_section(setting, groups, worst_over) for setting, groups in group_runs(runs)]


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


def _section(
    setting: Setting, groups: Sequence[Group], worst_over: tuple[str, ...] | None
) -> Section:
    labels = labels_of(groups, setting)
    found = [one for group in groups for one in _found(group, setting, labels)]
    joins = _joins(found) if worst_over is None else worst_over
    common_index = _common_index(found, joins)
    other = dict.fromkeys(label for label in labels.values() if label not in CORE)
    return Section(
        setting=setting,
        groups=tuple(groups),
        rows=tuple(_row(one, setting, joins, common_index) for one in found),
        attacks=tuple(sorted(other)),
        worst_over=joins,
        index=common_index,
    )


@dataclass(frozen=True, kw_only=True)
class _Seed:
    """One training's checkpoint, image by image."""

    clean: Flags
    attacks: Mapping[str, Flags]
    """By label."""
    after: Mapping[str, Flags]

    def has(self, labels: Iterable[str]) -> bool:
        """Whether every attack has the outcome of any image."""
        return all(label in self.attacks and len(self.attacks[label].index) for label in labels)

    def at(self, index: np.ndarray) -> _Seed:
        """The same on the images of `index` alone, but for `after`."""
        attacks = {label: restricted(flags, index) for label, flags in self.attacks.items()}
        return replace(self, clean=restricted(self.clean, index), attacks=attacks)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What is on record for a row, before its images are chosen."""

    group: Group
    checkpoint: str
    seeds: tuple[_Seed, ...] = ()
    warnings: tuple[str, ...] = ()

    @cached_property
    def attacks(self) -> tuple[str, ...]:
        """Labels of the attacks with an outcome of any image in any seed."""
        found = {label for seed in self.seeds for label in seed.attacks if seed.has([label])}
        return tuple(sorted(found, key=core_first))

    def index(self, joins: Sequence[str]) -> np.ndarray:
        """(n,) the images that all of its evaluations under the attacks `joins` share."""
        parts = [
            *(seed.clean for seed in self.seeds if len(seed.clean.index)),
            *(seed.attacks[name] for seed in self.seeds for name in joins if seed.has([name])),
        ]
        return shared(parts) if parts else _no_images()


def _joins(found: Sequence[_Found]) -> tuple[str, ...]:
    """The attacks of the worst case: those of CORE that at least half of the attacked rows have.

    Of best checkpoints and outside models. Where there are none of these, what most rows have.
    """
    attacked = [one for one in found if one.attacks]
    main = [one for one in attacked if one.checkpoint != "last"] or attacked
    joins = tuple(
        name for name in CORE if 2 * sum(name in one.attacks for one in main) >= len(main) > 0
    )
    counts = Counter(one.attacks for one in main)
    usual = max(counts, key=lambda names: (counts[names], len(names), names), default=())
    return joins or usual


def _common_index(found: Sequence[_Found], joins: Sequence[str]) -> np.ndarray:
    """(n,) the images of most rows that have all of the attacks `joins`; of ties the larger set.

    So an evaluation that is not finished leaves the other rows as they are.
    """
    whole = [one for one in found if set(joins) <= set(one.attacks)] or found
    sets = [index for one in whole if len(index := one.index(joins))]
    counts = Counter(index.tobytes() for index in sets)
    most = max(sets, key=lambda index: (counts[index.tobytes()], len(index)), default=None)
    return _no_images() if most is None else most


def _found(group: Group, setting: Setting, labels: Mapping[AttackId, str]) -> list[_Found]:
    present = {
        e.spec.checkpoint for run in group.runs for e in run.evaluations if in_table(e, setting)
    }
    if not present:
        return [_Found(group=group, checkpoint="")]
    usual = () if group.outside else CHECKPOINTS
    wanted = [c for c in (*CHECKPOINTS, GIVEN) if c in present or c in usual]
    return [_checkpoint(group, checkpoint, setting, labels) for checkpoint in wanted]


def _checkpoint(
    group: Group, checkpoint: str, setting: Setting, labels: Mapping[AttackId, str]
) -> _Found:
    seeds, warnings = [], dict[str, None]()
    for run in group.runs:
        found = [e for e in evaluations_of(run, checkpoint, setting.norm) if in_table(e, setting)]
        warnings |= dict.fromkeys(text for e in found for text in e.warnings)
        if found:
            clean, attacks = joined(found, labels)
            seeds.append(_Seed(clean=clean, attacks=attacks, after=_after(found, labels)))
    return _Found(group=group, checkpoint=checkpoint, seeds=tuple(seeds), warnings=tuple(warnings))


def _row(one: _Found, setting: Setting, joins: tuple[str, ...], common_index: np.ndarray) -> Row:
    if not one.checkpoint:
        return Row(group=one.group, checkpoint="", n_seeds=0, attacks={})
    index = one.index(joins)
    if len(common(common_index, index)) == len(common_index) > 0:
        index = common_index
    seeds = [seed.at(index) for seed in one.seeds]
    # A seed that lacks an attack would be judged by a weaker adversary than the others.
    own = [label for label in joins if label in one.attacks]
    even = [seed for seed in seeds if seed.has(own)]
    lowest_over = tuple(name for name in one.attacks if any(seed.has([name]) for seed in even))
    worst = [worst_case([seed.attacks[name] for name in own]) for seed in even if own]
    judged = bool(worst) and len(own) == len(joins)
    pairs = [
        (seed.attacks[PGD], seed.attacks[AUTOATTACK])
        for seed in seeds
        if PGD in seed.attacks and AUTOATTACK in seed.attacks
    ]
    lowest = [lowest_seen(list(seed.attacks.values()), index) for seed in even]
    return Row(
        group=one.group,
        checkpoint=one.checkpoint,
        n_seeds=len(seeds),
        index=index,
        clean=mean_accuracy([seed.clean for seed in seeds]) if seeds else None,
        attacks=_cells([seed.attacks for seed in seeds]),
        whole=_cells([{CLEAN: seed.clean, **seed.attacks} for seed in one.seeds]),
        after=_cells([seed.after for seed in seeds]),
        worst=mean_accuracy(worst) if judged else None,
        worst_over=joins if judged else (),
        lowest=mean_accuracy(lowest) if lowest_over else None,
        lowest_over=lowest_over,
        gap=_gap(pairs) if pairs else None,
        warnings=one.warnings,
        masking=masking(one.group.runs, one.checkpoint, setting.eps),
    )


def _cells(seeds: Sequence[Mapping[str, Flags]]) -> dict[str, Cell]:
    """By label, over the seeds that have it."""
    names = sorted({label for seed in seeds for label in seed}, key=core_first)
    return {name: mean_accuracy([seed[name] for seed in seeds if name in seed]) for name in names}


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
