"""Suites: the studies that an artefact of the paper needs, as TOML files. Without torch.

    title = "..."
    includes = ["table1", "table3"]     other suites, whose cells are trained once

    methods, arch, dataset, eps, seeds, recipe, [training], [[attacks]], [checks], [[measures]]
    [[studies]]                         several studies; each repeats what it changes of the above

    [sizes.tiny]                        a smaller size; `full` is the file as it stands
    archs = { "wrn-34-10" = "cnn" }     networks in the place of others
    dataset = "digits"
    reference_eps = "0.2"               in the place of 8/255: every eps scales with it
    training = { epochs = 4 }
    train_size, test_size               images
    first = { autoattack = 16 }         images of an attack, or of `checks` or a measure, at most
    checks = { steps = 100 }            how far the checks go
    measures = { n_points = 11 }        parameters of measures that have them

A smaller size is never presented as the paper's. A key that is not of these, and a name in `archs`,
`first` or `measures` that the suite does not have, is refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from bench.eps import REFERENCE_EPS, parse_eps
from bench.errors import ConfigError, refuse_unknown
from bench.recipe import recipe_values
from bench.spec import CHECKPOINTS
from bench.study import AskedAttack, AskedMeasures, Study

FULL = "full"
_OWN = ("names", "checkpoints", "first")
_EFFORT = ("steps", "samples", "restarts")
"""Keys of `[checks]` beside those: the fields of the checks' `Effort`, which needs torch."""
_STUDY = (
    *("title", "methods", "arch", "dataset", "eps", "seeds", "recipe"),
    *("training", "attacks", "checks", "measures"),
)
_SIZE = (
    *("archs", "dataset", "reference_eps", "training", "train_size", "test_size"),
    *("first", "checks", "measures"),
)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What to train and to measure for one artefact or several."""

    name: str
    title: str
    size: str
    studies: tuple[Study, ...]

    def only(self) -> Study:
        """The one study that options of the command line change; raises ConfigError if several."""
        if len(self.studies) > 1:
            raise ConfigError(
                f"suite '{self.name}' has several studies, which --methods, --arch, --eps, "
                "--recipe, --attacks and --param cannot change; take another suite, or none"
            )
        return self.studies[0]


def list_suites() -> list[tuple[str, str]]:
    """Names and titles of the suites in the package."""
    return [(name, str(_table(name)["title"])) for name in _names()]


def load_suite(name: str, size: str | None = None) -> Suite:
    """A suite of the package in one of its sizes; raises ConfigError for what is not there."""
    refuse_unknown("suite", [name], _names())
    chosen = size or FULL
    if chosen not in sizes(name):
        raise ConfigError(
            f"suite '{name}' has no size '{chosen}'; its sizes: {', '.join(sizes(name))}"
        )
    return Suite(
        name=name,
        title=str(_table(name)["title"]),
        size=chosen,
        studies=tuple(_studies(name, chosen)),
    )


def sizes(name: str) -> list[str]:
    """Of a suite and of those that it includes: the largest first."""
    table = _table(name)
    found = dict.fromkeys([FULL, *table.get("sizes", {})])
    for included in table.get("includes", ()):
        found |= dict.fromkeys(sizes(included))
    return list(found)


def _studies(name: str, size: str) -> Iterator[Study]:
    table = _table(name)
    _refuse_unknown_keys(name, table)
    for included in table.get("includes", ()):
        yield from _studies(included, size)
    if "methods" in table or "studies" in table:
        changes = table.get("sizes", {}).get(size, {})
        for own in table.get("studies", [{}]):
            yield _study(name, size, {**table, **own}, changes)


def _refuse_unknown_keys(name: str, table: Mapping[str, Any]) -> None:
    own = table.get("studies", [])

    def check(where: str, found: Iterable[str], known: Collection[str]) -> None:
        refuse_unknown(f"key (suite {name}, {where})", found, known)

    check("top level", table, (*_STUDY, "includes", "studies", "sizes"))
    for study in own:
        check("[[studies]]", study, _STUDY)
    for part in (table, *own):
        check("[training]", part.get("training", ()), recipe_values())
        check("[checks]", part.get("checks", ()), (*_OWN, *_EFFORT))
        for group in part.get("attacks", ()):
            check("[[attacks]]", group, (*_OWN, "split"))
    has = _names_in([{**table, **study} for study in own] or [table])
    for size, changes in table.get("sizes", {}).items():
        check(f"[sizes.{size}]", changes, _SIZE)
        check(f"[sizes.{size}] training", changes.get("training", ()), recipe_values())
        for key, known in has.items():
            check(f"[sizes.{size}] {key}", changes.get(key, ()), known)


def _names_in(studies: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """What the tables of a size may name: it changes what the studies have, and adds nothing."""
    has: dict[str, set[str]] = {"archs": set(), "first": set(), "checks": set(), "measures": set()}
    for study in studies:
        has["archs"] |= {study["arch"]} if "arch" in study else set()
        for group in study.get("attacks", ()):
            has["first"] |= {AskedAttack.parse(text).name for text in group["names"]}
        for group in study.get("measures", ()):
            has["first"] |= set(group.get("names", ()))
            has["measures"] |= set(group) - set(_OWN)
        if "checks" in study:
            has["first"] |= {"checks"}
            has["checks"] |= {*_OWN, *_EFFORT}
    return has


def _study(name: str, size: str, table: Mapping[str, Any], changes: Mapping[str, Any]) -> Study:
    first = changes.get("first", {})
    factor = parse_eps(str(changes.get("reference_eps", REFERENCE_EPS))) / REFERENCE_EPS
    study = Study(
        suite=name,
        size=size if _table(name).get("sizes") else "",
        title=table["title"],
        methods=tuple(table["methods"]),
        arch=changes.get("archs", {}).get(table["arch"], table["arch"]),
        dataset=changes.get("dataset", table["dataset"]),
        eps=parse_eps(str(table["eps"])) * factor,
        seeds=tuple(table["seeds"]),
        recipe=table["recipe"],
        attacks=tuple(_attacks(table, first, factor)),
        checks=_checks(table, changes) if "checks" in table else None,
        measures=tuple(_measures(group, first, changes) for group in table.get("measures", ())),
        training={**table.get("training", {}), **changes.get("training", {})},
    )
    return replace(study, train_size=changes.get("train_size"), test_size=changes.get("test_size"))


def _attacks(
    table: Mapping[str, Any], first: Mapping[str, int], factor: float
) -> Iterator[AskedAttack]:
    for group in table.get("attacks", ()):
        for text in group["names"]:
            attack = AskedAttack.parse(
                text,
                checkpoints=tuple(group.get("checkpoints", CHECKPOINTS)),
                split=group.get("split", "test"),
            )
            yield replace(
                attack,
                eps=None if attack.eps is None else attack.eps * factor,
                first=_least(group.get("first"), first.get(attack.name)),
            )


def _checks(table: Mapping[str, Any], changes: Mapping[str, Any]) -> AskedMeasures:
    group = {**table["checks"], **changes.get("checks", {})}
    return _asked(group, changes.get("first", {}).get("checks"), {})


def _measures(
    group: Mapping[str, Any], first: Mapping[str, int], changes: Mapping[str, Any]
) -> AskedMeasures:
    limit = _least(*(first.get(name) for name in group.get("names", ())))
    return _asked(group, limit, changes.get("measures", {}))


def _asked(
    group: Mapping[str, Any], limit: int | None, smaller: Mapping[str, Any]
) -> AskedMeasures:
    default = AskedMeasures()
    names = tuple(group.get("names", default.names))
    params = {key: value for key, value in group.items() if key not in _OWN}
    return AskedMeasures(
        names=names,
        checkpoints=tuple(group.get("checkpoints", default.checkpoints)),
        first=_least(group.get("first", default.first), limit),
        params={key: smaller.get(key, value) for key, value in params.items()},
    )


def _least(*counts: int | None) -> int | None:
    """The smallest that is given."""
    return min((count for count in counts if count is not None), default=None)


@cache
def _names() -> tuple[str, ...]:
    folder = files("bench") / "suites"
    return tuple(sorted(e.name[:-5] for e in folder.iterdir() if e.name.endswith(".toml")))


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((files("bench") / "suites" / f"{name}.toml").read_text())
