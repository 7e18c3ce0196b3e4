"""Recipes: how a model is trained, apart from its method. TOML, each value with its source.

The values enter the run id, so a default is never changed: that would give old records another
meaning. A value that is added to `Recipe` is marked `later`, and while it has its default it does
not enter the id, so that the records from before it keep theirs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

from bench.errors import ConfigError, refuse_unknown

SCHEDULES = ("multistep", "cosine", "onecycle")
DECAYED = ("all", "weights")
_LATER = {"later": True}
_TOP_LEVEL = ("title", "listed_only", "recipe", "dataset", "arch", "method")


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
    """L2 penalty of SGD."""
    decay: str = field(default="all", metadata=_LATER)
    """What it is on: all parameters, or the weights of convolutions and linear layers alone."""
    schedule: str = "multistep"
    """One of multistep, cosine, onecycle; the rate changes per iteration."""
    milestones: tuple[float, ...] = ()
    """For multistep: fractions of the training at which the rate drops."""
    drop: float | tuple[float, ...] = 0.1
    """For multistep: the factor at each milestone; or, for each of them, the share of `lr` from
    there on."""
    fresh_momentum: bool = field(default=False, metadata=_LATER)
    """For multistep: whether each drop also clears the momentum, as a new optimiser does."""
    time_decay: float = field(default=0.0, metadata=_LATER)
    """The rate is divided by 1 + time_decay t, t the fraction of the training that is done."""
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
    eps: float | None = field(default=None, metadata=_LATER)
    """Radius of the training at a study's eps of 8/255, and in proportion at another; None takes
    the study's. A training's specification holds the outcome as its own eps, and None here."""

    def __post_init__(self) -> None:
        checks = (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", self.lr > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("decay", self.decay in DECAYED, f"one of {', '.join(DECAYED)}"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("milestones", all(0 < m <= 1 for m in self.milestones), "fractions in (0, 1]"),
            ("drop", self._drops(), "above 0; a number, or a list with one for each milestone"),
            ("time_decay", self.time_decay >= 0, "at least 0"),
            ("warmup", 0 <= self.warmup < 1, "in [0, 1)"),
            ("clip", self.clip is None or self.clip > 0, "above 0"),
            ("pad", self.pad is None or self.pad >= 0, "at least 0"),
            ("pad_mode", self.pad_mode in ("constant", "reflect"), "constant or reflect"),
            ("eps", self.eps is None or 0 < self.eps <= 1, "above 0 and at most 1"),
        )
        for name, good, allowed in checks:
            if not good:
                raise ConfigError(f"{name} = {getattr(self, name)} is out of range: {allowed}")

    def _drops(self) -> bool:
        if not isinstance(self.drop, tuple):
            return self.drop > 0
        return len(self.drop) == len(self.milestones) and all(share > 0 for share in self.drop)

    def identity(self) -> dict[str, Any]:
        """What enters the run id."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if not (f.metadata.get("later") and getattr(self, f.name) == f.default)
        }

    def replaced(self, values: Mapping[str, Any], where: str) -> Recipe:
        """This recipe with some values changed; `where` names their origin in an error."""
        refuse_unknown(f"recipe value ({where})", values, recipe_values())
        return replace(self, **{name: _frozen(value) for name, value in values.items()})


def recipe_values() -> list[str]:
    """Names of the values that a recipe has."""
    return [field.name for field in fields(Recipe)]


def list_recipes() -> list[str]:
    """Names of the recipes in the package."""
    folder = files("bench") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_title(name: str) -> str:
    """What the recipe is, in a line."""
    return str(_table(name)["title"])


def load_recipe(
    name: str, *, arch: str, dataset: str, method: str
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe's values for one cell, and the parameters it sets for the method.

    Later tables of the file win: `[recipe]`, `[dataset.NAME]`, `[arch.NAME]`, `[method.NAME]`,
    `[method.NAME.arch.NAME]`. A sub-table `params` goes to the method. A file that says
    `listed_only = true` is for the methods that have a table in it: ConfigError for others.
    ConfigError too for a key that no table has, wherever it is in the file.
    """
    refuse_unknown("recipe", [name], list_recipes())
    table = _table(name)
    _refuse_unknown_keys(name, table)
    listed = table.get("method", {})
    if table.get("listed_only") and method not in listed:
        raise ConfigError(
            f"recipe '{name}' has no values for method '{method}', only for {', '.join(listed)}; "
            "choose another recipe, such as common, or add a table to the recipe's file"
        )
    own = listed.get(method, {})
    values: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for layer in (
        table["recipe"],
        table.get("dataset", {}).get(dataset, {}),
        table.get("arch", {}).get(arch, {}),
        own,
        own.get("arch", {}).get(arch, {}),
    ):
        values |= {key: value for key, value in layer.items() if key not in ("params", "arch")}
        params |= layer.get("params", {})
    required = {key: values.pop(key) for key in ("epochs", "batch_size", "lr")}
    return Recipe(**required).replaced(values, f"recipe {name}"), params


def _refuse_unknown_keys(name: str, table: Mapping[str, Any]) -> None:
    values = [*recipe_values(), "params"]

    def check(where: str, found: Iterable[str], known: Collection[str]) -> None:
        refuse_unknown(f"key (recipe {name}, {where})", found, known)

    check("top level", table, _TOP_LEVEL)
    check("[recipe]", table["recipe"], values)
    for kind in ("dataset", "arch"):
        for one, changes in table.get(kind, {}).items():
            check(f"[{kind}.{one}]", changes, values)
    for method, changes in table.get("method", {}).items():
        check(f"[method.{method}]", changes, [*values, "arch"])
        for arch, own in changes.get("arch", {}).items():
            check(f"[method.{method}.arch.{arch}]", own, values)


@cache
def _table(name: str) -> Mapping[str, Any]:
    return tomllib.loads((files("bench") / "recipes" / f"{name}.toml").read_text())


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
