"""The driver on a virtual clock, and the page of `bench run --dry-run --devices`."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from bench.estimate import MEASURE, cost_of
from bench.experiments.plan import Plan
from bench.jobs.costs import HERE, LAUNCH_SECONDS, MODEL, Costs
from bench.jobs.devices import CPU, SHARE, Devices
from bench.jobs.driver import Driver
from bench.jobs.job import Done, Engine, Event, Job, Trained
from bench.jobs.runs import Run
from bench.jobs.work import Worker
from bench.jobs.workspace import Workspace
from bench.listing import aligned
from bench.progress import Reporter, duration
from bench.training.engine import SAVE_SECONDS


@dataclass(frozen=True)
class Span:
    """A job on the virtual clock, in seconds."""

    job: Job
    begin: float
    end: float
    source: str
    """Of its duration."""
    loads: bool
    """Whether its device worked on another run before."""


class VirtualEngine(Engine):
    """Runs no job: each takes the seconds that it is said to take."""

    def __init__(self, slots: int, seconds: Callable[[Job], tuple[float, str]]) -> None:
        """seconds: returns the duration of a job, and its source."""
        self.slots, self._seconds = slots, seconds
        self.now, self.spans = 0.0, list[Span]()
        self._idle = [""] * slots
        """For each idle slot, the run that it worked on last."""
        self._out: list[tuple[float, int, Job]] = []

    def use(self, device: torch.device, say: Callable[[str], None]) -> None: ...

    def begin(self, make: Callable[..., Worker]) -> None: ...

    def close(self) -> None: ...

    @property
    def free(self) -> int:
        return len(self._idle)

    def submit(self, attempt: int, job: Job) -> None:
        own, (seconds, source) = job.run.run_id, self._seconds(job)
        loads = own not in self._idle
        for _ in range(job.gpus):
            self._idle.remove(own if own in self._idle else self._idle[0])
        self.spans.append(Span(job, self.now, self.now + seconds, source, loads))
        heapq.heappush(self._out, (self.now + seconds, attempt, job))

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        self.now, attempt, job = heapq.heappop(self._out)
        self._idle += [job.run.run_id] * job.gpus
        if job.trains:
            take(attempt, Trained({"status": "done"}))
        take(attempt, Done())


class _UnwrittenRun(Run):
    """A run whose folder is read once and never written."""

    def open(self, **_: object) -> bool:
        self.claim = ExitStack()
        return True

    def close(self) -> None: ...

    def list_jobs(self, *args: Any, **options: Any) -> None:
        if self.worked:  # the training is done
            self.jobs, self.later = self.later, []
        else:
            super().list_jobs(*args, **options)

    def _weights_whole(self, checkpoints: Sequence[str]) -> bool:
        is_here = all(self.folder.weights(checkpoint).exists() for checkpoint in checkpoints)
        return self.folder.train_summary() is not None and is_here

    def write_spec(self, *_: object, **__: object) -> None: ...

    def prepare_training(self) -> bool:
        return False

    def finish_training(self, summary: dict[str, Any]) -> None:
        self.status = replace(self.status, trained=True)


class Rehearsal(Driver):
    """The driver, with its order and its dependencies, which writes nothing."""

    make_run = _UnwrittenRun

    def _close(self, run: Run) -> None: ...

    def _finish(self, run: Run, job: Job, seconds: float) -> None:
        run.worked, self.last = True, run.run_id
        if job.trains:
            self._list_jobs(run)
            self.ready.add(run.run_id)


def rehearse(
    plans: Sequence[Plan], where: Workspace, n: int, seconds: Callable[[Job], tuple[float, str]]
) -> list[Span]:
    """Return what the driver would do with n devices, in its order; writes nothing."""
    engine = VirtualEngine(n, seconds)
    quiet = Reporter(quiet=True)
    Rehearsal(plans, replace(where, engine=engine, reporter=quiet, scalars=None), engine).run()
    return engine.spans


def longest_path(spans: Sequence[Span]) -> tuple[float, str]:
    """Return the seconds that no number of devices undercuts, and the jobs that take them."""
    trained = {s.job.run.run_id: s.end - s.begin for s in spans if s.job.trains}
    paths = [(seconds, f"training {run_id}") for run_id, seconds in trained.items()]
    for span in spans:
        if not span.job.trains:
            needed = trained.keys() & {span.job.run.run_id, *span.job.run.surrogates}
            before, run_id = max(((trained[run], run) for run in needed), default=(0.0, ""))
            text = f"training {run_id}, then " * bool(run_id)
            text += span.job.title.removeprefix(f"{run_id} ")
            paths.append((before + span.end - span.begin, text))
    return max(paths)


def describe_devices(plans: Sequence[Plan], where: Workspace, devices: Devices) -> str:
    """Return the page: what is left of the plans on these devices, and what that supposes."""
    costs = Costs(devices, where.results, where.gpus_per_training)
    with where.reporter.task("planning", 0):
        spans = rehearse(plans, where, devices.n, costs.seconds)
    if not spans:
        return f"{plans[0].title}\nNothing is left to do in {where.results}."
    jobs = pd.DataFrame([_facts(span) for span in spans])
    wall, (least, path) = jobs["end"].max(), longest_path(spans)
    busy = jobs["hours"].sum() / (devices.n * wall / 3600)
    rows = [("jobs", "number", f"{'CPU' if devices.name == CPU else 'GPU'} hours", "from")]
    for (what, source), own in jobs.groupby(["what", "source"], sort=False):
        rows.append((str(what), str(len(own)), f"{own['hours'].sum():.3g}", str(source)))
    rows.append(("in all", str(len(jobs)), f"{jobs['hours'].sum():.3g}", ""))
    trained = jobs[jobs["epochs"] > 0]
    out = jobs.loc[jobs["loads"] & (jobs["epochs"] == 0), "weights"].sum()
    facts = [
        ("wall time", f"{duration(wall)}; the devices are busy {busy:.0%} of it"),
        ("longest path", f"{duration(least)}: {path}"),
        (
            *("storage", f"{_size(2 * trained['weights'].sum())} of weights; at most "),
            f"{_size(3 * trained['weights'].nlargest(devices.n).sum())} while training",
        ),
        ("transfer", f"at most {_size(jobs['sent'].sum())} to the driver, {_size(out)} from it"),
    ]
    facts = [(name, "".join(text)) for name, *text in facts]
    if busy < 0.5 and least > 0.9 * wall and devices.name != CPU:
        facts.append(("advice", "fewer GPUs take as long; --gpus-per-training shortens the path"))
    found = set(jobs["source"])
    title = f"{plans[0].title}\nOn {devices}: {'an estimate' if MODEL in found else 'a plan'}"
    notes = [line for plan in plans for line in plan.dataset.notes().get("notes", ())]
    assumed = "\n".join(f"- {line}" for line in [*_assumptions(found, costs), *notes])
    return f"{title}\n{aligned(rows)}\n\n{aligned(facts)}\n\nAssumed:\n{assumed}"


def _facts(span: Span) -> dict[str, object]:
    """Return a job's row; sizes in bytes."""
    job, seconds = span.job, span.end - span.begin
    weights, epochs = 4 * cost_of(job.run.train_spec).n_parameters, 0
    what = "checks and other measures" if job.run.measures else "chunks under attack"
    if job.trains:
        what, epochs = "trainings", job.run.train_spec.recipe.epochs
    n_sent = 2 * seconds / SAVE_SECONDS + 3 * epochs + 2  # with momentum; the best; at the end
    return {
        "what": what,
        "source": span.source,
        "hours": seconds * job.gpus / 3600,
        "end": span.end,
        "loads": span.loads,
        "weights": weights,
        "epochs": epochs,
        "sent": n_sent * weights * job.trains,
    }


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB"


def _assumptions(found: set[str], costs: Costs) -> list[str]:
    """found: the sources of durations."""
    devices, k = costs.devices, costs.gpus_per_training
    lines = ["workers are running, none is lost, and the driver takes no time between jobs"]
    if MODEL in found:
        speed = f"{devices.flops('fp32') / 1e12:.3g} TFLOP/s"
        source = "as --devices says"
        if devices.tflops is None:
            source = f"{SHARE:.0%} of the peak in the data sheet"
        lines.append(
            "estimate: FLOPs of a pass (counted), times the passes of method and attack (counted), "
            f"at {speed} in fp32 ({source}), and {1e6 * LAUNCH_SECONDS:g} us or more per call into "
            "torch; a factor of 2 either way is possible. To measure, run a part on such a device "
            "and name its --results"
        )
    if found & {MODEL, HERE}:
        lines.append(
            "without records, attacks count as if every image survived, the most that they can "
            f"take, and a check or measure as {MEASURE:,} forward passes per image"
        )
    if devices.name == CPU:
        lines.append(f"a device is {costs.threads} thread(s) of a processor like this one")
    if k > 1:
        lines.append(
            f"estimate: {k} GPUs train {1 / costs.ranks_factor:.1f} times as fast as one, as wide "
            "networks may; small ones gain less"
        )
    return [*lines, "transfer: without a shared disk; with one there is next to none"]
