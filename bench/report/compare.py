"""Two methods on the same images: the difference, its interval, and an exact test.

Legend: n images, s1 and s2 seeds of the two methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.errors import RecordError, unknown_name
from bench.listing import aligned
from bench.records import RunRecord
from bench.report.accuracy import common
from bench.report.find_pair import Choice, find_pair
from bench.report.formatting import listed, percent
from bench.report.frame import results_frame
from bench.report.groups import Setting
from bench.report.rows import CheckpointOutcomes, checkpoints, core_first, status
from bench.report.statistics import LEVEL, holm, mean_difference, paired_difference, sign_flip
from bench.report.table3 import title
from bench.report.titles import CLEAN
from bench.spec import CHECKPOINTS, GIVEN


@dataclass(frozen=True, kw_only=True)
class ComparedMethod:
    """One of the two methods of a comparison."""

    label: str
    checkpoint: str
    runs: tuple[RunRecord, ...]
    """Those that have every attack of the comparison, by seed."""
    accuracy: float
    """Mean over the seeds, on the images of the comparison."""

    @property
    def seeds(self) -> str:
        """`0, 1`; a dash for a model from outside."""
        return ", ".join("-" if run.seed is None else str(run.seed) for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class PairComparison:
    """The first method's accuracy minus the second's on images that all their seeds share."""

    setting: Setting
    """The first's."""
    first: ComparedMethod
    second: ComparedMethod
    attacks: tuple[str, ...]
    """An image counts if it survives all of these; only `clean`: clean accuracy."""
    n: int
    low: float
    high: float
    """95% interval over the images: Newcombe's for one seed each, else `mean_difference`'s."""
    first_only: int | None
    second_only: int | None
    """Images that only one of them gets right; None for several seeds."""
    p: float
    """Of McNemar's exact test for one seed each, else of the sign-flip test of the images' sum of
    s2 * (seeds of the first that are correct) - s1 * (seeds of the second that are correct)."""
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
        """At 5%, after the correction if one was made."""
        return (self.p if self.p_holm is None else self.p_holm) < LEVEL

    @property
    def one_seed(self) -> bool:
        """Whether each method is one model."""
        return len(self.first.runs) == len(self.second.runs) == 1


def compare(
    runs: Iterable[RunRecord],
    first: str,
    second: str,
    *,
    attack: str | None = None,
    checkpoint: str = "best",
    choice: Choice | None = None,
) -> PairComparison:
    """Compare two methods, runs (by id) or outside models on the images that they share.

    Robust accuracy: the worst case over the attacks that both have; with `attack` under only that
    one, or `clean`. `choice` picks the setting where both names have several. Raises ConfigError
    for a name that is not on record or stands for several trainings, RecordError where the two
    share no image.
    """
    if checkpoint not in CHECKPOINTS:
        raise unknown_name("checkpoint", checkpoint, CHECKPOINTS)
    (setting, one), (_, other) = find_pair(runs, first, second, choice or Choice())
    # labels of both together, so that an attack has one label whatever else their tables hold
    frame = results_frame((*one.runs, *other.runs))
    found = checkpoints(frame, setting, [one, other])
    sides = []
    for group in (one, other):
        name = GIVEN if group.outside else checkpoint
        own = [c for c in found[group.label] if c.checkpoint == name]
        empty = CheckpointOutcomes(group=group, checkpoint=name, frame=frame)
        sides.append(own[0] if own else empty)
    return paired(setting, *sides, attack)


def paired(
    setting: Setting,
    first: CheckpointOutcomes,
    second: CheckpointOutcomes,
    attack: str | None = None,
) -> PairComparison:
    """Compare two checkpoints; raises RecordError where they share no attack or no image."""
    attacks = _attacks(first, second, attack)
    names = f"{first.group.label} and {second.group.label}"
    images = {
        (e.spec.n_examples, e.spec.data_sha256) for s in (first, second) for e in s.evaluations
    }
    if len({n for n, _ in images}) < len(images):
        raise RecordError(f"{names} were attacked on different images")
    one, other = first.joint(attacks), second.joint(attacks)
    index = common(one.index, other.index)
    if not len(index):
        raise RecordError(f"{names} share no image under {', '.join(attacks)}")
    correct = one.at(index), other.at(index)
    s1, s2, n = len(one.runs), len(other.runs), len(index)
    signed = s2 * correct[0] - s1 * correct[1]
    only: tuple[int, int] | tuple[None, None] = (None, None)
    if s1 == s2 == 1:
        only = (int((signed > 0).sum()), int((signed < 0).sum()))
        both = int((correct[0] & correct[1]).sum())
        low, high = paired_difference(both, *only, n - both - sum(only))
    else:
        low, high = mean_difference(signed / (s1 * s2))
    sides = [
        ComparedMethod(
            label=side.group.label,
            checkpoint=side.checkpoint,
            runs=joint.runs,
            accuracy=float(right.mean()) / len(joint.runs),
        )
        for side, joint, right in zip((first, second), (one, other), correct, strict=True)
    ]
    return PairComparison(
        setting=setting,
        first=sides[0],
        second=sides[1],
        attacks=attacks,
        n=n,
        low=low,
        high=high,
        first_only=only[0],
        second_only=only[1],
        p=sign_flip(signed),
    )


def corrected(comparisons: Sequence[PairComparison], left_out: int = 0) -> list[PairComparison]:
    """Return one family of comparisons, each with its p-value after Holm's correction.

    left_out: further comparisons of the family, which nobody made.
    """
    adjusted = holm([comparison.p for comparison in comparisons], left_out)
    return [
        replace(comparison, p_holm=p, n_pairs=len(comparisons) + left_out)
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def _attacks(
    first: CheckpointOutcomes, second: CheckpointOutcomes, attack: str | None
) -> tuple[str, ...]:
    """Return the labels of what both have, or the one that was named."""
    for side in (first, second):
        if not side.seeds:
            states = [text for run in side.group.runs if (text := status(run))]
            reason = states[0] if states else f"its {side.checkpoint} checkpoint was not attacked"
            raise RecordError(f"{side.group.label} has nothing to compare: {reason}")
    own = [{label for seed in side.seeds for label in seed.attacks} for side in (first, second)]
    shared = sorted(own[0] & own[1], key=core_first)
    if attack is not None:
        if attack not in (CLEAN, *shared):
            both = f"attack of both {first.group.label} and {second.group.label}:"
            raise unknown_name(both, attack, (CLEAN, *shared))
        return (attack,)
    if not shared:
        had = [
            f"{side.group.label}: {', '.join(sorted(labels)) or 'none'}"
            for side, labels in zip((first, second), own, strict=True)
        ]
        raise RecordError(f"no attack is on record of both ({'; '.join(had)}): run one on both")
    return tuple(shared)


def sentence(comparison: PairComparison) -> str:
    """Return which is better on the same images, by how much, and by which test."""
    c = comparison
    first, second = c.first.label, c.second.label
    test = "exact McNemar" if c.one_seed else "exact sign-flip test of the images,"
    by = f"{test} {p_text(c.p)}"
    if c.p_holm is not None and c.n_pairs > 1:
        by += f", after Holm's correction over {c.n_pairs} pairs {p_text(c.p_holm)}"
    if not c.significant:
        points = f"{percent(c.difference)} points [{percent(c.low)}, {percent(c.high)}]"
        return (
            f"{first} and {second} are not distinguishable {_where(c)}: a difference of {points}; "
            f"{by}: not significant at {percent(LEVEL, 0)}%."
        )
    better, low, high = "more", c.low, c.high
    if c.difference < 0:
        better, low, high = "less", -c.high, -c.low
    points = f"{percent(abs(c.difference))} points [{percent(low)}, {percent(high)}]"
    good = "accurate" if c.attacks == (CLEAN,) else "robust"
    return (
        f"{first} is {points} {better} {good} than {second} {_where(c)}; "
        f"{by}: significant at {percent(LEVEL, 0)}%."
    )


def block(comparison: PairComparison) -> str:
    """Return the setting, a line for each of the two, and the sentence."""
    c = comparison
    figure = "clean accuracy" if c.attacks == (CLEAN,) else "robust accuracy"
    head: tuple[str, ...] = ("", "checkpoint", "seeds", f"{figure} (%)")
    if c.one_seed:
        head = (*head, "images that only it gets right")
    rows = [head]
    for side, only in ((c.first, c.first_only), (c.second, c.second_only)):
        cells = (side.label, side.checkpoint, side.seeds, percent(side.accuracy))
        rows.append(cells if only is None else (*cells, str(only)))
    return f"{title(c.setting)}\n\n{aligned(rows)}\n\n{sentence(c)}"


def p_text(p: float) -> str:
    """Return `p = 0.04`, with as many digits as tell it from 5%; `p < 0.0001` for a smaller one."""
    if p < 1e-4:
        return "p < 0.0001"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return f"p = {next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))}"


def _where(c: PairComparison) -> str:
    under = "without an attack" if c.attacks == (CLEAN,) else f"under {listed(c.attacks)}"
    images = f"{c.n} images" if c.n > 1 else "image"
    n_seeds = len(c.first.runs), len(c.second.runs)
    means = "" if c.one_seed else f" (means of {n_seeds[0]} and {n_seeds[1]} seeds)"
    return f"on the same {images} {under}{means}"
