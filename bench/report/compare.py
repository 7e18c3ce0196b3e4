"""Two methods on the same images: the difference, its interval, and an exact test, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.errors import RecordError, unknown_name
from bench.listing import aligned
from bench.records import RunRecord
from bench.report.accuracy import PairedComparison, paired_comparison
from bench.report.find_pair import Choice, find_pair
from bench.report.formatting import listed, percent
from bench.report.frame import results_frame
from bench.report.groups import Setting
from bench.report.rows import CheckpointOutcomes, checkpoints, core_first, status
from bench.report.statistics import LEVEL, holm
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

    @property
    def seeds(self) -> str:
        """`0, 1`; a dash for a model from outside."""
        return ", ".join("-" if run.seed is None else str(run.seed) for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """Two methods on the images that all their seeds share."""

    setting: Setting
    """The first's."""
    first: ComparedMethod
    second: ComparedMethod
    attacks: tuple[str, ...]
    """An image counts if it survives all of these; only `clean`: clean accuracy."""
    numbers: PairedComparison
    p_holm: float | None = None
    """Corrected for the other comparisons of its family; None where it stands alone."""
    n_pairs: int = 1
    """Comparisons of the family."""

    @property
    def significant(self) -> bool:
        """At 5%, after the correction if one was made."""
        return (self.numbers.p if self.p_holm is None else self.p_holm) < LEVEL

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
) -> MethodComparison:
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
    return paired(setting, sides[0], sides[1], attack)


def paired(
    setting: Setting,
    first: CheckpointOutcomes,
    second: CheckpointOutcomes,
    attack: str | None = None,
) -> MethodComparison:
    """Compare two checkpoints; raises RecordError where they share no attack or no image."""
    attacks = _attacks(first, second, attack)
    names = f"{first.group.label} and {second.group.label}"
    images = {
        (e.spec.n_examples, e.spec.data_sha256) for s in (first, second) for e in s.evaluations
    }
    if len({n for n, _ in images}) < len(images):
        raise RecordError(f"{names} were attacked on different images")
    sides = [side.joint(attacks) for side in (first, second)]
    numbers = paired_comparison(*([one for _, one in side] for side in sides))
    if numbers is None:
        raise RecordError(f"{names} share no image under {', '.join(attacks)}")
    methods = [
        ComparedMethod(
            label=found.group.label,
            checkpoint=found.checkpoint,
            runs=tuple(run for run, _ in side),
        )
        for found, side in zip((first, second), sides, strict=True)
    ]
    return MethodComparison(
        setting=setting, first=methods[0], second=methods[1], attacks=attacks, numbers=numbers
    )


def corrected(comparisons: Sequence[MethodComparison], left_out: int = 0) -> list[MethodComparison]:
    """Return one family of comparisons, each with its p-value after Holm's correction.

    left_out: further comparisons of the family, which nobody made.
    """
    adjusted = holm([comparison.numbers.p for comparison in comparisons], left_out)
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


def sentence(comparison: MethodComparison) -> str:
    """Return which is better on the same images, by how much, and by which test.

    The interval is the test's before a correction: it contains 0 exactly where p is at least 5%.
    """
    c, n = comparison, comparison.numbers
    first, second = c.first.label, c.second.label
    test = "exact McNemar" if c.one_seed else "exact sign-flip test of the images,"
    by, level = f"{test} {p_text(n.p)}", f"{percent(1 - LEVEL, 0)}% interval"
    if c.p_holm is not None and c.n_pairs > 1:
        by += f", after Holm's correction over {c.n_pairs} pairs {p_text(c.p_holm)}"
        level += ", not corrected,"
    if not c.significant:
        points = f"{percent(n.difference)} points ({level} {percent(n.low)} to {percent(n.high)})"
        return (
            f"{first} and {second} are not distinguishable {_where(c)}: a difference of {points}; "
            f"{by}: not significant at {percent(LEVEL, 0)}%."
        )
    better, low, high = "more", n.low, n.high
    if n.difference < 0:
        better, low, high = "less", -n.high, -n.low
    points = f"{percent(abs(n.difference))} points ({level} {percent(low)} to {percent(high)})"
    good = "accurate" if c.attacks == (CLEAN,) else "robust"
    return (
        f"{first} is {points} {better} {good} than {second} {_where(c)}; "
        f"{by}: significant at {percent(LEVEL, 0)}%."
    )


def block(comparison: MethodComparison) -> str:
    """Return the setting, a line for each of the two, and the sentence."""
    c = comparison
    figure = "clean accuracy" if c.attacks == (CLEAN,) else "robust accuracy"
    head: tuple[str, ...] = ("", "checkpoint", "seeds", f"{figure} (%)")
    if c.one_seed:
        head = (*head, "images that only it gets right")
    rows = [head]
    n = c.numbers
    for side, accuracy, only in (
        (c.first, n.first, n.first_only),
        (c.second, n.second, n.second_only),
    ):
        cells = (side.label, side.checkpoint, side.seeds, percent(accuracy))
        rows.append(cells if only is None else (*cells, str(only)))
    return f"{title(c.setting)}\n\n{aligned(rows)}\n\n{sentence(c)}"


def p_text(p: float) -> str:
    """Return `p = 0.04`, with as many digits as tell it from 5%; `p < 0.0001` for a smaller one."""
    if p < 1e-4:
        return "p < 0.0001"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return f"p = {next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))}"


def _where(c: MethodComparison) -> str:
    under = "without an attack" if c.attacks == (CLEAN,) else f"under {listed(c.attacks)}"
    images = f"{c.numbers.n} images" if c.numbers.n > 1 else "image"
    n_seeds = len(c.first.runs), len(c.second.runs)
    means = "" if c.one_seed else f" (means of {n_seeds[0]} and {n_seeds[1]} seeds)"
    return f"on the same {images} {under}{means}"
