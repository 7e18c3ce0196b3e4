"""The trainings of one setting: parameters, curves by epoch, AutoAttack's parts, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.errors import ConfigError
from bench.experiments.recipe import load_recipe
from bench.records import QUANTILES, RunRecord
from bench.report.formatting import MISSING, percent
from bench.report.groups import Group, shown
from bench.report.html.leaderboard import LeaderboardRow, seed_name
from bench.report.model_card import CardAccuracy, cascade
from bench.report.rows import Section, TableRow, status
from bench.report.titles import AUTOATTACK

MAX_EPOCHS = 30_000
"""Of all curves of a section together; seeds after the first are left out beyond it."""
COLUMNS = ("loss", "val_clean", "val_robust", "lr")
_LEVELS = {"smallest": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "largest": 1.0}
"""Quantiles that the page draws."""


def histories(section: Section, found: list[LeaderboardRow]) -> dict[str, list[dict[str, Any]]]:
    """Return by label the columns of each training's history, to three digits more than drawn."""
    runs = [(entry, run) for entry in found for run in entry.row.group.runs if run.history]
    total = sum(len(run.history) for _, run in runs)
    result: dict[str, list[dict[str, Any]]] = {}
    for entry, run in runs:
        own = result.setdefault(entry.name, [])
        if not own or total <= MAX_EPOCHS:
            own.append(_history(run, section.setting.eps))
    return result


def _history(run: RunRecord, eps: float) -> dict[str, Any]:
    columns = {
        name: [_short(epoch.get(name)) for epoch in run.history]
        for name in COLUMNS
        if any(epoch.get(name) is not None for epoch in run.history)
    }
    quantiles = [key for key in run.history[0] if key.endswith("_quantiles")]
    radii = {
        f"{key.removesuffix('_quantiles')}, {name}": [
            _short(epoch[key][QUANTILES.index(level)] / eps) for epoch in run.history
        ]
        for key in quantiles
        for name, level in _LEVELS.items()
        if eps > 0
    }
    return {"seed": seed_name(run), "columns": columns, "radii": radii}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def run_views(section: Section, found: list[LeaderboardRow]) -> list[dict[str, Any]]:
    """Return what the page says about the trainings of each method."""
    return [_view(entry) for entry in found]


def _view(entry: LeaderboardRow) -> dict[str, Any]:
    group, row = entry.row.group, entry.row
    card = group.runs[0].card
    cascades = dict(_cascades(row))
    return {
        "name": entry.name,
        "paper": str(card.get("paper") or ""),
        "objective": str(card.get("objective") or ""),
        "inner": str(card.get("inner") or ""),
        "parameters": changed_parameters(group),
        "recipe": changed_recipe(group),
        "cascades": cascades,
        "runs": [_run(run) for run in group.runs],
    }


def changed_parameters(group: Group) -> tuple[str, dict[str, str]]:
    """Return a heading and the method's parameters: those that differ from the defaults.

    All of them where the record does not hold the defaults.
    """
    spec, card = group.runs[0].spec, group.runs[0].card
    params: Mapping[str, Any] = spec.get("params", {})
    if "defaults" not in card:
        return "Parameters", {name: shown(value) for name, value in params.items()}
    differ = {name: v for name, v in params.items() if card["defaults"].get(name, v) != v}
    texts = {n: f"{shown(v)} (default {shown(card['defaults'][n])})" for n, v in differ.items()}
    return "Parameters that differ from the defaults", texts


def changed_recipe(group: Group) -> tuple[str, dict[str, str]]:
    """Return the recipe's name, and its values that the training changed."""
    spec = group.runs[0].spec
    name, values = str(spec.get("recipe_name", "")), spec.get("recipe", {})
    if not name:
        return "", {}
    places = {key: str(spec.get(key, "")) for key in ("arch", "dataset", "method")}
    try:
        stated = load_recipe(name, **places)[0]
    except ConfigError:  # a recipe of the user's, which is not here
        return name, {}
    own = {key: (getattr(stated, key, value), value) for key, value in values.items()}
    return name, {
        key: f"{shown(value)} (recipe {shown(theirs)})"
        for key, (theirs, value) in own.items()
        if theirs is not None and theirs != (tuple(value) if isinstance(value, list) else value)
    }


def _cascades(row: TableRow) -> list[tuple[str, list[CardAccuracy]]]:
    """Return AutoAttack's parts of each seed: what each left, and how many images it broke."""
    result = []
    for seed in row.seeds:
        records = [row.frame.records[position] for position in seed.positions]
        own = [e for e in records if e.spec.attack == AUTOATTACK and e.n_examples]
        if own:
            evaluation = max(own, key=lambda e: (e.n_examples, e.eval_id)).on(row.index)
            result.append((seed_name(seed.run), list(cascade(evaluation, len(row.index)))))
    return result


def _run(run: RunRecord) -> dict[str, str]:
    """Return one training's row: result, cost, and where it comes from."""
    train, origin = run.train or {}, run.provenance
    best = train.get("checkpoints", {}).get("best", {})
    code, machine = origin.get("code") or {}, origin.get("machine") or {}
    revision = str(code.get("revision") or "")[:7]
    packages = machine.get("packages") or {}
    seconds = (train.get("cost") or {}).get("train_seconds")
    return {
        "seed": seed_name(run),
        "run_id": run.run_id,
        "state": status(run) or "done",
        "best": str(best["epoch"] + 1) if "epoch" in best else MISSING,
        "val": percent(best["val_robust"]) if best.get("val_robust") is not None else MISSING,
        "seconds": MISSING if seconds is None else f"{float(seconds):.0f}",
        "machine": ", ".join(
            part
            for part in (
                str(machine.get("device", "")),
                str(machine.get("processor", "")),
                f"torch {packages['torch']}" if "torch" in packages else "",
            )
            if part
        )
        or MISSING,
        "revision": revision + ("" if code.get("clean", True) else " +") or MISSING,
        "command": str(origin.get("command") or MISSING),
    }
