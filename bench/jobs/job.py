"""What the driver hands out, and what comes back. Without torch, so that engines start early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from bench.jobs.parcel import Parcel
from bench.records.spec import EvalSpec, MeasureSpec, TrainSpec

if TYPE_CHECKING:
    import torch

    from bench.experiments.plan import RunPlan
    from bench.jobs.work import Worker


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training, chunks of an evaluation, or measures of one checkpoint. Picklable."""

    run: RunPlan
    """With the one evaluation, or the measures, to make; with neither, train."""
    dataset: int
    """Number of the data set among those that the workers have."""
    chunks: tuple[int, ...] = (0,)
    """Of the evaluation; several where an engine needs long to start a job."""
    work: float = 0.0
    """Estimated effort, as `bench.estimate` counts it."""
    gpus: int = 1
    """Devices of one machine that it takes, with a rank on each."""
    devices: tuple[str, ...] = ()
    """Their names; by default the worker's own and those after it."""

    @cached_property
    def made(self) -> dict[str, EvalSpec | MeasureSpec]:
        """Return what is evaluated or measured, by id; nothing for a training."""
        found: dict[str, EvalSpec | MeasureSpec] = {e.eval_id: e for e in self.run.evaluations}
        return found | {m.measure_id: m for m in self.run.measures}

    @property
    def trains(self) -> bool:
        return not (self.run.evaluations or self.run.measures)

    @property
    def stage(self) -> int:
        """Return when it is needed: jobs of an earlier stage are handed out first."""
        return min(self.run.stages.get(spec_id, 0) for spec_id in self.made or [""])

    @property
    def units(self) -> frozenset[tuple[str, int]]:
        """Return what no two jobs of a run have in common: ids of what is made, and the chunk."""
        return frozenset(product(self.made or [""], self.chunks))

    @cached_property
    def name(self) -> str:
        """Return what no other job of a command is called."""
        return " ".join([self.run.run_id, *self.made, *map(str, self.chunks)])

    @property
    def kind(self) -> tuple[str, ...]:
        """Return what jobs of about the same speed have in common, the general first."""
        spec, (first, *_) = self.run.spec, [*self.made.values(), None]
        network = spec.arch if isinstance(spec, TrainSpec) else spec.model
        if first is None:
            return network, "training", self.run.train_spec.method
        return network, type(first).__name__, first.title

    @property
    def title(self) -> str:
        names = list(dict.fromkeys(spec.title for spec in self.made.values()))
        if not names:
            return f"{self.run.run_id}: training"
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{self.run.run_id} ({self.run.checkpoints[0]}): {names[0]}{more}"


@dataclass(frozen=True)
class Began:
    """A training begins at its first batch, on this machine."""

    machine: Mapping[str, Any]


@dataclass(frozen=True)
class Sent:
    """Files of the run's folder that are worth keeping."""

    parcel: Parcel


@dataclass(frozen=True)
class Trained:
    """The summary of a training that ended; its weights were sent before."""

    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """How far the job is."""

    done: int
    total: int
    detail: str


@dataclass(frozen=True)
class Said:
    """A line for the user."""

    line: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The training, an evaluation or a measure failed; the job goes on with the next, if any."""

    spec_id: str = ""
    """Of the evaluation or measure; empty for the training."""
    line: str
    fixable: bool
    """Whether the user's input is at fault, not the program."""
    traceback: str = ""
    """Of an unforeseen error."""


@dataclass(frozen=True)
class Done:
    """The job ended."""


@dataclass(frozen=True)
class Lost:
    """The worker, or a rank of its training, died; nothing more of this attempt counts."""

    reason: str


Event: TypeAlias = Began | Sent | Trained | Shown | Said | Failed | Done | Lost
Send: TypeAlias = Callable[[Event], None]


class Engine(Protocol):
    """Carries jobs to workers, and events back."""

    whole: bool = False
    """Whether a job takes long to start, so that it gets several chunks."""

    @property
    def held(self) -> Sequence[Job]:
        """Jobs of an earlier command that still run; `submit` follows them."""
        return ()

    slots: int
    """Number of jobs that may run at once."""

    def use(self, device: torch.device, say: Callable[[str], None]) -> None:
        """Compute on this device, or on all GPUs if it is one without a number.

        say: prints a line. Raises ConfigError if that cannot be.
        """

    def begin(self, make: Callable[..., Worker]) -> None:
        """Get ready for jobs. make: returns a worker, given its device and, if it may not work in
        the results folder, `scratch`, a folder of its own; picklable."""

    @property
    def free(self) -> int:
        """Number of jobs that could start now."""

    def submit(self, attempt: int, job: Job) -> None: ...

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        """Pass on (attempt, event) of jobs; wait at most `seconds` for the first."""

    def close(self) -> None:
        """End all workers."""
