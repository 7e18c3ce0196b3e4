"""What is asked of one model, as specifications: every name and value resolved, before any work."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any

from bench.attacks import attack_params, get_attack
from bench.data import Dataset
from bench.data.dataset import first_images
from bench.errors import ConfigError, refuse_unknown
from bench.evaluation.checks import CHECKS, CheckBudget, check_params, left_out
from bench.experiments.study import AttackConfig, MeasureConfig
from bench.experiments.tables import read_table
from bench.papers import plugins
from bench.records.spec import EvalSpec, MeasureSpec

TWIN = "natural"
"""The method whose network the checks take for undefended."""


@dataclass
class SpecBuilder:
    """Specifications for one data set; `surrogates` maps a source's name to the run that it is."""

    dataset: Dataset
    _hashes: dict[tuple[str, int], str] = field(default_factory=dict, repr=False)

    def evaluations(
        self, attacks: Iterable[AttackConfig], eps: float, surrogates: Mapping[str, str]
    ) -> tuple[EvalSpec, ...]:
        """Return the attacks on each of their checkpoints; raises ConfigError for too few classes.

        AutoAttack would refuse too few classes itself, but after the training. Nothing is refused
        where the model may know more classes than the data show.
        """
        specs: dict[str, EvalSpec] = {}
        for attack in attacks:
            found = get_attack(attack.name)
            if self.dataset.all_classes and self.dataset.num_classes < found.min_classes:
                raise ConfigError(
                    f"attack '{attack.name}' needs at least {found.min_classes} classes and "
                    f"{self.dataset.name} has {self.dataset.num_classes}; "
                    "use --attacks pgd-20,cw"
                )
            runs = [surrogates[source] for source in found.sources]
            for checkpoint in attack.checkpoints:
                spec = EvalSpec(
                    checkpoint=checkpoint,
                    attack=attack.name,
                    params=attack_params(attack.name) | ({"surrogates": runs} if runs else {}),
                    eps=eps if attack.eps is None else attack.eps,
                    split=attack.split,
                    **self._first(attack.split, attack.first),
                )
                specs[spec.eval_id] = spec
        return tuple(specs.values())

    def checks(
        self, asked: MeasureConfig, eps: float, surrogates: Mapping[str, str]
    ) -> tuple[MeasureSpec, ...]:
        """Return the masking checks that can be made on this data set with these surrogates."""
        budget = read_table(CheckBudget, asked.params, "[checks]")
        refuse_unknown("check", asked.names, CHECKS)
        runs = [surrogates[TWIN]] if TWIN in surrogates else []
        absent = left_out(len(runs), self.dataset.num_classes)
        return self._specs(
            asked,
            eps,
            {
                number: check_params(number, budget)
                | ({"surrogates": runs} if runs and CHECKS[number].uses_surrogate else {})
                for number in asked.names or CHECKS
                if number not in absent
            },
        )

    def measures(self, asked: MeasureConfig, eps: float) -> tuple[MeasureSpec, ...]:
        """Return other properties: margins, landscapes.

        Raises ConfigError for an unknown one, and for a parameter that it does not have.
        """
        refuse_unknown("measure", asked.names, plugins("measures"))
        for name in asked.names:
            refuse_unknown(f"key ([[measures]], {name})", asked.params, _keys(name))
        return self._specs(asked, eps, dict.fromkeys(asked.names, asked.params))

    def _specs(
        self, asked: MeasureConfig, eps: float, params: Mapping[str, Mapping[str, Any]]
    ) -> tuple[MeasureSpec, ...]:
        images = {"split": asked.split, **self._first(asked.split, asked.first)}
        return tuple(
            MeasureSpec(checkpoint=checkpoint, name=name, params=dict(own), eps=eps, **images)
            for checkpoint in asked.checkpoints
            for name, own in params.items()
        )

    def _first(self, split: str, first: int | None) -> dict[str, Any]:
        images = getattr(self.dataset, split)
        n = min(first or len(images), len(images))
        if (split, n) not in self._hashes:
            self._hashes[split, n] = first_images(images, n).sha256
        return {"n_examples": n, "data_sha256": self._hashes[split, n]}


def all_sources(attacks: Sequence[AttackConfig], checks: MeasureConfig | None) -> list[str]:
    """Return the surrogates of all attacks and, for the checks, the undefended twin; each once."""
    wanted = [source for attack in attacks for source in get_attack(attack.name).sources]
    return list(dict.fromkeys([*wanted, *([TWIN] if checks else [])]))


def _keys(measure: str) -> list[str]:
    """Keys of a suite's `[[measures]]` that asks for it: the parameters of its function, and ours.

    The function's first parameter is the model.
    """
    parameters = list(signature(plugins("measures")[measure][0]).parameters)[1:]
    return [*(f.name for f in fields(MeasureConfig) if f.name != "params"), *parameters]
