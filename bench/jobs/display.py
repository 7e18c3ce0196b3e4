"""What the driver shows: each job that is out, and how long the whole takes yet."""

from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic

from bench.estimate import Forecast
from bench.jobs.job import Engine, Job, Shown
from bench.jobs.runs import Run
from bench.progress import Reporter, Task

SHOW_SECONDS = 0.5
"""Time between two looks at what is left."""


@dataclass
class Attempt:
    """A job in the hands of a worker."""

    run: Run
    job: Job
    task: Task
    since: float
    first: int | None = None
    """Unit at which its progress began."""


class Display:
    """A bar or line for all jobs, and a bar for each that is out."""

    def __init__(
        self, reporter: Reporter, engine: Engine, out: dict[int, Attempt], runs: dict[str, Run]
    ) -> None:
        self.reporter, self.engine, self.out, self.runs = reporter, engine, out, runs
        self.forecast, self.n_done = Forecast(), 0
        self.overall = Task(reporter, "jobs", 0, left=self.seconds_left)
        self._shown = 0.0

    def show(self, attempt: Attempt, event: Shown) -> None:
        if attempt.first is None:
            attempt.first, attempt.since = event.done, monotonic()
        task = attempt.task
        task.done, task.total, task.detail = event.done, event.total, event.detail
        if self.reporter.bars is not None:
            self.reporter.show(task)
        self.show_all()

    def show_all(self) -> None:
        overall, now = self.overall, monotonic()
        if now - self._shown >= SHOW_SECONDS:
            self._shown = now
            overall.done = self.n_done
            overall.total = self.n_done + len(self.out) + sum(1 for _ in self._waiting())
            if self.reporter.bars is None:  # which has a bar for each
                overall.detail = "; ".join(attempt.task.text for attempt in self.out.values())
            self.reporter.show(overall)

    def hide(self) -> None:
        self.reporter.hide(self.overall)

    def count(self, job: Job, seconds: float) -> None:
        """Count a job that is done."""
        self.n_done += 1
        self.forecast.add(job.kind, job.work, seconds)

    def seconds_left(self) -> float | None:
        """Return the seconds until all jobs are done, those included that trainings will bring."""
        found = [self._seconds_of(attempt) for attempt in self.out.values()]
        found += [self.forecast.seconds(job.kind, job.work) for job in self._waiting()]
        left = [seconds for seconds in found if seconds is not None]
        if len(left) < len(found) or not left:
            return None
        return max(sum(left) / max(1, self.engine.slots), *left)

    def _waiting(self) -> Iterable[Job]:
        return (job for run in self.runs.values() for job in (*(run.jobs or ()), *run.later))

    def _seconds_of(self, attempt: Attempt) -> float | None:
        """Return what is left of a job that is out, by its own progress if it shows any."""
        passed, task = monotonic() - attempt.since, attempt.task
        if attempt.first is not None and attempt.first < task.done:
            return passed / (task.done - attempt.first) * (task.total - task.done)
        seconds = self.forecast.seconds(attempt.job.kind, attempt.job.work)
        return None if seconds is None else max(0.0, seconds - passed)
