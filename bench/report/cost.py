"""What each training computed, and how much of Madry AT's that is.

Passes are counted by the engine, and no machine distorts them. Seconds are those of one machine:
two trainings are compared only where they ran on equal ones, in equal batches.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from bench.records import RunRecord
from bench.report.export import Notes, Table
from bench.report.formatting import MISSING, eps_text
from bench.report.groups import Group, Setting, training_values
from bench.report.published import REFERENCE
from bench.report.revisions import code_facts
from bench.report.rows import Section, status

SAME = 1.25
"""Costs that differ by no larger factor count as about the same."""
COST_LEGEND = (
    "Forward, backward: passes through the network per image and epoch, counted while training; "
    "mean over the seeds, \u00b1 their standard deviation. Relative passes: both kinds together, "
    "each counted as one. Seconds: of the training steps, per image, without validation; relative "
    "only to runs on an equal machine (device, processor, threads) at equal batch size and "
    "precision. Speeds are the fastest seed's, since other work on the machine only slows a "
    f"training down. {MISSING}: not on record, or nothing to compare with."
)
_NUMBERS = (
    *("forward_per_image", "backward_per_image", "first_layer_per_image", "seconds_per_epoch"),
    *("images_per_second", "passes_relative", "seconds_relative"),
)
"""Of `RunCost`, in cost.csv."""
_FACTS = ("device", "processor", "threads")
"""Of a machine, in cost.csv."""


@dataclass(frozen=True)
class Machine:
    """What decides how long a pass takes, as far as a record knows."""

    device: str
    processor: str
    threads: int
    compiled: str = ""
    """Of the attacks: all, partly; empty for none."""

    def __str__(self) -> str:
        host = f"{self.processor or 'unnamed processor'}, {self.threads} thread"
        host += "s" * (self.threads != 1)
        named = host if self.device == "cpu" else f"{self.device} (host: {host})"
        return f"{named}, attacks compiled ({self.compiled})" if self.compiled else named


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """One training that ended. Passes are per image and epoch."""

    run: RunRecord
    forward_per_image: float
    backward_per_image: float
    first_layer_per_image: float
    """Passes through the first layer; those through the whole network too."""
    images_per_second: float
    seconds_per_epoch: float
    machine: Machine | None
    """None where the record does not name it."""
    passes_relative: float | None = None
    """Forward and backward passes in units of the reference's mean."""
    seconds_relative: float | None = None
    """Time per image in units of the reference's least; None without a comparable run of it."""

    @property
    def passes(self) -> float:
        """Forward and backward passes."""
        return self.forward_per_image + self.backward_per_image

    @property
    def conditions(self) -> Hashable:
        """What must be equal before seconds are compared; None where the machine is unknown."""
        spec = self.run.spec
        batch_size = spec.get("recipe", {}).get("batch_size")
        return self.machine and (self.machine, batch_size, spec.get("precision"))


@dataclass(frozen=True, kw_only=True)
class GroupCost:
    """One way of training."""

    group: Group
    runs: tuple[RunCost, ...]
    """Those that ended, by seed; empty for a model from outside."""
    reference: str = ""
    """Label of the group that this one is relative to; empty where there is none."""
    reference_passes: float | None = None

    def values(self, name: str) -> list[float]:
        """Return a number of `RunCost` of the seeds that have it."""
        return [value for run in self.runs if (value := getattr(run, name)) is not None]

    @property
    def passes_relative(self) -> float | None:
        """Mean over the seeds."""
        found = self.values("passes_relative")
        return fmean(found) if found else None

    @property
    def seconds_relative(self) -> float | None:
        """Of the fastest seed: other work on the machine only slows a training down."""
        return min(self.values("seconds_relative"), default=None)


@lru_cache(maxsize=64)
def costs(section: Section) -> tuple[GroupCost, ...]:
    """Return the cost of each group of a table, in its order."""
    found = [
        GroupCost(group=group, runs=tuple(cost for run in group.runs if (cost := _cost(run))))
        for group in section.groups
    ]
    references = [
        (cost, training_values(cost.group))
        for cost in found
        if cost.group.method == REFERENCE and cost.runs
    ]
    return tuple(_relative(cost, references) if cost.runs else cost for cost in found)


def _cost(run: RunRecord) -> RunCost | None:
    """Return None where the training has not ended, failed, or left no cost."""
    train, machine = run.train or {}, run.provenance.get("machine") or {}
    cost, compiled = train.get("cost") or {}, train.get("compiled")
    names = (*_NUMBERS[:3], "images_per_second")
    if any(name not in cost for name in (*names, "train_seconds")):
        return None
    known = all(name in machine for name in _FACTS)
    return RunCost(
        run=run,
        **{name: float(cost[name]) for name in names},
        seconds_per_epoch=float(cost["train_seconds"]) / int(train["epochs"]),
        # one that attacks compiled networks is another machine
        machine=Machine(
            device=str(machine["device"]),
            processor=str(machine["processor"]),
            threads=int(machine["threads"]),
            compiled="all" if compiled is True else str(compiled or ""),
        )
        if known
        else None,
    )


def _relative(
    cost: GroupCost, references: Sequence[tuple[GroupCost, Mapping[str, Any]]]
) -> GroupCost:
    """Compare with the reference that was trained most alike; of equals the one of most seeds."""
    own = training_values(cost.group)

    def unlike(reference: tuple[GroupCost, Mapping[str, Any]]) -> tuple[int, int, str]:
        group, values = reference[0].group, reference[1]
        names = [name for name in own.keys() | values.keys() if not name.startswith("params.")]
        n_unlike = sum(own.get(name) != values.get(name) for name in names)
        return n_unlike, -len(group.runs), group.label

    if not references:
        return cost
    reference, _ = min(references, key=unlike)
    passes, runs = fmean(reference.values("passes")), []
    speeds: dict[Hashable, list[float]] = {}
    for one in reference.runs:
        speeds.setdefault(one.conditions, []).append(1 / one.images_per_second)
    for run in cost.runs:
        alike = speeds.get(run.conditions) if run.conditions else None
        relative = 1 / run.images_per_second / min(alike) if alike else None
        runs.append(replace(run, passes_relative=run.passes / passes, seconds_relative=relative))
    label = reference.group.label
    return replace(cost, runs=tuple(runs), reference=label, reference_passes=passes)


def cost_table(section: Section) -> Table:
    """Return a row per way of training."""
    found, notes = costs(section), Notes()
    letters = _letters(found)
    several = sum(cost.group.method == REFERENCE and bool(cost.runs) for cost in found) > 1
    heads = [
        *("Method", "Forward", "Backward", f"Passes, relative to {REFERENCE}"),
        *(f"Seconds, relative to {REFERENCE}", "Images per second (machine)", "Seeds"),
    ]
    lines = [_line(cost, letters, several, notes) for cost in found]
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
    forward = fmean(cost.values("forward_per_image"))
    more = fmean(cost.values("first_layer_per_image")) - forward
    stem = [f"Also {more:.1f} through only the first layer, which no column counts."]
    relative = notes.mark(f"Relative to {cost.reference}.") if several else ""
    lacks = n - len(cost.values("seconds_relative"))
    where = f", seeds left out: {lacks}" if lacks < n else ""
    unlike = f"No {REFERENCE} run on an equal machine at equal batch size and precision{where}."
    return [
        name,
        f"{forward:.1f}{notes.mark(*stem) if more >= 0.05 else ''}",
        f"{fmean(cost.values('backward_per_image')):.1f}",
        f"{_ratio(cost.values('passes_relative'))}{relative}",
        (MISSING if cost.seconds_relative is None else f"{cost.seconds_relative:.2f}")
        + (notes.mark(unlike) if cost.reference and lacks else ""),
        _speeds(cost.runs, letters),
        str(n) if n == total else f"{n} of {total}",
    ]


def _ratio(values: Sequence[float]) -> str:
    spread = f" \u00b1 {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{spread}" if values else MISSING


def _letters(found: Iterable[GroupCost]) -> dict[Machine, str]:
    """Return a name for each machine: A to Z, then A1 to Z1, and so on."""
    machines = dict.fromkeys(run.machine for cost in found for run in cost.runs if run.machine)
    return {
        machine: chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "")
        for i, machine in enumerate(machines)
    }


def _speeds(runs: Sequence[RunCost], letters: Mapping[Machine, str]) -> str:
    """Return `5120 (A), 9400 (B)`: the fastest seed of each machine."""
    by_place: dict[str, list[float]] = {}
    for run in runs:
        place = letters[run.machine] if run.machine else "not on record"
        by_place.setdefault(place, []).append(run.images_per_second)
    fastest = {place: max(speeds) for place, speeds in sorted(by_place.items())}
    return ", ".join(f"{v:.{0 if v >= 100 else 1}f} ({place})" for place, v in fastest.items())


def cost_facts(section: Section, results: str | Path) -> list[str]:
    """Return the machines and what is missing for a comparison; `results` names the folder."""
    found = costs(section)
    trained = [run for group in section.groups if not group.outside for run in group.runs]
    lines = []
    if trained and not any(cost.reference for cost in found):
        lines.append(_no_reference(section.setting, trained, results))
    lines += [f"Machine {letter}: {machine}." for machine, letter in _letters(found).items()]
    rows = [(cost.group.label, [run.run for run in cost.runs]) for cost in found]
    return lines + (code_facts(rows) if sum(len(runs) for _, runs in rows) > 1 else [])


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
    """Return a row per training run; the numbers of one that left no cost are empty."""
    rows = []
    for section in parts:
        setting = {**asdict(section.setting), "eps": f"{section.setting.eps:.9g}"}
        for cost in costs(section):
            by_id = {own.run.run_id: own for own in cost.runs}
            for run in () if cost.group.outside else cost.group.runs:
                state = "done" if run.status == "done" else status(run)
                named = {"method": cost.group.method, "label": cost.group.label}
                own = by_id.get(run.run_id)
                numbers = {name: getattr(own, name, None) for name in _NUMBERS}
                cells = {k: "" if v is None else f"{v:.6g}" for k, v in numbers.items()}
                machine = own.machine if own else None
                facts = {name: getattr(machine, name, "") for name in _FACTS}
                cells |= {"reference": cost.reference if own else "", **facts}
                row = {**setting, **named, "seed": run.seed, "status": state, **cells}
                rows.append({**row, "run_id": run.run_id})
    return pd.DataFrame(rows, dtype=object).fillna("")
