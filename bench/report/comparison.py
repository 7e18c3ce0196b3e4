"""Two methods on the same images: the difference, its interval, and an exact test. Without torch.

Legend: n images, s1 and s2 seeds of the two methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.errors import RecordError, unknown_name
from bench.records import RunRecord
from bench.report.aggregate import core_first, labels_of
from bench.report.choice import Choice, chosen_pair
from bench.report.groups import Setting
from bench.report.interval import mean_difference, paired_difference
from bench.report.joins import common
from bench.report.scored import CLEAN, Joint, Scored, scored
from bench.report.significance import LEVEL, holm, sign_flip
from bench.spec import CHECKPOINTS


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared."""

    label: str
    checkpoint: str
    runs: tuple[RunRecord, ...]
    """Those that have every attack of the comparison, by seed."""
    accuracy: float
    """Mean over the seeds, on the images of the comparison."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The first method's accuracy minus the second's on images that all their seeds share."""

    setting: Setting
    """The first's."""
    first: Side
    second: Side
    attacks: tuple[str, ...]
    """An image counts where it survives all of these; `clean` alone is no attack."""
    n: int
    low: float
    high: float
    """95% interval over the images: Newcombe's for one seed each, else `mean_difference`'s."""
    first_only: int | None
    second_only: int | None
    """Images that only one of them gets right; None for several seeds."""
    p: float
    """Of McNemar's exact test for one seed each, else of the sign-flip test of the images' sum of
    s2 * (seeds of the first that are right) - s1 * (seeds of the second that are right)."""
    p_holm: float | None = None
    """Corrected for the other comparisons of its family; None where it stands alone."""
    n_pairs: int = 1
    """Comparisons of the family."""

    @property
    def difference(self) -> float:
        """First minus second, a fraction."""
        return self.first.accuracy - self.second.accuracy

    @property
    def significant(self) -> bool:
        """At 5%, after the correction where there is one."""
        return (self.p if self.p_holm is None else self.p_holm) < LEVEL

    @property
    def one_seed(self) -> bool:
        """Whether each side is one model."""
        return len(self.first.runs) == len(self.second.runs) == 1


def compare(
    runs: Iterable[RunRecord],
    first: str,
    second: str,
    *,
    attack: str | None = None,
    checkpoint: str = "best",
    choice: Choice | None = None,
) -> Comparison:
    """Two methods, runs (by id) or outside models, on the images that they share.

    Robust accuracy: the worst case over the attacks that both have; with `attack` under that one
    alone, or `clean`. `choice` picks the setting where both names have several. Raises ConfigError
    for a name that is not on record or stands for several trainings, RecordError where the two
    share no image.
    """
    if checkpoint not in CHECKPOINTS:
        raise unknown_name("checkpoint", checkpoint, CHECKPOINTS)
    (own, one), (others, other) = chosen_pair(runs, first, second, choice or Choice())
    # labels of both together, so that one attack has one label whatever else their tables hold
    labels = labels_of([one, other], own)
    return paired(
        scored(one, own, labels, checkpoint), scored(other, others, labels, checkpoint), attack
    )


def paired(first: Scored, second: Scored, attack: str | None = None) -> Comparison:
    """The comparison of two that are scored; raises RecordError where they share no image."""
    attacks = _attacks(first, second, attack)
    images = first.images | second.images
    if len({n for n, _ in images}) < len(images):
        raise RecordError(f"{first.label} and {second.label} were attacked on different images")
    one, other = first.joint(attacks), second.joint(attacks)
    index = common(one.index, other.index)
    if not len(index):
        raise RecordError(
            f"{first.label} and {second.label} share no image under {', '.join(attacks)}"
        )
    right, right_others = one.at(index), other.at(index)
    s1, s2, n = len(one.runs), len(other.runs), len(index)
    signed = s2 * right - s1 * right_others
    alone: tuple[int, int] | tuple[None, None] = (None, None)
    if s1 == s2 == 1:
        alone = (int((signed > 0).sum()), int((signed < 0).sum()))
        both = int((right & right_others).sum())
        low, high = paired_difference(both, *alone, n - both - sum(alone))
    else:
        low, high = mean_difference(signed / (s1 * s2))
    return Comparison(
        setting=first.setting,
        first=_side(first, one, right),
        second=_side(second, other, right_others),
        attacks=attacks,
        n=n,
        low=low,
        high=high,
        first_only=alone[0],
        second_only=alone[1],
        p=sign_flip(signed),
    )


def corrected(comparisons: Sequence[Comparison], left_out: int = 0) -> list[Comparison]:
    """One family of comparisons, each with its p-value after Holm's correction.

    `left_out`: further comparisons of the family, which nobody made.
    """
    adjusted = holm([comparison.p for comparison in comparisons], left_out)
    return [
        replace(comparison, p_holm=p, n_pairs=len(comparisons) + left_out)
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def _attacks(first: Scored, second: Scored, attack: str | None) -> tuple[str, ...]:
    """Labels of what both have, or the one that is asked for."""
    for side in (first, second):
        if not side.runs:
            raise RecordError(f"{side.label} has nothing to compare: {side.reason}")
    shared = sorted(first.attacks & second.attacks, key=core_first)
    if attack is not None:
        if attack not in (CLEAN, *shared):
            both = f"attack of both {first.label} and {second.label}:"
            raise unknown_name(both, attack, (CLEAN, *shared))
        return (attack,)
    if not shared:
        had = [f"{s.label}: {', '.join(sorted(s.attacks)) or 'none'}" for s in (first, second)]
        raise RecordError(f"no attack is on record of both ({'; '.join(had)}): run one on both")
    return tuple(shared)


def _side(side: Scored, joint: Joint, right: np.ndarray) -> Side:
    return Side(
        label=side.label,
        checkpoint=side.checkpoint,
        runs=joint.runs,
        accuracy=float(right.mean()) / len(joint.runs),
    )
