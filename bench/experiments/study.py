"""A study: which models to train on one data set, and how to evaluate them. Without torch.

Suites (bench/experiments/suite.py) consist of studies; options of the command line change them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from bench.eps import parse_eps
from bench.errors import ConfigError
from bench.experiments.tables import Count, one_of
from bench.records.spec import CHECKPOINTS, PRECISIONS, SPLITS

Checkpoint = Annotated[str, one_of("checkpoint", CHECKPOINTS)]
Split = Annotated[str, one_of("split", SPLITS)]
Precision = Annotated[str, one_of("precision", (*PRECISIONS, "auto"))]

OWN_DATA = ("two-gaussians",)
"""Data sets of studies that keep data and recipe, whatever --dataset and --recipe say."""


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """One attack on the checkpoints of every model of a study."""

    name: str
    eps: float | None = None
    checkpoints: tuple[Checkpoint, ...] = CHECKPOINTS
    first: Count | None = None
    """Use only the first N images; None uses all."""
    split: Split = "test"

    @classmethod
    def parse(cls, text: str, **others: Any) -> AttackConfig:
        """Return the attack of `pgd-20`, or of `pgd-20@4/255` with its own radius."""
        name, at, eps = text.partition("@")
        return cls(name=name.strip(), eps=parse_eps(eps) if at else None, **others)


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """Masking checks or other measures of the checkpoints of every model of a study."""

    names: tuple[str, ...] = ()
    """C1 to C14, or names of measures; empty means all checks."""
    checkpoints: tuple[Checkpoint, ...] = ("best",)
    first: Count | None = 1000
    split: Split = "test"
    params: Mapping[str, Any] = field(default_factory=dict)
    """Effort of the checks: steps, samples, restarts; or parameters of the measure."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that `bench run` needs to know of one group of trainings."""

    suite: str
    title: str
    methods: tuple[str, ...]
    arch: str
    dataset: str
    eps: float
    seeds: tuple[int, ...]
    recipe: str
    attacks: tuple[AttackConfig, ...]
    checks: MeasureConfig | None = None
    measures: tuple[MeasureConfig, ...] = ()
    """Other properties of the trained models: margins, landscapes."""
    size: str = ""
    """Size of a suite that comes in several; full is the paper's."""
    surrogate_recipe: str | None = None
    """Recipe of surrogates that are none of the methods, where the study's is not for them."""
    training: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Method -> parameter -> value: what it changes of the recipe's and the method's own."""
    train_size: Count | None = None
    test_size: Count | None = None
    data_root: str | None = None
    precision: Precision = "fp32"
    stage: int = 0
    """Studies of an earlier stage are worked on first."""


def is_variant(name: str, dataset: str) -> bool:
    """Whether a record's data set is the study's: cifar10 and cifar10-q75 are for cifar10."""
    base = dataset.partition("@")[0]
    return name == base or name.startswith(f"{base}-")


def changed(
    study: Study,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    micro_batch: int | None = None,
    dataset: str | None = None,
    seeds: Sequence[str] = (),
    attacks: Sequence[str] = (),
    checks: bool | None = None,
    params: Sequence[str] = (),
    **values: Any,
) -> Study:
    """Return the study with the options of `bench run` applied; raises ConfigError.

    values: of other fields; None or () leaves the study's.
    """
    known = {(attack.name, attack.eps): attack for attack in study.attacks}
    parsed = [AttackConfig.parse(text) for text in attacks]
    if study.dataset in OWN_DATA:
        dataset = values["recipe"] = None
    values |= {
        "dataset": dataset,
        "seeds": _seeds(seeds),
        # the study's own attacks where it has them, else on both checkpoints
        "attacks": tuple(known.get((attack.name, attack.eps), attack) for attack in parsed),
    }
    wanted = study.checks or MeasureConfig() if checks else None
    if checks is None and not attacks:
        wanted = study.checks
    changes = _params(params)
    named = dict.fromkeys([*study.params, *changes])
    training = {"epochs": epochs, "batch_size": batch_size, "micro_batch": micro_batch}
    return replace(
        study,
        **{name: value for name, value in values.items() if value not in (None, ())},
        checks=wanted,
        training={**study.training, **{k: v for k, v in training.items() if v is not None}},
        params={m: {**study.params.get(m, {}), **changes.get(m, {})} for m in named},
    )


def _seeds(texts: Sequence[str]) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(seed) for seed in texts))
    except ValueError:
        raise ConfigError(
            f"--seeds {','.join(texts)}: write whole numbers, such as 0,1,2"
        ) from None


def _params(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return {"trades": {"beta": "1"}} for ["trades.beta=1"]."""
    params: dict[str, dict[str, str]] = {}
    for text in texts:
        target, equals, value = text.partition("=")
        method, dot, name = target.rpartition(".")
        if not (equals and dot and method and name and value):
            raise ConfigError(f"--param {text}: write method.name=value, such as trades.beta=6")
        params.setdefault(method, {})[name] = value
    return params
