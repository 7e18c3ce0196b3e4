"""What `bench run --dry-run` prints: the cells, what is there, and what the rest would take."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.estimate import Speed, measure
from bench.folder import RunFolder
from bench.listing import aligned
from bench.plan import Cell, Plan
from bench.progress import Reporter, duration


def describe_plan(plan: Plan, results: Path, device: torch.device, reporter: Reporter) -> str:
    """A table of cells; measures each kind of unfinished cell once, and writes nothing."""
    rows = [("cell", "training", "evaluations and checks", "time, about")]
    speeds: dict[str, Speed] = {}
    total = 0.0
    with reporter.task("measuring", len(plan.cells)) as task:
        for cell in plan.cells:
            row, seconds = _row(plan, cell, results, device, speeds)
            rows.append(row)
            total += seconds
            task.advance()
    return (
        f"{plan.title}\n{aligned(rows)}\n"
        f"In all about {duration(total)} on {device}; attacks are counted as if no image "
        "broke; masking checks and other measures come on top."
    )


def _row(
    plan: Plan, cell: Cell, results: Path, device: torch.device, speeds: dict[str, Speed]
) -> tuple[tuple[str, str, str, str], float]:
    folder = RunFolder(results, cell.spec.run_id)
    status = cell.status(folder)
    n_all, n_missing = len(cell.evaluations) + len(cell.measures), status.n_missing
    evaluations = f"{n_all - n_missing} of {n_all} done"
    if status.failed:
        return (folder.run_id, "failed before", evaluations, "-"), 0.0
    training = "done" if status.trained else f"{cell.spec.recipe.epochs} epochs"
    if status.finished:
        return (folder.run_id, training, evaluations, "-"), 0.0
    kind = f"{cell.spec.method} {cell.spec.arch}"
    if kind not in speeds:
        speeds[kind] = measure(cell, plan.dataset, folder, device)
    speed = speeds[kind]
    train = 0.0 if status.trained else speed.training(cell)
    attack = sum(speed.evaluation(spec) for spec in status.missing)
    shown = f"{duration(train)} training, {duration(attack)} attacks"
    return (folder.run_id, training, evaluations, shown), train + attack
