"""The engine for one worker: jobs run in the driver's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.jobs.job import Engine, Event, Job

if TYPE_CHECKING:
    import torch

    from bench.jobs.work import Worker


class HereEngine(Engine):
    """Runs one job at a time, while it is polled."""

    slots = 1

    def __init__(self) -> None:
        self._next: tuple[int, Job] | None = None

    def use(self, device: torch.device, say: Callable[[str], None]) -> None:
        self._device = device

    def begin(self, make: Callable[..., Worker]) -> None:
        self._worker = make(self._device)

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
