"""What each training computed, and how much of Madry AT's that is.

Passes are counted by the engine, and no machine distorts them. Seconds are those of one machine:
two trainings are compared only where they ran on equal ones, in equal batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean
from typing import Any

from bench.records import RunRecord
from bench.report.groups import Group, training_values
from bench.report.published import REFERENCE
from bench.report.rows import Section

_COUNTS = ("forward_per_image", "backward_per_image", "first_layer_per_image")


@dataclass(frozen=True, order=True)
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
    """One training that ended."""

    run: RunRecord
    forward: float
    """Passes an image and epoch."""
    backward: float
    """Passes an image and epoch."""
    first_layer: float
    """Passes an image and epoch through the first layer; those through the whole network too."""
    images_per_second: float
    seconds_per_epoch: float
    machine: Machine | None
    """None where the record does not name it."""
    passes_relative: float | None = None
    """Forward and backward passes in units of the reference's mean."""
    seconds_relative: float | None = None
    """Time an image in units of the reference's mean; None without a comparable run of it."""

    @property
    def passes(self) -> float:
        """Forward and backward passes an image and epoch."""
        return self.forward + self.backward


@dataclass(frozen=True, kw_only=True)
class GroupCost:
    """One way of training."""

    group: Group
    runs: tuple[RunCost, ...]
    """Those that ended, by seed; empty for a model from outside."""
    reference: str = ""
    """Label of the group that this one is relative to; empty where there is none."""
    reference_passes: float | None = None
    """Of the reference, an image and epoch."""

    @property
    def passes_relative(self) -> float | None:
        """Mean over the seeds."""
        return mean(run.passes_relative for run in self.runs)

    @property
    def seconds_relative(self) -> float | None:
        """Mean over the seeds that have it."""
        return mean(run.seconds_relative for run in self.runs)


def mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are there; None without any."""
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


@lru_cache(maxsize=64)
def costs(section: Section) -> tuple[GroupCost, ...]:
    """Of each group of a table, in its order. Every table and file of costs asks for it again."""
    found = [
        GroupCost(group=group, runs=tuple(cost for run in group.runs if (cost := _cost(run))))
        for group in section.groups
    ]
    references = [
        _Reference(cost, training_values(cost.group), _speeds(cost.runs))
        for cost in found
        if cost.group.method == REFERENCE and cost.runs
    ]
    return tuple(_relative(cost, references) for cost in found)


@dataclass(frozen=True)
class _Reference:
    """A group that others are relative to, with what each of them asks of it."""

    cost: GroupCost
    values: Mapping[str, Any]
    """Of its training."""
    seconds: Mapping[Hashable, float]
    """Of an image, mean over its runs under equal conditions."""


def _speeds(runs: Sequence[RunCost]) -> dict[Hashable, float]:
    found = defaultdict(list)
    for run in runs:
        if run.machine is not None:
            found[_conditions(run)].append(1 / run.images_per_second)
    return {conditions: fmean(seconds) for conditions, seconds in found.items()}


def _cost(run: RunRecord) -> RunCost | None:
    """None where the training has not ended, failed, or left no cost."""
    train = run.train or {}
    cost = train.get("cost") or {}
    if any(name not in cost for name in (*_COUNTS, "train_seconds", "images_per_second")):
        return None
    forward, backward, first_layer = (float(cost[name]) for name in _COUNTS)
    return RunCost(
        run=run,
        forward=forward,
        backward=backward,
        first_layer=first_layer,
        images_per_second=float(cost["images_per_second"]),
        seconds_per_epoch=float(cost["train_seconds"]) / int(train["epochs"]),
        machine=_machine(run.provenance.get("machine") or {}, train.get("compiled")),
    )


def _machine(facts: Mapping[str, Any], compiled: object) -> Machine | None:
    """One that attacks compiled networks is another machine."""
    if any(name not in facts for name in ("device", "processor", "threads")):
        return None
    return Machine(
        device=str(facts["device"]),
        processor=str(facts["processor"]),
        threads=int(facts["threads"]),
        compiled="all" if compiled is True else str(compiled or ""),
    )


def _relative(cost: GroupCost, references: Sequence[_Reference]) -> GroupCost:
    if not cost.runs or not references:
        return cost
    values = training_values(cost.group)
    reference = min(references, key=lambda other: _distance(values, other))
    passes = fmean(run.passes for run in reference.cost.runs)
    runs = [
        replace(
            run,
            passes_relative=run.passes / passes,
            seconds_relative=_seconds_relative(run, reference),
        )
        for run in cost.runs
    ]
    label = reference.cost.group.label
    return replace(cost, runs=tuple(runs), reference=label, reference_passes=passes)


def _seconds_relative(run: RunCost, reference: _Reference) -> float | None:
    seconds = reference.seconds.get(_conditions(run))
    return None if seconds is None else 1 / run.images_per_second / seconds


def _distance(one: Mapping[str, Any], reference: _Reference) -> tuple[int, int, str]:
    """The reference that was trained most alike; of equals the one with the most seeds."""
    other, group = reference.values, reference.cost.group
    names = [name for name in one.keys() | other.keys() if not name.startswith("params.")]
    unlike = sum(one.get(name) != other.get(name) for name in names)
    return unlike, -len(group.runs), group.label


def _conditions(run: RunCost) -> Hashable:
    """What must be equal before seconds are compared."""
    spec = run.run.spec
    return run.machine, spec.get("recipe", {}).get("batch_size"), spec.get("precision")
