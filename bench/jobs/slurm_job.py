"""What runs in a Slurm job: a worker in the shared results folder, whose log has its events."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from bench.errors import RecordError
from bench.jobs.job import Began, Done, Event, Failed, Job, Lost, Said, Sent, Shown, Trained
from bench.jobs.parcel import Parcel

if TYPE_CHECKING:
    from bench.jobs.work import Worker

EVENTS = {kind.__name__: kind for kind in (Began, Done, Failed, Lost, Said, Shown, Trained)}
SHOW_SECONDS = 10.0
"""Time between two lines in which a job says how far it is."""


class SlurmJob:
    """What a Slurm job does; submitit pickles it."""

    worker: Worker | None = None

    def __call__(self, job: Job, plan: Path, log: Path, device: str) -> None:
        from bench.machine import choose_device, tune_process

        tune_process()
        worker: Worker = pickle.loads(plan.read_bytes())(choose_device(device))
        folder = plan.parent.parent
        worker.home = worker.results = folder
        self.worker = worker
        shown = 0.0

        def send(event: Event) -> None:
            nonlocal shown
            if isinstance(event, Sent):
                event.parcel.apply(folder / job.run.run_id)
                event = Sent(Parcel())  # that something was done
            if not isinstance(event, Shown) or monotonic() - shown > SHOW_SECONDS:
                shown = monotonic()
                with log.open("a") as file:
                    file.write(_line(event))

        try:
            worker.do(job, send)
        except RecordError as error:  # the disk is full
            send(worker.failed(job, "", error))
            send(Done())

    def checkpoint(self, *args: Any) -> Any:
        """Before the limit: the state is in the results folder, so do the same once more."""
        from submitit.helpers import DelayedSubmission

        if self.worker is not None:
            self.worker.ending = True  # submitit ends the process by SystemExit
        return DelayedSubmission(SlurmJob(), *args)


def _line(event: Event) -> str:
    """Return a line; one that a kill cut off before it does not touch it."""
    fields = {} if isinstance(event, Sent) else asdict(event)
    return "\n" + json.dumps([type(event).__name__, fields]) + "\n"


def events(lines: bytes) -> list[Event]:
    """Return what a job wrote to its log."""
    found: list[Event] = []
    for line in lines.splitlines():
        with suppress(ValueError):  # empty, or cut off
            name, fields = json.loads(line)
            found.append(Sent(Parcel()) if name == "Sent" else EVENTS[name](**fields))
    return found
