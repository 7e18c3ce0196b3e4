"""Recipes: how a model is trained, apart from its method. TOML, each value with its source."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, fields
from functools import cache
from importlib.resources import files
from typing import Any

from bench.errors import ConfigError, refuse_unknown
from bench.experiments.tables import load_toml, read_table
from bench.records.spec import Recipe

VALUES = tuple(f.name for f in fields(Recipe))
_TOP_LEVEL = ("title", "listed_only", "recipe", "dataset", "arch", "method")


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
    return read_table(Recipe, values, f"recipe {name}"), params


def changed_recipe(recipe: Recipe, values: Mapping[str, Any], where: str) -> Recipe:
    """Return the recipe with some values changed; `where` names their origin in an error."""
    return read_table(Recipe, {**asdict(recipe), **values}, where) if values else recipe


def _keys(table: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Collection[str]]]:
    """Yield the name, content and known keys of every table of a recipe's file."""
    values = [*VALUES, "params"]
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
    return load_toml(files("bench") / "recipes" / f"{name}.toml")
