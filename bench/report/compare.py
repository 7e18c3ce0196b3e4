"""Two methods on the same images: the difference, its interval, and an exact test, in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product

from bench.errors import ConfigError, RecordError, unknown_name
from bench.listing import aligned
from bench.records import RunRecord
from bench.records.spec import CHECKPOINTS, GIVEN
from bench.report.accuracy import PairedComparison, paired_comparison
from bench.report.formatting import ALARM, eps_text, listed, percent
from bench.report.frame import results_frame
from bench.report.groups import Group, Setting, group_runs
from bench.report.rows import TableRow, checkpoints, core_first, status
from bench.report.statistics import LEVEL, holm
from bench.report.titles import CLEAN

_CHOICES = ("dataset", "arch", "recipe", "eps")
_Training = tuple[Setting, Group]
"""A training with the setting that it was made in."""


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """Two methods on the images that all their seeds share."""

    setting: Setting
    """The first's."""
    sides: tuple[TableRow, TableRow]
    attacks: tuple[str, ...]
    """An image counts if it survives all of these; only `clean`: clean accuracy."""
    numbers: PairedComparison
    p_holm: float | None = None
    """Corrected for the other comparisons of its family; None where it stands alone."""
    n_pairs: int = 1
    """Comparisons of the family."""

    @property
    def runs(self) -> list[list[RunRecord]]:
        """Of each side those that have every attack, by seed."""
        return [[run for run, _ in side.joint(self.attacks)] for side in self.sides]

    @property
    def seeds(self) -> list[str]:
        """Of each side, `0, 1`; a dash for a model from outside."""
        return [", ".join("-" if r.seed is None else str(r.seed) for r in own) for own in self.runs]

    @property
    def significant(self) -> bool:
        """At 5%, after the correction if one was made."""
        return (self.numbers.p if self.p_holm is None else self.p_holm) < LEVEL

    @property
    def one_seed(self) -> bool:
        """Whether each method is one model."""
        return self.numbers.first_only is not None


def compare(
    runs: Iterable[RunRecord],
    first: str,
    second: str,
    *,
    attack: str | None = None,
    checkpoint: str = "best",
    **choice: str | float | None,
) -> MethodComparison:
    """Compare two methods, runs (by id) or outside models on the images that they share.

    Robust accuracy: the worst case over the attacks that both have; with `attack` under only that
    one, or `clean`. `choice`, of dataset, arch (or its beginning), recipe and eps, picks the
    setting where both names have several. Raises ConfigError for a name or a value that is not on
    record and for a name of several trainings, RecordError where the two share no image.
    """
    if checkpoint not in CHECKPOINTS:
        raise unknown_name("checkpoint", checkpoint, CHECKPOINTS)
    (setting, one), (_, other) = _find_pair(runs, first, second, choice)
    # labels of both together, so that an attack has one label whatever else their tables hold
    frame = results_frame((*one.runs, *other.runs))
    found = checkpoints(frame, setting, [one, other])

    def side(group: Group) -> TableRow:
        name = GIVEN if group.outside else checkpoint
        empty = TableRow(group=group, checkpoint=name, setting=setting, frame=frame)
        return next((c for c in found[group.label] if c.checkpoint == name), empty)

    return paired(setting, side(one), side(other), attack)


def _find_pair(
    runs: Iterable[RunRecord], first: str, second: str, choice: Mapping[str, str | float | None]
) -> tuple[_Training, _Training]:
    """Return the trainings of two names: methods, labels of a table, run ids, or outside models.

    Of one setting; where none holds both, of two with the same data set and eps. Raises ConfigError
    where a name is unknown, or where there is not exactly one such pair.
    """
    everything = [(setting, group) for setting, groups in group_runs(runs) for group in groups]
    kept = _chosen(list(dict.fromkeys(setting for setting, _ in everything)), choice)
    ones, others = _matches(everything, first), _matches(everything, second)
    pairs = [
        (one, other)
        for one, other in product(ones, others)
        if one[0] in kept and other[0] in kept and one[1].runs != other[1].runs
    ]
    together = [(one, other) for one, other in pairs if one[0] == other[0]]
    alike = [(one, other) for one, other in pairs if _ball(one[0]) == _ball(other[0])]
    fitting, names = together or alike, f"{first} and {second}"
    if len(fitting) == 1:
        (one, other) = fitting[0]
        if one[1].label != other[1].label:
            return one, other
        ids = [(place, replace(g, label=g.runs[0].run_id)) for place, g in fitting[0]]
        return ids[0], ids[1]
    settings = list(dict.fromkeys(one[0] for one, _ in fitting))
    if len(settings) > 1:
        differ = [name for name in _CHOICES if len({getattr(s, name) for s in settings}) > 1]
        raise ConfigError(
            f"{names} have {len(settings)} settings ({'; '.join(map(_place, settings))}): "
            f"pick one with {' or '.join(f'--{name}' for name in differ) or 'run ids'}"
        )
    if settings:
        groups = dict.fromkeys(
            f"'{group.label}' ({group.runs[0].run_id})" for pair in fitting for _, group in pair
        )
        raise ConfigError(f"{names} stand for several trainings: name two of {', '.join(groups)}")
    if [group.runs for _, group in ones] == [group.runs for _, group in others]:
        raise ConfigError(f"{names} are the same: name two")
    where = [
        f"{name}: {'; '.join(dict.fromkeys(_place(setting) for setting, _ in found))}"
        for name, found in ((first, ones), (second, others))
    ]
    raise ConfigError(f"{names} have no data set and eps in common there ({', '.join(where)})")


def _chosen(
    settings: Sequence[Setting], choice: Mapping[str, str | float | None]
) -> Sequence[Setting]:
    """Return the settings with every value; raises ConfigError for a value on no record."""
    for name, wanted in choice.items():
        if wanted is None:
            continue
        text = eps_text(wanted) if isinstance(wanted, float) else wanted
        values = {setting: _value(setting, name) for setting in settings}
        exact = [setting for setting, value in values.items() if value == text]
        begun = [
            s for s, value in values.items() if name == "arch" and value.startswith(f"{text}-")
        ]
        if not (settings := exact or begun):
            there = ", ".join(dict.fromkeys(values.values()))
            raise ConfigError(f"no records with --{name} {text}; there are {there}")
    return settings


def _value(setting: Setting, name: str) -> str:
    return eps_text(setting.eps) if name == "eps" else getattr(setting, name) or "none"


def _ball(setting: Setting) -> tuple[str, str, float]:
    """Return what is equal where models of two settings are attacked alike."""
    return setting.dataset, setting.norm, setting.eps


def _place(setting: Setting) -> str:
    parts = (setting.dataset, setting.arch, setting.recipe)
    return ", ".join([*filter(None, parts), f"eps {eps_text(setting.eps)}"])


def _matches(everything: Sequence[_Training], name: str) -> list[_Training]:
    """Return the groups that `name` stands for; of a run's id, that run alone."""
    found = []
    for setting, group in everything:
        ids = [run.run_id for run in group.runs]
        bare = group.label.removesuffix(ALARM), group.method.rpartition("/")[2]
        if name in ids:
            run = group.runs[ids.index(name)]
            label = group.label if len(ids) == 1 else f"{group.label}, seed {run.seed}"
            found.append((setting, replace(group, label=label, runs=(run,))))
        elif name in (group.label, group.method, *bare):
            found.append((setting, group))
    if not found:
        names = sorted({text for _, group in everything for text in (group.method, group.label)})
        ids = [run.run_id for _, group in everything for run in group.runs]
        close = get_close_matches(name, [*names, *ids], n=1, cutoff=0.5)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"'{name}' is not on record.{hint} There are {', '.join(names)}")
    return found


def paired(
    setting: Setting,
    first: TableRow,
    second: TableRow,
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
    return MethodComparison(
        setting=setting, sides=(first, second), attacks=attacks, numbers=numbers
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


def _attacks(first: TableRow, second: TableRow, attack: str | None) -> tuple[str, ...]:
    """Return the labels of what both have, or the one that was named."""
    for side in (first, second):
        if not side.seeds:
            states = [text for run in side.group.runs if (text := status(run))]
            reason = states[0] if states else f"its {side.checkpoint} checkpoint was not attacked"
            raise RecordError(f"{side.group.label} has nothing to compare: {reason}")
    own = [set(side.labels) for side in (first, second)]
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
    test = "exact McNemar" if c.one_seed else "t test over seeds and images,"
    by, level = f"{test} {p_text(n.p)}", f"{percent(1 - LEVEL, 0)}% interval"
    if c.p_holm is not None and c.n_pairs > 1:
        by += f", after Holm's correction over {c.n_pairs} pairs {p_text(c.p_holm)}"
        level += ", not corrected,"
    less = c.significant and n.difference < 0
    value, low, high = (-n.difference, -n.high, -n.low) if less else (n.difference, n.low, n.high)
    points = f"{percent(value)} points ({level} {percent(low)} to {percent(high)})"
    (first, second), at = (side.group.label for side in c.sides), f"{percent(LEVEL, 0)}%"
    scope = _scope(c)
    if not c.significant:
        return (
            f"{first} and {second} are not distinguishable {_where(c)}: a difference of {points}; "
            f"{by}: not significant at {at}.{scope}"
        )
    how = f"{'less' if less else 'more'} {'accurate' if c.attacks == (CLEAN,) else 'robust'}"
    return f"{first} is {points} {how} than {second} {_where(c)}; {by}: significant at {at}.{scope}"


def _scope(c: MethodComparison) -> str:
    """Return what the result is about where a method has one seed; empty where it has several."""
    sides = zip(c.sides, c.runs, strict=True)
    single = [side.group.label for side, own in sides if len(own) == 1 and not side.group.outside]
    if len(single) == 2:
        return " One seed each: this is about two networks, not two methods."
    return "".join(f" One seed of {label}: this is about its network." for label in single)


def block(comparison: MethodComparison) -> str:
    """Return the setting, a line for each of the two, and the sentence."""
    c, n = comparison, comparison.numbers
    figure = "clean accuracy" if c.attacks == (CLEAN,) else "robust accuracy"
    only = ["images that only it gets right"] if c.one_seed else []
    rows = [["", "checkpoint", "seeds", f"{figure} (%)", *only]]
    counts = (n.first, n.first_only), (n.second, n.second_only)
    for side, seeds, (accuracy, alone) in zip(c.sides, c.seeds, counts, strict=True):
        cells = [side.group.label, side.checkpoint, seeds, percent(accuracy)]
        rows.append([*cells, str(alone)] if c.one_seed else cells)
    return f"{c.setting.title}\n\n{aligned(rows)}\n\n{sentence(c)}"


def p_text(p: float) -> str:
    """Return `p = 0.04`, with as many digits as tell it from 5%; `p < 0.0001` for a smaller one."""
    if p < 1e-4:
        return "p < 0.0001"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return f"p = {next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))}"


def _where(c: MethodComparison) -> str:
    under = "without an attack" if c.attacks == (CLEAN,) else f"under {listed(c.attacks)}"
    images = f"{c.numbers.n} images" if c.numbers.n > 1 else "image"
    counts = " and ".join(str(len(own)) for own in c.runs)
    means = "" if c.one_seed else f" (means of {counts} seeds)"
    return f"on the same {images} {under}{means}"
