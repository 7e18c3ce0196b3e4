"""The table of training costs, what it says of papers' claims, and its .csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import pandas as pd

from bench.records import RunRecord
from bench.report.columns import number, setting_cells
from bench.report.cost import GroupCost, Machine, RunCost, costs, mean
from bench.report.export import Notes, Table
from bench.report.formatting import MISSING, eps_text
from bench.report.groups import Setting
from bench.report.published import REFERENCE, published_papers
from bench.report.revisions import code_facts
from bench.report.rows import Section, status

SAME = 1.25
"""Costs that differ by no larger factor count as about the same."""
COST_LEGEND = (
    "Forward, backward: passes through the network per image and epoch, counted while training; "
    "mean over the seeds. Relative passes: both kinds together, each counted as one. Seconds: of "
    "the training steps, per image, without validation; relative only to runs on an equal machine "
    "(device, processor, threads) at equal batch size and precision. \u00b1: standard deviation "
    f"over seeds. {MISSING}: not on record, or nothing to compare with."
)
_COLUMNS = (
    *("dataset", "arch", "recipe", "norm", "eps", "method", "label", "seed", "status"),
    *("forward_per_image", "backward_per_image", "first_layer_per_image", "seconds_per_epoch"),
    *("images_per_second", "passes_relative", "seconds_relative"),
    *("reference", "device", "processor", "threads", "run_id"),
)
_RULE = (
    f"About the same: between {1 / SAME:.2f} and {SAME:.2f} times. Passes are counted, so they do "
    "not depend on the machine; seconds are from a machine that other work may have shared, so a "
    "small difference in them means nothing."
)


def cost_table(section: Section) -> Table:
    """Return a row per way of training."""
    found, notes = costs(section), Notes()
    letters = _letters(found)
    several = sum(cost.group.method == REFERENCE and bool(cost.runs) for cost in found) > 1
    lines = [_line(cost, letters, several, notes) for cost in found]
    heads = [
        *("Method", "Forward", "Backward", f"Passes, relative to {REFERENCE}"),
        *(f"Seconds, relative to {REFERENCE}", "Images per second (machine)", "Seeds"),
    ]
    text = pd.DataFrame(lines, columns=heads, dtype=object)
    return Table(text=text, notes=tuple(notes.texts))


def _line(cost: GroupCost, letters: dict[Machine, str], several: bool, notes: Notes) -> list[str]:
    group, total, n = cost.group, len(cost.group.runs), len(cost.runs)
    states = [
        f"{group.label}{f', seed {run.seed}' * (total > 1)}: {status(run)}."
        for run in group.runs
        if run.status != "done"
    ]
    name = f"{group.label}{notes.mark(*states)}"
    if not n:
        return [name, *[MISSING] * 6]
    more = fmean(run.first_layer - run.forward for run in cost.runs)
    stem = [f"Also {more:.1f} through only the first layer, which no column counts."]
    relative = notes.mark(f"Relative to {cost.reference}.") if several else ""
    forward = f"{fmean(r.forward for r in cost.runs):.1f}"
    return [
        name,
        f"{forward}{notes.mark(*stem) if more >= 0.05 else ''}",
        f"{fmean(r.backward for r in cost.runs):.1f}",
        f"{_ratio([r.passes_relative for r in cost.runs])}{relative}",
        _seconds(cost, notes),
        _speeds(cost.runs, letters),
        str(n) if n == total else f"{n} of {total}",
    ]


def _ratio(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return MISSING
    spread = f" \u00b1 {stdev(found):.2f}" if len(found) > 1 else ""
    return f"{fmean(found):.2f}{spread}"


def _seconds(cost: GroupCost, notes: Notes) -> str:
    values = [run.seconds_relative for run in cost.runs]
    n = sum(value is not None for value in values)
    if not cost.reference or n == len(values):
        return _ratio(values)
    where = "" if n == 0 else f", seeds left out: {len(values) - n}"
    reason = f"No {REFERENCE} run on an equal machine at equal batch size and precision{where}."
    return f"{_ratio(values)}{notes.mark(reason)}"


def _letters(found: Sequence[GroupCost]) -> dict[Machine, str]:
    """Return a name for each machine: A to Z, then A1 to Z1, and so on."""
    machines = dict.fromkeys(run.machine for cost in found for run in cost.runs if run.machine)
    return {
        machine: chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "")
        for i, machine in enumerate(machines)
    }


def _speeds(runs: Sequence[RunCost], letters: dict[Machine, str]) -> str:
    """Return `5120 (A), 9400 (B)`: the mean over the seeds of each machine."""
    by_place: dict[str, list[float]] = {}
    for run in runs:
        place = letters[run.machine] if run.machine else "not on record"
        by_place.setdefault(place, []).append(run.images_per_second)
    means = {place: fmean(speeds) for place, speeds in sorted(by_place.items())}
    return ", ".join(f"{v:.{0 if v >= 100 else 1}f} ({place})" for place, v in means.items())


def cost_facts(section: Section, results: str | Path) -> list[str]:
    """Return whether papers' claims on cost hold, and the machines; `results` names the folder."""
    found = costs(section)
    trained = [run for group in section.groups if not group.outside for run in group.runs]
    lines = []
    for table in published_papers():
        own = [cost for cost in found if cost.group.method in table.own and cost.reference]
        if own and table.cost_claim:
            lines += [f"{table.cost_claim} {' '.join(map(_verdict, own))}", _RULE]
    if not lines and trained and not any(cost.reference for cost in found):
        lines.append(_no_reference(section.setting, trained, results))
    lines += [f"Machine {letter}: {machine}." for machine, letter in _letters(found).items()]
    rows = [(cost.group.label, [run.run for run in cost.runs]) for cost in found]
    return lines + (code_facts(rows) if sum(len(runs) for _, runs in rows) > 1 else [])


def _verdict(cost: GroupCost) -> str:
    passes, seconds = cost.passes_relative, cost.seconds_relative
    assert passes is not None
    own = mean(run.passes for run in cost.runs)
    time = f" and {seconds:.2f} times its seconds" if seconds is not None else ""
    return (
        f"{cost.group.label} takes {own:.1f} passes per image and epoch, {cost.reference} "
        f"{cost.reference_passes:.1f} ({passes:.2f} times){time}: {_outcome(passes, seconds)}."
    )


def _outcome(passes: float, seconds: float | None) -> str:
    work = _word(passes)
    time = work if seconds is None else _word(seconds)
    both = work if work == time else f"{work} by passes, {time} by seconds"
    if work != "about the same":
        return f"{both}, against the claim"
    return f"{both}, as claimed" if work == time else f"{both}; the claim holds only for the passes"


def _word(ratio: float) -> str:
    if ratio > SAME:
        return "more expensive"
    return "cheaper" if ratio < 1 / SAME else "about the same"


def _no_reference(setting: Setting, runs: Sequence[RunRecord], results: str | Path) -> str:
    """Return why nothing is relative, and the command that makes the missing run."""
    missing = f"No {REFERENCE} run in this table has ended, so nothing is relative to it"
    if any(run.method == REFERENCE and run.status == "failed" for run in runs):
        return f"{missing}: its training failed."  # and would again
    run = max(runs, key=lambda run: run.status == "done")
    recipe, eps = run.spec.get("recipe", {}), eps_text(setting.eps)
    options = {
        "--suite": run.provenance.get("suite"),
        "--methods": REFERENCE,
        "--dataset": run.provenance.get("dataset_source") or setting.dataset,
        "--arch": setting.arch,
        "--recipe": setting.recipe,
        "--eps": eps if "/" in eps else run.spec["eps"],
        "--epochs": recipe.get("epochs"),
        "--batch-size": recipe.get("batch_size"),
        "--results": str(results) if str(results) != "results" else None,
    }
    words = " ".join(f"{name} {value}" for name, value in options.items() if value)
    return f"{missing}; `bench run {words}` adds it."


def cost_csv(parts: Sequence[Section]) -> pd.DataFrame:
    """Return a row per training run."""
    rows = [
        {
            **setting_cells(section.setting),
            "method": cost.group.method,
            "label": cost.group.label,
            "seed": run.seed,
            "status": status(run) if run.status != "done" else "done",
            **_numbers(by_id.get(run.run_id), cost.reference),
            "run_id": run.run_id,
        }
        for section in parts
        for cost in costs(section)
        if not cost.group.outside
        for by_id in [{own.run.run_id: own for own in cost.runs}]
        for run in cost.group.runs
    ]
    return pd.DataFrame(rows, columns=_COLUMNS, dtype=object).fillna("")


def _numbers(cost: RunCost | None, reference: str) -> dict[str, str]:
    """Return the cells of a training's numbers; none where it left no cost."""
    if cost is None:
        return {}
    machine = cost.machine
    values = {
        "forward_per_image": cost.forward,
        "backward_per_image": cost.backward,
        "first_layer_per_image": cost.first_layer,
        "seconds_per_epoch": cost.seconds_per_epoch,
        "images_per_second": cost.images_per_second,
        "passes_relative": cost.passes_relative,
        "seconds_relative": cost.seconds_relative,
    }
    return {
        **{name: number(value) for name, value in values.items()},
        "reference": reference,
        "device": machine.device if machine else "",
        "processor": machine.processor if machine else "",
        "threads": str(machine.threads) if machine else "",
    }
