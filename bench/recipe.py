"""Recipes: how a model is trained, apart from its method. TOML, each value with its source.

Values are hashed into the run id, so never change a default. Mark a new field `later`: at its
default it is left out of the hash, and old ids stay valid.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
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
    """Resolved values; every one of them can change the weights."""

    epochs: int
    batch_size: int
    micro_batch: int | None = field(default=None, metadata=_LATER)
    """Images per forward pass of a step, whose gradients are summed over the batch; BatchNorm takes
    the statistics of these images. None takes the whole batch at once."""
    lr: float
    """Peak learning rate of SGD."""
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay: str = field(default="all", metadata=_LATER)
    """What it applies to: all parameters, or only the weights of convolutions and linear layers."""
    schedule: str = "multistep"
    """One of multistep, cosine, onecycle; the rate changes per iteration."""
    milestones: tuple[float, ...] = ()
    """For multistep: fractions of the training at which the rate drops."""
    drop: float | tuple[float, ...] = 0.1
    """For multistep: the factor at each milestone; or one fraction of `lr` per milestone."""
    fresh_momentum: bool = field(default=False, metadata=_LATER)
    """For multistep: whether each drop also clears the momentum, like a new optimiser."""
    time_decay: float = field(default=0.0, metadata=_LATER)
    """The rate is divided by 1 + time_decay t, where t is the completed fraction of training."""
    warmup: float = 0.3
    """For onecycle: the fraction of training in which the rate rises."""
    clip: float | None = None
    """Largest norm of the whole gradient; None does not clip."""
    pad: int | None = None
    """Padding of the random crop, in pixels; None takes the data set's."""
    pad_mode: str = "constant"
    """constant (zeros) or reflect."""
    flip: bool | None = None
    """Random horizontal flips; None takes the data set's."""
    eps: float | None = field(default=None, metadata=_LATER)
    """Training radius for a study at 8/255, scaled in proportion for others; None takes the
    study's. In a TrainSpec it is None: the spec's own eps holds the result."""

    def __post_init__(self) -> None:
        drops = self.drop if isinstance(self.drop, tuple) else (self.drop,)
        n_fits = len(drops) == len(self.milestones) or not isinstance(self.drop, tuple)
        fits = self.micro_batch is None or 2 <= self.micro_batch < self.batch_size
        good_drop = n_fits and all(drop > 0 for drop in drops)
        checks = (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("micro_batch", fits, f"at least 2 and below batch_size = {self.batch_size}"),
            ("lr", self.lr > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("decay", self.decay in DECAYED, f"one of {', '.join(DECAYED)}"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("milestones", all(0 < m <= 1 for m in self.milestones), "fractions in (0, 1]"),
            ("drop", good_drop, "above 0; a number, or a list with one for each milestone"),
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

    def identity(self) -> dict[str, Any]:
        """Return the values that enter the run id."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if not (f.metadata.get("later") and getattr(self, f.name) == f.default)
        }

    def replaced(self, values: Mapping[str, Any], where: str) -> Recipe:
        """Return the recipe with some values changed; `where` names their origin in an error."""
        refuse_unknown(f"recipe value ({where})", values, recipe_values())
        frozen: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return replace(self, **frozen)


def recipe_values() -> list[str]:
    return [field.name for field in fields(Recipe)]


def list_recipes() -> list[str]:
    folder = files("bench") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_title(name: str) -> str:
    return str(_table(name)["title"])


def load_recipe(
    name: str, *, arch: str, dataset: str, method: str
) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe's values for one training, and the parameters it sets for the method.

    Later tables of the file win: `[recipe]`, `[dataset.NAME]`, `[arch.NAME]`, `[method.NAME]`,
    `[method.NAME.arch.NAME]`. A sub-table `params` goes to the method. With `listed_only = true`
    a file is only for the methods that have a table in it. Raises ConfigError for other methods,
    and for an unknown key anywhere in the file.
    """
    refuse_unknown("recipe", [name], list_recipes())
    table = _table(name)
    for part, keys, known in _keys(table):
        refuse_unknown(f"key (recipe {name}, {part})", keys, known)
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


def _keys(table: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Collection[str]]]:
    """Yield the name, content and known keys of every table of a recipe's file."""
    values = [*recipe_values(), "params"]
    yield "top level", table, _TOP_LEVEL
    yield "[recipe]", table["recipe"], values
    for kind in ("dataset", "arch"):
        for name, changes in table.get(kind, {}).items():
            yield f"[{kind}.{name}]", changes, values
    for method, changes in table.get("method", {}).items():
        yield f"[method.{method}]", changes, [*values, "arch"]
        for arch, own in changes.get("arch", {}).items():
            yield f"[method.{method}.arch.{arch}]", own, values


@cache
def _table(name: str) -> Mapping[str, Any]:
    return tomllib.loads((files("bench") / "recipes" / f"{name}.toml").read_text())
