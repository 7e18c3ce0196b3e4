"""One checkpoint of one method, image by image: which seeds get an image right under what.

Legend: n images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.errors import RecordError
from bench.records import EvaluationRecord, RunRecord
from bench.report.aggregate import AttackId, evaluations_of, in_table, joined, status
from bench.report.groups import Group, Setting
from bench.report.joins import Flags, of_images, shared, worst_case
from bench.spec import GIVEN

CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class Joint:
    """The seeds that have every one of some attacks, on the images that all of these share."""

    runs: tuple[RunRecord, ...]
    index: np.ndarray
    """(n,) dataset indices, ascending."""
    right: np.ndarray
    """(n,) how many of the seeds are right under all of the attacks."""

    def at(self, index: np.ndarray) -> np.ndarray:
        """(m,) `right` of the images `index`, all of which must be there."""
        return of_images(self.right, self.index, index)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One checkpoint of one method, and which images survive what; an entry a seed."""

    label: str
    setting: Setting
    checkpoint: str
    runs: tuple[RunRecord, ...]
    survivors: tuple[Mapping[str, Flags], ...]
    """By the attack's label; `clean` among them."""
    images: frozenset[tuple[int, str]]
    """How many images, and the checksum of their content."""
    reason: str
    """Why there is no seed, in words."""

    @cached_property
    def attacks(self) -> frozenset[str]:
        """Labels of the attacks that any seed has."""
        return frozenset(label for by_label in self.survivors for label in by_label) - {CLEAN}

    @cached_property
    def _joints(self) -> dict[tuple[str, ...], Joint]:
        """By attacks: one method is compared with many others under the same ones."""
        return {}

    def joint(self, attacks: tuple[str, ...]) -> Joint:
        """Of the seeds that have every attack: another would be judged by a weaker adversary.

        Raises RecordError where no seed has.
        """
        if attacks not in self._joints:
            self._joints[attacks] = self._joint(attacks)
        return self._joints[attacks]

    def _joint(self, attacks: tuple[str, ...]) -> Joint:
        whole = [
            (worst_case([by_label[label] for label in attacks]), run)
            for by_label, run in zip(self.survivors, self.runs, strict=True)
            if all(label in by_label for label in attacks)
        ]
        if not whole:
            raise RecordError(f"no seed of {self.label} has all of {', '.join(attacks)}")
        index = shared([flags for flags, _ in whole])
        return Joint(
            runs=tuple(run for _, run in whole),
            index=index,
            right=np.sum([flags.at(index) for flags, _ in whole], axis=0),
        )


def scored(
    group: Group, setting: Setting, labels: Mapping[AttackId, str], checkpoint: str = "best"
) -> Scored:
    """What is on record of one checkpoint; of an outside model, of the only one."""
    wanted = GIVEN if group.outside else checkpoint
    runs, survivors, images = [], [], set()
    for run in group.runs:
        found = [e for e in evaluations_of(run, wanted, setting.norm) if in_table(e, setting)]
        if found:
            runs.append(run)
            survivors.append(_by_label(found, labels))
            images |= {(e.spec.n_examples, e.spec.data_sha256) for e in found}
    states = [text for run in group.runs if (text := status(run))]
    return Scored(
        label=group.label,
        setting=setting,
        checkpoint=wanted,
        runs=tuple(runs),
        survivors=tuple(survivors),
        images=frozenset(images),
        reason=states[0] if states else f"its {wanted} checkpoint was not attacked",
    )


def _by_label(
    found: Sequence[EvaluationRecord], labels: Mapping[AttackId, str]
) -> dict[str, Flags]:
    clean, survivors = joined(found, labels)
    return {CLEAN: clean, **survivors}
