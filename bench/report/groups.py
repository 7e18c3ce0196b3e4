"""Which runs belong together: settings that may share a table, and seeds that may be averaged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.records import RunRecord
from bench.report.formatting import ALARM
from bench.report.masking import masking
from bench.report.published import method_order
from bench.spec import slug

_DIGITS = 9
"""Decimals of eps that count: 0.031 is not 8/255, and 8/255 is equal to itself."""


@dataclass(frozen=True, kw_only=True, order=True)
class Setting:
    """What all rows of one table have in common."""

    dataset: str
    arch: str
    """Empty where only models from outside were scored."""
    recipe: str
    norm: str
    eps: float
    """Radius of the training, and of the attacks in the table; -1 where none is known."""

    @property
    def slug(self) -> str:
        """As a part of a file name."""
        head = "-".join(part for part in (self.dataset, self.arch, self.recipe) if part)
        return slug(f"{head}-eps{self.eps:.4f}" if self.eps >= 0 else head)


@dataclass(frozen=True, kw_only=True)
class Group:
    """One way of training, once per seed; or one model from outside."""

    label: str
    """The method's name, with its distinguishing values where one table has it twice."""
    method: str
    outside: bool
    runs: tuple[RunRecord, ...]
    """By seed."""


def same_eps(a: float, b: float) -> bool:
    """Whether two radii are the same one."""
    return round(a, _DIGITS) == round(b, _DIGITS)


def group_runs(runs: Iterable[RunRecord]) -> list[tuple[Setting, list[Group]]]:
    """The settings in order, each with its groups in the order of the paper's methods."""
    runs = [run for run in runs if not only_serves(run)]
    settings: dict[Setting, list[RunRecord]] = {}
    for run in runs:
        if run.kind != "model":
            settings.setdefault(_setting(run), []).append(run)
    trained = {setting: len(members) for setting, members in settings.items()}
    for run in runs:
        if run.kind == "model":
            settings.setdefault(_home(run, trained), []).append(run)
    return [(setting, _groups(settings[setting])) for setting in sorted(settings)]


def only_serves(run: RunRecord) -> bool:
    """Whether it was trained as a surrogate and nobody asked for figures of it."""
    return run.provenance.get("role") == "surrogate" and not run.evaluations


def _setting(run: RunRecord) -> Setting:
    return Setting(
        dataset=run.dataset,
        arch=run.arch,
        recipe=str(run.spec.get("recipe_name", "")),
        norm=str(run.spec.get("norm", "linf")),
        eps=round(float(run.spec.get("study_eps") or run.spec["eps"]), _DIGITS),
    )


def _home(run: RunRecord, trained: Mapping[Setting, int]) -> Setting:
    """The table for a model from outside, whose own arch and training eps are unknown.

    The largest one of its data set at an eps at which it was attacked; where there is none, a
    table of its own. A model that nothing attacked goes to the largest of its data set.
    """
    attacks = [e.spec for e in run.evaluations if e.spec.attack != "clean"]
    counts = Counter((spec.norm, round(spec.eps, _DIGITS)) for spec in attacks)
    homes = [
        setting
        for setting in trained
        if setting.dataset == run.dataset and (not counts or (setting.norm, setting.eps) in counts)
    ]
    if homes:
        return min(homes, key=lambda setting: (-trained[setting], setting))
    norm, eps = min(counts, key=lambda key: (-counts[key], key), default=("linf", -1.0))
    return Setting(dataset=run.dataset, arch="", recipe="", norm=norm, eps=eps)


def _groups(runs: Sequence[RunRecord]) -> list[Group]:
    by_key: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_key.setdefault(_key(run), []).append(run)
    groups = [
        Group(
            label=_name(members[0]),
            method=members[0].method,
            outside=members[0].kind == "model",
            runs=tuple(sorted(members, key=lambda run: (run.seed or 0, run.run_id))),
        )
        for members in by_key.values()
    ]
    groups = [replace(g, label=marked(g.label, g.runs)) for g in _told_apart(groups)]
    return sorted(groups, key=lambda g: (g.outside, method_order(g.method), g.label))


def marked(label: str, runs: Sequence[RunRecord]) -> str:
    """The label with the mark of an alarm, where a masking check raises one on any checkpoint."""
    checkpoints = {m.spec.checkpoint for run in runs for m in run.measures}
    checkpoints |= {e.spec.checkpoint for run in runs for e in run.evaluations}
    alarmed = any(masking(runs, checkpoint).alarms for checkpoint in checkpoints)
    return f"{label}{ALARM}" if alarmed else label


def _key(run: RunRecord) -> str:
    """Everything about a training except its seed."""
    if run.kind == "model":
        return run.run_id
    return json.dumps({**run.spec, "seed": None}, sort_keys=True, default=str)


def _name(run: RunRecord) -> str:
    # A model's reference may be an absolute path: the file's name is enough in a table.
    return f"{run.method.rpartition('/')[2]} (outside model)" if run.kind == "model" else run.method


def _told_apart(groups: Sequence[Group]) -> list[Group]:
    """Where groups share a name, each gets the values in which they differ."""
    by_label: dict[str, list[Group]] = {}
    for group in groups:
        by_label.setdefault(group.label, []).append(group)
    result = []
    for label, twins in by_label.items():
        names = varying(twins)
        apart = len(twins) > 1
        result += [replace(g, label=f"{label} ({_own(g, names)})") if apart else g for g in twins]
    return result


def _own(group: Group, names: Sequence[str]) -> str:
    """What tells a group from its namesakes; for a model the hash in its id, not its path."""
    if group.outside:
        return group.runs[0].run_id.rpartition("-")[2][:6]
    values = training_values(group)
    return ", ".join(f"{short(name)}={shown(values.get(name))}" for name in names)


def training_values(group: Group) -> dict[str, Any]:
    """Dotted names and values of the training's specification, without method and seed."""
    flat: dict[str, Any] = {}
    for name, value in group.runs[0].spec.items():
        if name in ("method", "seed"):
            continue
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": content for inner, content in value.items()}
        else:
            flat[name] = value
    return flat


def varying(groups: Sequence[Group]) -> list[str]:
    """Names of the values that are not the same in all groups."""
    values = [training_values(group) for group in groups]
    names = dict.fromkeys(name for flat in values for name in flat)
    return [n for n in names if any(flat.get(n) != values[0].get(n) for flat in values)]


def short(name: str) -> str:
    """`params.beta` as `beta`."""
    return name.rpartition(".")[2]


def shown(value: Any) -> str:
    """A specification's value in a label; checksums cut to eight digits."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text[:8] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
