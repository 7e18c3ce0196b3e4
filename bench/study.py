"""A study: which models to train and which attacks to run on them. Read from a suite, then changed
by the command line. Without torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from bench.eps import parse_eps
from bench.errors import ConfigError, unknown_name
from bench.spec import CHECKPOINTS


@dataclass(frozen=True, kw_only=True)
class AskedAttack:
    """One attack on the checkpoints of every model of a study."""

    name: str
    """Of the attack."""
    eps: float | None = None
    """None is the eps of the training."""
    checkpoints: tuple[str, ...] = CHECKPOINTS
    first: int | None = None
    """Only the first so many images; None is all."""
    split: str = "test"
    """The images: test, or train."""

    @classmethod
    def parse(cls, text: str, **others: Any) -> AskedAttack:
        """`pgd-20`, or `pgd-20@4/255` for an eps of its own."""
        name, _, eps = text.partition("@")
        return cls(name=name.strip(), eps=parse_eps(eps) if eps else None, **others)


@dataclass(frozen=True, kw_only=True)
class AskedMeasures:
    """Masking checks or other measures of the checkpoints of every model of a study."""

    names: tuple[str, ...] = ()
    """C1 to C14, or of measures; empty is all checks."""
    checkpoints: tuple[str, ...] = ("best",)
    first: int | None = 1000
    """Only the first so many test images."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """How far the checks go: steps, samples, restarts; or parameters of the measure."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that `bench run` needs to know."""

    suite: str
    title: str
    methods: tuple[str, ...]
    arch: str
    dataset: str
    eps: float
    seeds: tuple[int, ...]
    recipe: str
    attacks: tuple[AskedAttack, ...]
    checks: AskedMeasures | None = None
    """The masking checks; None is none."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Values of the recipe that the suite or the command line changes."""
    params: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Method -> parameter -> value, from the command line."""
    train_size: int | None = None
    test_size: int | None = None
    data_root: str | None = None
    precision: str = "fp32"


def list_suites() -> list[tuple[str, str]]:
    """Names and titles of the suites in the package."""
    folder = files("bench") / "suites"
    names = sorted(e.name[:-5] for e in folder.iterdir() if e.name.endswith(".toml"))
    return [(name, str(_table(name)["title"])) for name in names]


def load_suite(name: str) -> Study:
    """The suite as it stands in the package."""
    if name not in dict(list_suites()):
        raise unknown_name("suite", name, dict(list_suites()))
    table = _table(name)
    attacks = [
        AskedAttack.parse(
            text,
            checkpoints=tuple(group.get("checkpoints", CHECKPOINTS)),
            first=group.get("first"),
            split=group.get("split", "test"),
        )
        for group in table["attacks"]
        for text in group["names"]
    ]
    return Study(
        suite=name,
        title=table["title"],
        methods=tuple(table["methods"]),
        arch=table["arch"],
        dataset=table["dataset"],
        eps=parse_eps(str(table["eps"])),
        seeds=tuple(table["seeds"]),
        recipe=table["recipe"],
        attacks=tuple(attacks),
        checks=_measures(table["checks"]) if "checks" in table else None,
        training=table.get("training", {}),
    )


def _measures(table: Mapping[str, Any]) -> AskedMeasures:
    default = AskedMeasures()
    return AskedMeasures(
        names=tuple(table.get("names", default.names)),
        checkpoints=tuple(table.get("checkpoints", default.checkpoints)),
        first=table.get("first", default.first),
        params={k: v for k, v in table.items() if k not in ("names", "checkpoints", "first")},
    )


def chosen_attacks(study: Study, names: Sequence[str]) -> tuple[AskedAttack, ...]:
    """The named attacks, as the suite asks for those that it knows; others on both checkpoints."""
    known = {(attack.name, attack.eps): attack for attack in study.attacks}
    asked = [AskedAttack.parse(name) for name in names]
    return tuple(known.get((attack.name, attack.eps), attack) for attack in asked)


def parse_params(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """`["trades.beta=1"]` -> `{"trades": {"beta": "1"}}`."""
    params: dict[str, dict[str, str]] = {}
    for text in texts:
        target, equals, value = text.partition("=")
        method, dot, name = target.rpartition(".")
        if not (equals and dot and method and name and value):
            raise ConfigError(f"--param {text}: write method.name=value, such as trades.beta=6")
        params.setdefault(method, {})[name] = value
    return params


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((files("bench") / "suites" / f"{name}.toml").read_text())
