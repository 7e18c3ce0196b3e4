"""Recipes: how a model is trained, apart from its method. TOML, each value with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from typing import Any

from bench.errors import ConfigError, unknown_name

SCHEDULES = ("multistep", "cosine", "onecycle")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The resolved values; every one of them can change the weights."""

    epochs: int
    """Passes over the training split."""
    batch_size: int
    """Images a step."""
    lr: float
    """Peak learning rate of SGD."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 5e-4
    """L2 penalty of SGD, on all parameters."""
    schedule: str = "multistep"
    """One of multistep, cosine, onecycle; the rate changes per iteration."""
    milestones: tuple[float, ...] = ()
    """For multistep: fractions of the training at which the rate is multiplied by `drop`."""
    drop: float = 0.1
    """For multistep: the factor at each milestone."""
    warmup: float = 0.3
    """For onecycle: the fraction of the training in which the rate rises."""
    clip: float | None = None
    """Largest norm of the whole gradient; None leaves it as it is."""
    pad: int | None = None
    """Padding of the random crop, in pixels; None takes the data set's own."""
    pad_mode: str = "constant"
    """constant (zeros) or reflect."""
    flip: bool | None = None
    """Random horizontal flips; None takes the data set's own."""

    def __post_init__(self) -> None:
        checks = (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", self.lr > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("milestones", all(0 < m <= 1 for m in self.milestones), "fractions in (0, 1]"),
            ("warmup", 0 <= self.warmup < 1, "in [0, 1)"),
            ("clip", self.clip is None or self.clip > 0, "above 0"),
            ("pad", self.pad is None or self.pad >= 0, "at least 0"),
            ("pad_mode", self.pad_mode in ("constant", "reflect"), "constant or reflect"),
        )
        for name, good, allowed in checks:
            if not good:
                raise ConfigError(f"{name} = {getattr(self, name)} is out of range: {allowed}")

    def replaced(self, values: Mapping[str, Any], where: str) -> Recipe:
        """This recipe with some values changed; `where` names their origin in an error."""
        known = {field.name for field in fields(self)}
        for name in values:
            if name not in known:
                raise unknown_name(f"recipe value ({where})", name, known)
        return replace(self, **{name: _frozen(value) for name, value in values.items()})


def list_recipes() -> list[str]:
    """Names of the recipes in the package."""
    folder = files("bench") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(
    name: str, *, arch: str, dataset: str, method: str
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe's values for one cell, and the parameters it sets for the method.

    Later tables of the file win: `[recipe]`, `[dataset.NAME]`, `[arch.NAME]`, and
    `[method.NAME]`, whose sub-table `params` goes to the method.
    """
    if name not in list_recipes():
        raise unknown_name("recipe", name, list_recipes())
    table = tomllib.loads((files("bench") / "recipes" / f"{name}.toml").read_text())
    values: dict[str, Any] = dict(table["recipe"])
    values |= table.get("dataset", {}).get(dataset, {})
    values |= table.get("arch", {}).get(arch, {})
    own = dict(table.get("method", {}).get(method, {}))
    params = own.pop("params", {})
    values |= own
    required = {name: values.pop(name) for name in ("epochs", "batch_size", "lr")}
    return Recipe(**required).replaced(values, f"recipe {name}"), params


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
