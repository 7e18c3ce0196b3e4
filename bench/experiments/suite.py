"""Suites: the studies that a table or figure needs, as TOML files. Without torch.

    title = "..."
    includes = ["table1", "table3"]     other suites; a training that several need is done once

    methods, arch, dataset, eps, seeds, recipe, [training], [[attacks]], [checks], [[measures]]
    [[studies]]                         several studies; each states what it changes of the above

    [sizes.tiny]                        a smaller size; `full` is the file without changes
    archs = { "wrn-34-10" = "cnn" }     replacements of networks
    dataset = "digits"
    reference_eps = "0.2"               replaces 8/255: every eps is scaled with it
    recipe = "common"
    training = { epochs = 4 }
    train_size, test_size               number of images
    first = { autoattack = 16 }         most images per attack, measure, or `checks`
    checks = { steps = 100 }            effort of the checks
    measures = { n_points = 11 }        parameters of the measures that have them

A smaller size is never presented as the paper's. Unknown keys are refused, as are names in
`archs`, `first` or `measures` that the suite does not have.
"""

import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from bench.eps import REFERENCE_EPS, parse_eps
from bench.errors import ConfigError, refuse_unknown
from bench.experiments.study import AttackConfig, MeasureConfig, Study
from bench.papers import papers
from bench.records.manifest import FULL
from bench.records.spec import CHECKPOINTS, recipe_values

_OWN = ("names", "checkpoints", "first")
_EFFORT = ("steps", "samples", "restarts")
"""Other keys of `[checks]`: the fields of the checks' `CheckBudget`, which needs torch."""
_STUDY = (
    *("title", "methods", "arch", "dataset", "eps", "seeds", "recipe"),
    *("training", "attacks", "checks", "measures"),
)
_SIZE = (
    *("archs", "dataset", "reference_eps", "recipe", "training", "train_size", "test_size"),
    *("first", "checks", "measures"),
)


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
    return [(name, str(_table(name)["title"])) for name in _names()]


def load_suite(name: str, size: str | None = None) -> Suite:
    """Return a suite in one of its sizes; raises ConfigError for an unknown name or size."""
    refuse_unknown("suite", [name], _names())
    size = size or FULL
    if size not in sizes(name):
        raise ConfigError(
            f"suite '{name}' has no size '{size}'; its sizes: {', '.join(sizes(name))}"
        )
    studies = tuple(_studies(name, size))
    return Suite(name=name, title=str(_table(name)["title"]), size=size, studies=studies)


def sizes(name: str) -> list[str]:
    """Return the sizes of a suite and of those that it includes, the largest first."""
    table = _table(name)
    found = dict.fromkeys([FULL, *table.get("sizes", {})])
    for included in table.get("includes", ()):
        found |= dict.fromkeys(sizes(included))
    return list(found)


def _studies(name: str, size: str) -> Iterator[Study]:
    table = _table(name)
    for part, keys, known in _keys(table):
        refuse_unknown(f"key (suite {name}, {part})", keys, known)
    for included in table.get("includes", ()):
        yield from _studies(included, size)
    if "methods" in table or "studies" in table:
        changes = table.get("sizes", {}).get(size, {})
        for own in table.get("studies", [{}]):
            yield _study(name, size, {**table, **own}, changes)


def _keys(table: Mapping[str, Any]) -> Iterator[tuple[str, Iterable[str], Collection[str]]]:
    """Yield the name, keys and known keys of every table of a suite's file."""
    own = table.get("studies", [])
    yield "top level", table, (*_STUDY, "includes", "studies", "sizes")
    for study in own:
        yield "[[studies]]", study, _STUDY
    for part in (table, *own):
        yield "[training]", part.get("training", ()), recipe_values()
        yield "[checks]", part.get("checks", ()), (*_OWN, *_EFFORT)
        for group in part.get("attacks", ()):
            yield "[[attacks]]", group, (*_OWN, "split")
    has = _names_in([{**table, **study} for study in own] or [table])
    for size, changes in table.get("sizes", {}).items():
        yield f"[sizes.{size}]", changes, _SIZE
        yield f"[sizes.{size}] training", changes.get("training", ()), recipe_values()
        for key, known in has.items():
            yield f"[sizes.{size}] {key}", changes.get(key, ()), known


def _names_in(studies: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return the names that the tables of a size may change; a size adds none."""
    has: dict[str, set[str]] = {"archs": set(), "first": set(), "checks": set(), "measures": set()}
    for study in studies:
        has["archs"] |= {study["arch"]} if "arch" in study else set()
        for group in study.get("attacks", ()):
            has["first"] |= {AttackConfig.parse(text).name for text in group["names"]}
        for group in study.get("measures", ()):
            has["first"] |= set(group.get("names", ()))
            has["measures"] |= set(group) - set(_OWN)
        if "checks" in study:
            has["first"] |= {"checks"}
            has["checks"] |= {*_OWN, *_EFFORT}
    return has


def _study(name: str, size: str, table: Mapping[str, Any], changes: Mapping[str, Any]) -> Study:
    factor = parse_eps(str(changes.get("reference_eps", REFERENCE_EPS))) / REFERENCE_EPS
    limits = changes.get("first", {})
    checks = None
    if "checks" in table:
        group = {**table["checks"], **changes.get("checks", {})}
        checks = _measures(group, limits.get("checks"))
    measures = []
    for group in table.get("measures", ()):
        smaller = {k: v for k, v in changes.get("measures", {}).items() if k in group}
        own = [limits.get(measure) for measure in group.get("names", ())]
        measures.append(_measures({**group, **smaller}, *own))
    return Study(
        suite=name,
        size=size if _table(name).get("sizes") else "",
        title=table["title"],
        methods=tuple(table["methods"]),
        arch=changes.get("archs", {}).get(table["arch"], table["arch"]),
        dataset=changes.get("dataset", table["dataset"]),
        eps=parse_eps(str(table["eps"])) * factor,
        seeds=tuple(table["seeds"]),
        recipe=changes.get("recipe", table["recipe"]),
        attacks=tuple(_attacks(table, limits, factor)),
        checks=checks,
        measures=tuple(measures),
        training={**table.get("training", {}), **changes.get("training", {})},
        train_size=changes.get("train_size"),
        test_size=changes.get("test_size"),
    )


def _attacks(
    table: Mapping[str, Any], limits: Mapping[str, int], factor: float
) -> Iterator[AttackConfig]:
    for group in table.get("attacks", ()):
        for text in group["names"]:
            attack = AttackConfig.parse(
                text,
                checkpoints=tuple(group.get("checkpoints", CHECKPOINTS)),
                split=group.get("split", "test"),
            )
            yield replace(
                attack,
                eps=None if attack.eps is None else attack.eps * factor,
                first=_least(group.get("first"), limits.get(attack.name)),
            )


def _measures(group: Mapping[str, Any], *limits: int | None) -> MeasureConfig:
    default = MeasureConfig()
    return MeasureConfig(
        names=tuple(group.get("names", default.names)),
        checkpoints=tuple(group.get("checkpoints", default.checkpoints)),
        first=_least(group.get("first", default.first), *limits),
        split=group.get("split", default.split),
        params={key: value for key, value in group.items() if key not in (*_OWN, "split")},
    )


def _least(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


def _names() -> tuple[str, ...]:
    return tuple(sorted(_files()))


@cache
def _files() -> dict[str, Traversable]:
    folders = [files("bench") / "suites", *(paper.folder / "suites" for paper in papers())]
    found = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    return {file.name[:-5]: file for file in found if file.name.endswith(".toml")}


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(_files()[name].read_text())
