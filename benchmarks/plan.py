"""How well `bench run --dry-run --devices` foresees a real run on worker processes.

The run is planned three ways: before it, from steps measured here; after it, from its records; and
from the recorded duration of each job, which leaves only the order of jobs to be foreseen.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import click

from bench.commands.options import comma_list
from bench.experiments.plan import make_plans
from bench.experiments.study import changed
from bench.experiments.suite import load_suite
from bench.jobs.costs import Costs
from bench.jobs.devices import Devices
from bench.jobs.driver import run_plans
from bench.jobs.job import Done, Event, Job, Lost
from bench.jobs.processes import ProcessesEngine
from bench.jobs.rehearsal import rehearse
from bench.jobs.workspace import Machines, workspace
from bench.listing import aligned

AIM = 0.2
"""A plan is meant to be off by at most this share."""


class Recorded(ProcessesEngine):
    """Worker processes, and how long each of their jobs took."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.seconds: dict[str, float] = {}
        """By the name of a job; that of a lost one goes on counting in its next attempt."""
        self._begun: dict[int, tuple[str, float]] = {}

    def submit(self, attempt: int, job: Job) -> None:
        self._begun[attempt] = job.name, monotonic()
        super().submit(attempt, job)

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        def noted(attempt: int, event: Event) -> None:
            if isinstance(event, Done | Lost):
                name, since = self._begun.pop(attempt)
                self.seconds[name] = self.seconds.get(name, 0.0) + monotonic() - since
            take(attempt, event)

        super().poll(seconds, noted)


class RecordedMachines(Machines):
    """Those of `workspace`, with the engine above."""

    def engine(self, *_: object) -> Recorded:
        return Recorded(self.workers or 1)


@click.command()
@click.option("--workers", default=2, show_default=True, help="Number of worker processes.")
@click.option("--suite", default="digits", show_default=True, help="Suite to plan and to run.")
@click.option("--size", help="Size of the suite.  [full]")
@click.option("--seeds", callback=comma_list, help="Training seeds: 0,1.  [the suite's]")
@click.option("--methods", callback=comma_list, help="Methods: madry,trades.  [the suite's]")
@click.option("--train-size", type=int, help="Only the first N training images.")
@click.option("--test-size", type=int, help="Only the first N test images.")
def main(
    workers: int,
    suite: str,
    size: str | None,
    seeds: tuple[str, ...],
    methods: tuple[str, ...],
    train_size: int | None,
    test_size: int | None,
) -> None:
    """Compare the plan of a suite with a run of it, on a machine that does nothing else.

    \b
    python -m benchmarks.plan                      the digits suite on two workers
    """
    values: dict[str, Any] = {"train_size": train_size, "test_size": test_size}
    values |= {"seeds": seeds, "methods": methods}
    loaded = load_suite(suite, size)
    plans = make_plans(loaded.title, [changed(study, **values) for study in loaded.studies])
    with (
        TemporaryDirectory() as folder,
        workspace(Path(folder, "results"), RecordedMachines(workers=workers), quiet=True) as where,
    ):
        engine, devices = where.engine, Devices(workers, where.device.type)
        assert isinstance(engine, Recorded)
        nothing = replace(where, results=Path(folder, "nothing"))

        def wall(seconds: Callable[[Job], tuple[float, str]]) -> float:
            return max(span.end for span in rehearse(plans, nothing, workers, seconds))

        planned = {"steps measured before": wall(Costs(devices, nothing.results).seconds)}
        since = monotonic()
        run_plans(plans, where)
        real = monotonic() - since
        planned["its records"] = wall(Costs(devices, where.results).seconds)
        planned["durations of its jobs"] = wall(lambda job: (engine.seconds[job.name], "recorded"))
    rows = [("plan from", "seconds", "plan / run"), ("(the run)", f"{real:.1f}", "")]
    rows += [(name, f"{s:.1f}", f"{s / real:.2f}") for name, s in planned.items()]
    click.echo(aligned(rows))
    off = max(abs(seconds / real - 1) for seconds in planned.values())
    click.echo(f"The worst is off by {off:.0%}; the aim is {AIM:.0%}.")


if __name__ == "__main__":
    main()
