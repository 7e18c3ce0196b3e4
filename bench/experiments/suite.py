"""Suites: the studies that a table or figure needs, as TOML files. Without torch.

    title = "..."
    includes = ["table1", "table3"]     other suites; a training that several need is done once

    methods, arch, dataset, eps, seeds, recipe, surrogate_recipe, precision,
    stage, in_sizes,
    [training], [params.METHOD], [[attacks]], [checks], [[measures]]
    [[studies]]                         several studies; each states what it changes of the above

    [sizes.tiny]                        a smaller size, see `Size`; `full` is the file as it is

`stage` orders the work: what a study of an earlier stage needs is done first; suites that are
included come last. A study with `in_sizes` is only in these sizes; if every study has it, there is
no size `full`. A smaller size is never presented as the paper's. Unknown keys are refused, as are
names in `archs`, `first` or `measures` that the suite does not have.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from bench.eps import REFERENCE_EPS, parse_eps
from bench.errors import ConfigError, refuse_unknown
from bench.experiments import recipe
from bench.experiments.study import AttackConfig, Checkpoint, MeasureConfig, Split, Study
from bench.experiments.tables import Count, load_toml, read_table
from bench.papers import papers
from bench.records.manifest import FULL
from bench.records.spec import CHECKPOINTS

_Table = Mapping[str, Any]
_CHECKED = ("names", "checkpoints", "first")
_IMAGES = (*_CHECKED, "split")
_EFFORT = ("steps", "samples", "restarts")
"""Other keys of `[checks]`: the fields of the checks' `CheckBudget`, which needs torch."""


@dataclass(frozen=True, kw_only=True)
class _Study:
    """What a file says of all of its studies, or `[[studies]]` of one."""

    title: str | None = None
    methods: tuple[str, ...] = ()
    arch: str | None = None
    dataset: str | None = None
    eps: str | float | None = None
    seeds: tuple[int, ...] = ()
    recipe: str | None = None
    surrogate_recipe: str | None = None
    precision: str | None = None
    stage: int = 0
    in_sizes: tuple[str, ...] = ()
    training: _Table = field(default_factory=dict)
    params: Mapping[str, _Table] = field(default_factory=dict)
    attacks: tuple[_Table, ...] = ()
    checks: _Table = field(default_factory=dict)
    measures: tuple[_Table, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Suite(_Study):
    includes: tuple[str, ...] = ()
    studies: tuple[_Table, ...] = ()
    sizes: Mapping[str, _Table] = field(default_factory=dict)


_STUDY = tuple(f.name for f in fields(_Study))
_GROUPS = ("attacks", "checks", "measures")


@dataclass(frozen=True, kw_only=True)
class _AttackGroup:
    names: tuple[str, ...]
    checkpoints: tuple[Checkpoint, ...] = CHECKPOINTS
    first: Count | None = None
    split: Split = "test"


@dataclass(frozen=True, kw_only=True)
class Size:
    """What `[sizes.NAME]` changes of a suite, so that it takes less time."""

    includes: tuple[str, ...] = ()
    """Further suites to include, in this size."""
    archs: Mapping[str, str] = field(default_factory=dict)
    """Replacements of networks."""
    dataset: str | None = None
    reference_eps: str | float = "8/255"
    """Replaces 8/255: every eps is scaled with it."""
    recipe: str | None = None
    precision: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    train_size: Count | None = None
    """Number of images, as is test_size."""
    test_size: Count | None = None
    first: Mapping[str, Count] = field(default_factory=dict)
    """Most images per attack, measure, or `checks`."""
    checks: Mapping[str, Any] = field(default_factory=dict)
    """Effort of the checks."""
    measures: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the measures that have them."""

    @property
    def factor(self) -> float:
        return parse_eps(str(self.reference_eps)) / REFERENCE_EPS


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What to train and measure for one or several tables and figures."""

    name: str
    title: str
    size: str
    studies: tuple[Study, ...]

    def only(self) -> Study:
        """Return the suite's one study; raises ConfigError where it has several."""
        if len(self.studies) > 1:
            raise ConfigError(
                f"suite '{self.name}' has several studies, which --methods, --arch, --eps, "
                "--attacks and --param cannot change; take another suite, or none"
            )
        return self.studies[0]


def list_suites() -> list[tuple[str, str]]:
    return [(name, _title(name)) for name in _files()]


def _title(name: str) -> str:
    return str(_table(name).get("title", name))


def load_suite(name: str, size: str | None = None) -> Suite:
    """Return a suite in a size, the largest if None; raises ConfigError for an unknown one."""
    known = sizes(name)
    size = size or known[0]
    if size not in known:
        raise ConfigError(f"suite '{name}' has no size '{size}'; its sizes: {', '.join(known)}")
    studies = tuple(_studies(name, size))
    return Suite(name=name, title=_title(name), size=size, studies=studies)


def sizes(name: str) -> list[str]:
    """Return the sizes of a suite and of those that it includes, the largest first."""
    table = _table(name)
    own = table.get("studies", ())
    whole = [] if own and all("in_sizes" in study for study in own) else [FULL]
    found = dict.fromkeys([*whole, *table.get("sizes", {})])
    for included in table.get("includes", ()):
        found |= dict.fromkeys(sizes(included))
    return list(found)


def _studies(name: str, size: str) -> Iterator[Study]:
    where, table = f"suite {name}", _table(name)
    read_table(_Suite, table, f"{where}, top level")
    for own in table.get("studies", ()):
        read_table(_Study, own, f"{where}, [[studies]]")
        known = (FULL, *table.get("sizes", {}))
        refuse_unknown(f"key ({where}, [[studies]] in_sizes)", own.get("in_sizes", ()), known)
    shared = {key: value for key, value in table.items() if key in _STUDY}
    tables = [shared | own for own in table.get("studies", [{}] if "methods" in table else [])]
    sizes = {
        key: _size(values, tables, f"{where}, [sizes.{key}]")
        for key, values in table.get("sizes", {}).items()
    }
    chosen = sizes.get(size, Size())
    own = [_study(one, chosen, where) for one in tables if size in one.get("in_sizes", [size])]
    for study in own:
        yield replace(study, suite=name, size=size if sizes else "")
    later = max((study.stage + 1 for study in own), default=0)
    for included in (*table.get("includes", ()), *chosen.includes):
        for study in _studies(included, size):
            yield replace(study, stage=study.stage + later)


def _size(table: _Table, studies: Sequence[_Table], where: str) -> Size:
    """Read a size; refuse names that it would change and that no study has."""
    size = read_table(Size, table, where)
    attacks = [group for study in studies for group in study.get("attacks", ())]
    measures = [group for study in studies for group in study.get("measures", ())]
    checks = ["checks"] if any("checks" in study for study in studies) else []
    names = [text.partition("@")[0].strip() for g in attacks for text in g.get("names", ())]
    measured = [name for group in measures for name in group.get("names", ())]
    for part, known in (
        ("includes", _files()),
        ("training", recipe.VALUES),
        ("archs", {study["arch"] for study in studies if "arch" in study}),
        ("first", {*names, *measured, *checks}),
        ("checks", (*_CHECKED, *_EFFORT) if checks else ()),
        ("measures", {key for group in measures for key in group}.difference(_IMAGES)),
    ):
        refuse_unknown(f"key ({where} {part})", getattr(size, part), known)
    return size


def _study(table: _Table, size: Size, where: str) -> Study:
    refuse_unknown(f"key ({where}, [training])", table.get("training", ()), recipe.VALUES)
    values = {key: value for key, value in table.items() if key not in (*_GROUPS, "in_sizes")}
    for key in ("dataset", "recipe", "precision"):
        values |= {} if getattr(size, key) is None else {key: getattr(size, key)}
    values |= {
        "suite": "",
        "attacks": [],
        "training": {**table.get("training", {}), **size.training},
        "train_size": size.train_size,
        "test_size": size.test_size,
    }
    if "eps" in table:
        values["eps"] = parse_eps(str(table["eps"])) * size.factor
    if "arch" in table:
        values["arch"] = size.archs.get(table["arch"], table["arch"])
    return replace(
        read_table(Study, values, where),
        attacks=tuple(_attacks(table.get("attacks", ()), size, f"{where}, [[attacks]]")),
        checks=_checks(table["checks"], size, f"{where}, [checks]") if "checks" in table else None,
        measures=tuple(
            _measures(
                {**group, **{key: v for key, v in size.measures.items() if key in group}},
                f"{where}, [[measures]]",
                *(size.first.get(measure) for measure in group.get("names", ())),
            )
            for group in table.get("measures", ())
        ),
    )


def _checks(group: _Table, size: Size, where: str) -> MeasureConfig:
    refuse_unknown(f"key ({where})", group, (*_CHECKED, *_EFFORT))
    return _measures({**group, **size.checks}, where, size.first.get("checks"))


def _attacks(groups: Sequence[_Table], size: Size, where: str) -> Iterator[AttackConfig]:
    for group in (read_table(_AttackGroup, values, where) for values in groups):
        for text in group.names:
            attack = AttackConfig.parse(text, checkpoints=group.checkpoints, split=group.split)
            yield replace(
                attack,
                eps=None if attack.eps is None else attack.eps * size.factor,
                first=_least(group.first, size.first.get(attack.name)),
            )


def _measures(group: _Table, where: str, *limits: int | None) -> MeasureConfig:
    own = {key: value for key, value in group.items() if key in _IMAGES}
    params = {key: value for key, value in group.items() if key not in _IMAGES}
    found = read_table(MeasureConfig, {**own, "params": params}, where)
    return replace(found, first=_least(found.first, *limits))


def _least(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


@cache
def _files() -> dict[str, Traversable]:
    folders = [files("bench") / "suites", *(paper.folder / "suites" for paper in papers())]
    found = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    named = {file.name[:-5]: file for file in found if file.name.endswith(".toml")}
    return dict(sorted(named.items()))


@cache
def _table(name: str) -> dict[str, Any]:
    refuse_unknown("suite", [name], _files())
    return load_toml(_files()[name])
