"""The engine for one worker: jobs run in the driver's own process."""

from collections.abc import Callable

from bench.jobs.job import Event, Job
from bench.jobs.work import Worker


class HereEngine:
    """Runs one job at a time, while it is polled."""

    slots = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._next: tuple[int, Job] | None = None

    @property
    def free(self) -> int:
        return int(self._next is None)

    def submit(self, attempt: int, job: Job) -> None:
        self._next = attempt, job

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        if self._next is not None:
            (attempt, job), self._next = self._next, None
            self._worker.do(job, lambda event: take(attempt, event))

    def close(self) -> None:
        """Nothing outlives a job."""
