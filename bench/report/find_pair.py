"""Find the two trainings that two names stand for, among everything on record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from bench.errors import ConfigError
from bench.records import RunRecord
from bench.report.formatting import ALARM, eps_text
from bench.report.groups import Group, Setting, group_runs
from bench.report.select import same_eps

Training = tuple[Setting, Group]
"""A training with the setting that it was made in."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What picks a setting if two names have several; None picks nothing."""

    dataset: str | None = None
    arch: str | None = None
    """Or its beginning: `wrn` for wrn-34-10."""
    recipe: str | None = None
    eps: float | None = None

    def among(self, settings: Sequence[Setting]) -> list[Setting]:
        """Return the settings with every value; raises ConfigError for a value on no record."""
        for name in ("dataset", "arch", "recipe", "eps"):
            wanted = getattr(self, name)
            kept = [s for s in settings if wanted is None or _has(s, name, wanted)]
            if not kept:
                there = dict.fromkeys(_shown(s, name) for s in settings)
                asked = eps_text(wanted) if name == "eps" else wanted
                raise ConfigError(f"no records with --{name} {asked}; there are {', '.join(there)}")
            exact = [s for s in kept if getattr(s, name) == wanted]
            settings = exact or kept
        return list(settings)


def find_pair(
    runs: Iterable[RunRecord], first: str, second: str, choice: Choice
) -> tuple[Training, Training]:
    """Return the trainings of two names: methods, labels of a table, run ids, or outside models.

    Of one setting; where none holds both, of two with the same data set and eps. Raises ConfigError
    where a name is unknown, or where there is not exactly one such pair.
    """
    everything = [(setting, group) for setting, groups in group_runs(runs) for group in groups]
    kept = choice.among(list(dict.fromkeys(setting for setting, _ in everything)))
    ones, others = _matches(everything, first), _matches(everything, second)
    pairs = [
        (one, other)
        for one in ones
        for other in others
        if one[0] in kept and other[0] in kept and one[1].runs != other[1].runs
    ]
    together = [pair for pair in pairs if pair[0][0] == pair[1][0]]
    alike = [pair for pair in pairs if _same_attacks(pair[0][0], pair[1][0])]
    fitting = together or alike
    if not fitting:
        raise _no_pair(first, second, ones, others)
    if len(fitting) > 1:
        raise _several(first, second, fitting)
    return _told_apart(*fitting[0])


def _has(setting: Setting, name: str, wanted: str | float) -> bool:
    value = getattr(setting, name)
    if name == "eps":
        return same_eps(value, float(wanted))
    return bool(value == wanted or (name == "arch" and value.startswith(f"{wanted}-")))


def _shown(setting: Setting, name: str) -> str:
    return eps_text(setting.eps) if name == "eps" else getattr(setting, name) or "none"


def _matches(everything: Sequence[Training], name: str) -> list[Training]:
    """The groups that `name` stands for; of a run's id, that run alone."""
    found = []
    for setting, group in everything:
        ids = [run.run_id for run in group.runs]
        if name in ids:
            run = group.runs[ids.index(name)]
            label = group.label if len(ids) == 1 else f"{group.label}, seed {run.seed}"
            found.append((setting, replace(group, label=label, runs=(run,))))
        elif name in (
            *(group.label, group.label.removesuffix(ALARM)),
            *(group.method, group.method.rpartition("/")[2]),
        ):
            found.append((setting, group))
    if not found:
        names = sorted({text for _, group in everything for text in (group.method, group.label)})
        ids = [run.run_id for _, group in everything for run in group.runs]
        close = get_close_matches(name, [*names, *ids], n=1, cutoff=0.5)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"'{name}' is not on record.{hint} There are {', '.join(names)}")
    return found


def _same_attacks(one: Setting, other: Setting) -> bool:
    """Whether models of two settings are attacked on the same images in the same ball."""
    same = (one.dataset, one.norm) == (other.dataset, other.norm)
    return same and same_eps(one.eps, other.eps)


def _no_pair(
    first: str, second: str, ones: Sequence[Training], others: Sequence[Training]
) -> ConfigError:
    if [group.runs for _, group in ones] == [group.runs for _, group in others]:
        return ConfigError(f"{first} and {second} are the same: name two")
    where = [
        f"{name}: {'; '.join(dict.fromkeys(_place(setting) for setting, _ in found))}"
        for name, found in ((first, ones), (second, others))
    ]
    return ConfigError(
        f"{first} and {second} have no data set and eps in common there ({', '.join(where)})"
    )


def _several(first: str, second: str, pairs: Sequence[tuple[Training, Training]]) -> ConfigError:
    """What there is to choose from, and how."""
    settings = list(dict.fromkeys(one[0] for one, _ in pairs))
    if len(settings) > 1:
        names = [
            f"--{name}"
            for name in ("dataset", "arch", "recipe", "eps")
            if len({getattr(setting, name) for setting in settings}) > 1
        ]
        listed = "; ".join(_place(setting) for setting in settings)
        return ConfigError(
            f"{first} and {second} have {len(settings)} settings ({listed}): "
            f"pick one with {' or '.join(names) or 'run ids'}"
        )
    labels = dict.fromkeys(
        f"'{group.label}' ({group.runs[0].run_id})" for pair in pairs for _, group in pair
    )
    return ConfigError(
        f"{first} and {second} stand for several trainings: name two of {', '.join(labels)}"
    )


def _place(setting: Setting) -> str:
    parts = (setting.dataset, setting.arch, setting.recipe)
    return ", ".join([*(part for part in parts if part), f"eps {eps_text(setting.eps)}"])


def _told_apart(one: Training, other: Training) -> tuple[Training, Training]:
    """With run ids for labels where both have the same."""
    if one[1].label != other[1].label:
        return one, other
    first, second = (
        (setting, replace(group, label=group.runs[0].run_id)) for setting, group in (one, other)
    )
    return first, second
