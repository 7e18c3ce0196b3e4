"""Which runs belong together: settings that may share a table, and seeds that may be averaged."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.records import RunRecord
from bench.records.spec import slug
from bench.report.formatting import ALARM, eps_both, eps_text
from bench.report.frame import EPS_DIGITS
from bench.report.masking import masking
from bench.report.published import method_order, shown_name
from bench.report.titles import CLEAN


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
        head = "-".join(part for part in (self.dataset, self.arch, self.recipe) if part)
        return slug(f"{head}-eps{self.eps:.4f}" if self.eps >= 0 else head)

    @property
    def title(self) -> str:
        """`digits, cnn, recipe common, eps 8/255 (0.0314)`."""
        parts = [self.dataset, self.arch or "models from outside"]
        parts += [f"recipe {self.recipe}"] if self.recipe else []
        parts += [f"eps {eps_both(self.eps)}"] if self.eps >= 0 else []
        return ", ".join(parts)

    @property
    def cells(self) -> dict[str, str]:
        """The first columns of every .csv."""
        return {**asdict(self), "eps": f"{self.eps:.9g}" if self.eps >= 0 else ""}


@dataclass(frozen=True, kw_only=True)
class Group:
    """One way of training, once per seed; or one model from outside."""

    label: str
    """The method's name, with its distinguishing values where one table has it twice."""
    method: str
    outside: bool
    runs: tuple[RunRecord, ...]
    """By seed."""

    @property
    def title(self) -> str:
        """The label with the name of the method's card: `TRADES (beta=1)`."""
        name = "" if self.outside else str(self.runs[0].card.get("title") or "")
        return self.label.replace(self.method, name, 1) if name else shown_name(self.label)


def group_runs(runs: Iterable[RunRecord]) -> list[tuple[Setting, list[Group]]]:
    """Return the settings in order, each with its groups in the order of the papers' methods.

    A surrogate that was never evaluated is in none.
    """
    runs = [r for r in runs if r.evaluations or r.provenance.get("role") != "surrogate"]
    settings: dict[Setting, list[RunRecord]] = {}
    for run in runs:
        if run.kind != "model":
            settings.setdefault(_setting(run), []).append(run)
    trained = {setting: len(members) for setting, members in settings.items()}
    for run in runs:
        if run.kind == "model":
            settings.setdefault(_home(run, trained), []).append(run)
    return [(setting, _groups(settings[setting])) for setting in sorted(settings)]


def _setting(run: RunRecord) -> Setting:
    return Setting(
        dataset=run.dataset,
        arch=run.arch,
        recipe=str(run.spec.get("recipe_name", "")),
        norm=str(run.spec.get("norm", "linf")),
        eps=round(float(run.spec.get("study_eps") or run.spec["eps"]), EPS_DIGITS),
    )


def _home(run: RunRecord, trained: Mapping[Setting, int]) -> Setting:
    """Return the table for a model from outside, whose own arch and training eps are unknown.

    The largest one of its data set at an eps at which it was attacked; where there is none, a
    table of its own. A model that nothing attacked goes to the largest of its data set.
    """
    attacks = [e.spec for e in run.evaluations if e.spec.attack != CLEAN]
    counts = Counter((spec.norm, round(spec.eps, EPS_DIGITS)) for spec in attacks)
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
        outside = run.kind == "model"
        everything = {**run.spec, "seed": None}
        key = run.run_id if outside else json.dumps(everything, sort_keys=True, default=str)
        by_key.setdefault(key, []).append(run)
    by_name: dict[str, list[Group]] = {}
    for members in by_key.values():
        method, outside = members[0].method, members[0].kind == "model"
        # a model's reference may be an absolute path: the file's name is enough in a table
        name = f"{method.rpartition('/')[2]} (outside model)" if outside else method
        own = tuple(sorted(members, key=lambda run: (run.seed or 0, run.run_id)))
        group = Group(label=name, method=method, outside=outside, runs=own)
        by_name.setdefault(name, []).append(group)
    groups = []
    for name, twins in by_name.items():
        differing = varying(twins)
        for group in twins:
            label = f"{name} ({_own(group, differing)})" if len(twins) > 1 else name
            groups.append(replace(group, label=marked(label, group.runs)))
    return sorted(groups, key=lambda g: (g.outside, method_order(g.method), g.label))


def _own(group: Group, names: Sequence[str]) -> str:
    """Return what tells a group from its namesakes; of a model the hash in its id, not its path."""
    if group.outside:
        return group.runs[0].run_id.rpartition("-")[2][:6]
    values = training_values(group)
    return ", ".join(f"{short(name)}={shown(values.get(name))}" for name in names)


def marked(label: str, runs: Sequence[RunRecord]) -> str:
    """Return the label, with a mark if a masking check raises an alarm on any checkpoint."""
    checkpoints = {m.spec.checkpoint for run in runs for m in run.measures}
    checkpoints |= {e.spec.checkpoint for run in runs for e in run.evaluations}
    alarmed = any(masking(runs, checkpoint).alarms for checkpoint in checkpoints)
    return f"{label}{ALARM}" if alarmed else label


def training_values(group: Group) -> dict[str, Any]:
    """Return dotted names and values of the training's specification, without method and seed."""
    flat: dict[str, Any] = {}
    for name, value in group.runs[0].spec.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": content for inner, content in value.items()}
        elif name not in ("method", "seed"):
            flat[name] = value
    return flat


def varying(groups: Sequence[Group]) -> list[str]:
    """Return the names of the values that are not the same in all groups."""
    values = [training_values(group) for group in groups]
    names = dict.fromkeys(name for flat in values for name in flat)
    return [n for n in names if any(flat.get(n) != values[0].get(n) for flat in values)]


def short(name: str) -> str:
    """Return `params.beta` as `beta`."""
    return name.rpartition(".")[2]


def shown(value: Any) -> str:
    """Return a specification's value for a label; checksums cut to eight digits."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, float) and len(text) > 6:
        text = eps_text(value)  # 8/255 for 0.0313725
    return text[:8] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def attack_labels(specs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return a label for each attack: its name; with other parameters, also those that differ.

    specs: the attacks' names and their parameters as JSON.
    """
    counts = Counter(specs)
    labels: dict[tuple[str, str], str] = {}
    first: dict[str, dict[str, Any]] = {}
    for attack in sorted(counts, key=lambda attack: (attack[0], -counts[attack], attack[1])):
        name, params = attack[0], json.loads(attack[1])
        base = first.setdefault(name, params)
        changed = [k for k in sorted({*params, *base}) if params.get(k) != base.get(k)]
        suffix = ", ".join(f"{k}={shown(params.get(k))}" for k in changed)
        labels[attack] = f"{name} ({suffix})" if suffix else name
    return labels
