"""The rows of Table 3: one per method and checkpoint, every number of a row on the same images.

Legend: n images. Numbers are fractions; percent is made when a table is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from bench.errors import RecordError
from bench.records import EvaluationRecord, RunRecord
from bench.records.spec import CHECKPOINTS, GIVEN
from bench.report.accuracy import (
    AccuracyEstimate,
    ImageOutcomes,
    common,
    difference,
    lowest_seen,
    mean_accuracy,
    over_seeds,
    restricted,
    shared,
    worst_case,
)
from bench.report.frame import ResultsFrame, outcomes, results_frame, select
from bench.report.groups import Group, Setting, attack_labels, group_runs
from bench.report.masking import Masking, masking
from bench.report.titles import AUTOATTACK, CLEAN, CORE, PGD

SPLIT = "test"
MASKING_GAP = 0.05
"""PGD-20 minus AutoAttack above this marks a row. AutoAttack's authors found 1 to 6 points for
most adversarially trained models, and 24 to 32 for models whose gradients mislead PGD."""
MOST = 30
"""Methods of a setting that are drawn and compared in pairs: of more, the most robust."""
_NO_IMAGES = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class TrainingOutcomes:
    """One training's checkpoint, image by image."""

    run: RunRecord
    positions: tuple[int, ...]
    """Of its evaluations in the frame."""
    clean: ImageOutcomes
    attacks: Mapping[str, ImageOutcomes]
    """By label."""
    after: Mapping[str, ImageOutcomes]
    """By label: correct under the attack, whether or not without it; transferred attacks only."""

    def at(self, index: np.ndarray) -> TrainingOutcomes:
        """Return the outcomes of only the images of `index`, except `after`."""
        attacks = {label: restricted(found, index) for label, found in self.attacks.items()}
        attacks = {label: found for label, found in attacks.items() if len(found.index)}
        return replace(self, clean=restricted(self.clean, index), attacks=attacks)


@dataclass(frozen=True, kw_only=True, eq=False)
class TableRow:
    """One checkpoint of one method: what is on record of it, and its row of a table.

    An estimate is None where no run has the evaluation. All but those of `whole` and `after` are on
    the images of `index`.
    """

    group: Group
    checkpoint: str
    """best, last or given; empty where nothing was evaluated."""
    setting: Setting
    frame: ResultsFrame
    seeds: tuple[TrainingOutcomes, ...] = ()
    """Of the runs with an evaluation of this checkpoint."""
    joins: tuple[str, ...] = ()
    """Labels of the attacks that the table's worst case joins."""
    index: np.ndarray = field(default_factory=lambda: _NO_IMAGES)
    """(n,) dataset indices of the row's images, ascending."""

    @cached_property
    def evaluations(self) -> list[EvaluationRecord]:
        return [self.frame.records[position] for seed in self.seeds for position in seed.positions]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels of the attacks of any seed."""
        return tuple(sorted({n for seed in self.seeds for n in seed.attacks}, key=core_first))

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What the evaluator noticed about the model or the attacks, each once."""
        return tuple(dict.fromkeys(text for e in self.evaluations for text in e.warnings))

    @cached_property
    def masking(self) -> Masking:
        """The checks for masked gradients, at the setting's eps."""
        return masking(self.group.runs, self.checkpoint, self.setting.eps)

    @cached_property
    def clean(self) -> AccuracyEstimate | None:
        return mean_accuracy(seed.clean for seed in self._on_index)

    @cached_property
    def attacks(self) -> dict[str, AccuracyEstimate]:
        """By the attack's label, at the setting's eps."""
        return _estimates([seed.attacks for seed in self._on_index])

    @cached_property
    def whole(self) -> dict[str, AccuracyEstimate]:
        """By label, with `clean`: on every evaluated image."""
        return _estimates([{CLEAN: seed.clean, **seed.attacks} for seed in self.seeds])

    @cached_property
    def after(self) -> dict[str, AccuracyEstimate]:
        """Transferred attacks by label: also counts images misclassified without an attack."""
        return _estimates([seed.after for seed in self.seeds])

    @cached_property
    def worst(self) -> AccuracyEstimate | None:
        """None where the row lacks one of the attacks that the table's worst case joins."""
        over = self.worst_over
        return mean_accuracy(worst_case([a[name] for name in over]) for a in self._even if over)

    @cached_property
    def worst_over(self) -> tuple[str, ...]:
        """Labels of the attacks that `worst` joins: the table's, or none."""
        return self.joins if self._even and set(self.joins) <= set(self.labels) else ()

    @cached_property
    def lowest(self) -> AccuracyEstimate | None:
        """Images that survive every attack that was run on them; never above `worst`."""
        return mean_accuracy(lowest_seen(list(a.values()), self.index) for a in self._even if a)

    @cached_property
    def lowest_over(self) -> tuple[str, ...]:
        """Labels of the attacks that `lowest` joins, with those that only some seeds have."""
        return tuple(name for name in self.labels if any(name in attacks for attacks in self._even))

    @cached_property
    def gap(self) -> AccuracyEstimate | None:
        """PGD-20 minus AutoAttack."""
        both = [seed.attacks for seed in self._on_index if seed.attacks.keys() >= {PGD, AUTOATTACK}]
        return over_seeds(difference(a[PGD], a[AUTOATTACK]) for a in both)

    @property
    def n_seeds(self) -> int:
        return len(self.seeds)

    @property
    def suspicious(self) -> bool:
        """Whether the gap is so large that PGD-20 must not be believed."""
        return self.gap is not None and self.gap.value > MASKING_GAP

    @property
    def evaluated(self) -> bool:
        """Whether the row has any number."""
        return bool(self.checkpoint)

    @cached_property
    def _on_index(self) -> list[TrainingOutcomes]:
        return [seed.at(self.index) for seed in self.seeds]

    @cached_property
    def _even(self) -> list[Mapping[str, ImageOutcomes]]:
        """Attacks of the seeds that lack none of `joins` that another seed has.

        Other seeds would be judged by a weaker adversary.
        """
        own = set(self.joins) & set(self.labels)
        return [seed.attacks for seed in self._on_index if seed.attacks.keys() >= own]

    def shared_images(self, joins: Sequence[str]) -> np.ndarray:
        """Return (n,) the images that all of its evaluations under the attacks `joins` share."""
        own = [(seed.clean, *map(seed.attacks.get, joins)) for seed in self.seeds]
        parts = [part for seed in own for part in seed if part]
        return shared(parts) if parts else _NO_IMAGES

    def joint(self, attacks: tuple[str, ...]) -> list[tuple[RunRecord, ImageOutcomes]]:
        """Return what survives all of some attacks, for each seed that has every one of them.

        Other seeds would meet a weaker adversary. Raises RecordError where none has them all.
        """
        seeds = [(seed.run, {**seed.attacks, CLEAN: seed.clean}) for seed in self.seeds]
        whole = [(run, own) for run, own in seeds if own.keys() >= set(attacks)]
        if not whole:
            raise RecordError(f"no seed of {self.group.label} has all of {', '.join(attacks)}")
        return [(run, worst_case([own[name] for name in attacks])) for run, own in whole]


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """One table: the methods of one setting. Compared by identity."""

    setting: Setting
    groups: tuple[Group, ...]
    rows: tuple[TableRow, ...]
    worst_over: tuple[str, ...]
    """Labels of the attacks that the worst case of every row joins."""
    index: np.ndarray
    """(n,) the images of most rows; empty where nothing was evaluated."""
    frame: ResultsFrame
    """Of all settings."""

    @cached_property
    def attacks(self) -> tuple[str, ...]:
        """Labels of the attacks without a column of their own."""
        found = {label for row in self.rows for label in row.labels}
        return tuple(sorted(found - set(CORE)))

    @property
    def main_rows(self) -> list[TableRow]:
        """Evaluated rows of best checkpoints and outside models."""
        return [row for row in self.rows if row.evaluated and row.checkpoint != "last"]

    @property
    def n_seeds(self) -> list[int]:
        """Of each trained method with a number."""
        return [row.n_seeds for row in self.main_rows if row.seeds and not row.group.outside]

    def positions(self, *, last: bool = True) -> list[int]:
        """Return the rows of the frame that the table is made of; `last`: last checkpoints too."""
        rows = [row for row in self.rows if last or row.checkpoint != "last"]
        return [at for row in rows for seed in row.seeds for at in seed.positions]


def sections(runs: Iterable[RunRecord], worst_over: tuple[str, ...] | None = None) -> list[Section]:
    """Return a section per setting: data set, network, recipe, norm and training eps.

    `worst_over`: labels of the attacks that the worst case joins, in place of each table's own.
    """
    runs = list(runs)
    frame = results_frame(runs)
    found = []
    for setting, groups in group_runs(runs):
        own = [one for many in checkpoints(frame, setting, groups).values() for one in many]
        joins = _joins(own) if worst_over is None else worst_over
        usual, rows = _common_index(own, joins), []
        for row in own:
            index = row.shared_images(joins)
            if len(common(usual, index)) == len(usual) > 0:
                index = usual
            rows.append(replace(row, joins=joins, index=index))
        table = Section(
            setting=setting,
            groups=tuple(groups),
            rows=tuple(rows),
            worst_over=joins,
            index=usual,
            frame=frame,
        )
        found.append(table)
    return found


def by_robustness(section: Section) -> list[str]:
    """Return the labels of the groups by their main rows' worst case, the most robust first."""
    worst = {row.group.label: row.worst.value for row in section.main_rows if row.worst}
    labels = [group.label for group in section.groups]
    return sorted(labels, key=lambda label: -worst.get(label, -1.0))


def status(run: RunRecord) -> str:
    """Return what kept a run from its end, in words; empty where nothing did."""
    if run.status == "failed":
        error = str((run.train or {}).get("error") or "no reason recorded")
        return f"failed: {' '.join(error.split())}"
    if run.status == "unfinished":
        n_epochs = run.spec.get("recipe", {}).get("epochs", "?")
        return f"unfinished: {len(run.history)} of {n_epochs} epochs"
    if run.status != "done":
        return run.status
    return "" if any(e.n_examples for e in run.evaluations) else "not evaluated"


def core_first(label: str) -> tuple[int, str]:
    """Return the sort key of attack labels: those with a column of their own, others by name."""
    return (CORE.index(label) if label in CORE else len(CORE), label)


def checkpoints(
    frame: ResultsFrame, setting: Setting, groups: Sequence[Group]
) -> dict[str, list[TableRow]]:
    """Return what is on record of each group at the setting's eps: label -> its checkpoints.

    A group with any evaluation has an entry for best and last, one without has a single empty one.
    """
    ids = {run.run_id for group in groups for run in group.runs}
    table = select(frame, run_ids=ids, eps=setting.eps, norm=setting.norm, split=SPLIT)
    keys = list(zip(table["attack"], table["params"], strict=True))
    labels = attack_labels(key for key in keys if key[0] != CLEAN)
    where: dict[tuple[str, str], dict[str, list[int]]] = {}
    columns = (table.index.tolist(), table["run_id"], table["checkpoint"], keys)
    for position, run_id, checkpoint, key in zip(*columns, strict=True):
        by_label = where.setdefault((run_id, checkpoint), {})
        by_label.setdefault(labels.get(key, CLEAN), []).append(position)

    def found(group: Group, checkpoint: str) -> TableRow:
        own = [(run, where.get((run.run_id, checkpoint))) for run in group.runs]
        seeds = tuple(_seed(frame, run, positions) for run, positions in own if positions)
        return TableRow(
            group=group, checkpoint=checkpoint, setting=setting, frame=frame, seeds=seeds
        )

    result = {}
    for group in groups:
        every = [found(group, checkpoint) for checkpoint in (*CHECKPOINTS, GIVEN)]
        evaluated = any(one.seeds for one in every)
        usual = CHECKPOINTS if evaluated and not group.outside else ()
        wanted = [one for one in every if one.seeds or one.checkpoint in usual]
        result[group.label] = wanted or [found(group, "")]
    return result


def _seed(frame: ResultsFrame, run: RunRecord, found: Mapping[str, list[int]]) -> TrainingOutcomes:
    every = sorted(position for positions in found.values() for position in positions)
    attacks = {label: positions for label, positions in found.items() if label != CLEAN}
    recorded = {
        label: [p for p in positions if frame.records[p].after is not None]
        for label, positions in attacks.items()
    }
    return TrainingOutcomes(
        run=run,
        positions=tuple(every),
        clean=outcomes(frame, every, "clean"),
        attacks={label: outcomes(frame, positions) for label, positions in attacks.items()},
        after={n: outcomes(frame, own, "after") for n, own in recorded.items() if own},
    )


def _joins(found: Sequence[TableRow]) -> tuple[str, ...]:
    """Return the attacks of the worst case: those of CORE that half of the attacked rows have.

    Of best checkpoints and outside models. Where these have none of CORE, what most rows have.
    """
    attacked = [one for one in found if one.labels]
    main = [one for one in attacked if one.checkpoint != "last"] or attacked
    joins = tuple(
        name for name in CORE if 2 * sum(name in one.labels for one in main) >= len(main) > 0
    )
    return joins or _usual([one.labels for one in main])


def _usual(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the most frequent set of attacks; of ties the largest."""
    counts = Counter(names)
    return max(counts, key=lambda one: (counts[one], len(one), one), default=())


def _common_index(found: Sequence[TableRow], joins: Sequence[str]) -> np.ndarray:
    """Return (n,) the images of most rows that have all of `joins`; of ties the larger set.

    So an evaluation that is not finished leaves the other rows as they are.
    """
    whole = [one for one in found if set(joins) <= set(one.labels)] or found
    sets = [index for one in whole if len(index := one.shared_images(joins))]
    counts = Counter(index.tobytes() for index in sets)
    return max(sets, key=lambda i: (counts[i.tobytes()], len(i)), default=_NO_IMAGES)


def _estimates(seeds: Sequence[Mapping[str, ImageOutcomes]]) -> dict[str, AccuracyEstimate]:
    """Return the accuracies by label, over the seeds that have it."""
    names = sorted({label for seed in seeds for label in seed}, key=core_first)
    found = {name: mean_accuracy(seed[name] for seed in seeds if name in seed) for name in names}
    return {name: estimate for name, estimate in found.items() if estimate}
