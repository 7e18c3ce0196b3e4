"""What runs on the nodes of a Ray cluster: workers, and the inbox that they send events to."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.errors import BenchError, RecordError, one_line
from bench.jobs.job import Done, Event, Failed, Job, Shown
from bench.storage import sha256

if TYPE_CHECKING:
    from bench.jobs.work import Worker

PREFIX = "atbench-ray-"
"""Of the temporary folders of workers; the number of the process follows."""


class Inbox:
    """What actors sent, on the driver's node, until the driver takes it."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.filled, self.taken = asyncio.Event(), asyncio.Event()

    async def put(self, attempt: int, event: bytes) -> None:
        """Return once the driver took it, so that no worker fills the memory here."""
        self.sent.append((attempt, event))
        self.filled.set()
        await self.taken.wait()

    async def take(self, seconds: float) -> list[tuple[int, bytes]]:
        """Return (attempt, event), once there are any or after some seconds."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.filled.wait(), seconds)
        self.filled.clear()
        self.taken.set()
        self.taken = asyncio.Event()
        sent, self.sent = self.sent, []
        return sent


class Server:
    """A worker on some node, in a process and a temporary folder of its own."""

    def __init__(
        self, inbox: Any, make: Callable[..., Worker], device: str, n_threads: int
    ) -> None:
        import torch

        from bench.machine import tune_process

        # arrays in the object store are read only; nothing writes to a data set
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        tune_process()
        torch.set_num_threads(n_threads)
        self.inbox, self.checked = inbox, False
        temporary = Path(tempfile.gettempdir())
        for left in temporary.glob(f"{PREFIX}*-*"):  # of actors that were killed
            pid = left.name.removeprefix(PREFIX).partition("-")[0]
            if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.worker = make(torch.device(device), scratch=self.folder / "scratch")
        self.worker.results = self.folder / "results"

    def do(
        self,
        attempt: int,
        packed: bytes,
        files: Mapping[str, Any],
        method: tuple[str, bytes] | None,
    ) -> None:
        """Do a job with these files of the results folder, and the file of its method."""
        import ray

        def send(event: Event) -> None:
            put = self.inbox.put.remote(attempt, pickle.dumps(event))
            if not isinstance(event, Shown):
                ray.get(put)

        job: Job = pickle.loads(packed)
        try:
            self._refuse_other_files()
            for name, content in zip(files, ray.get(list(files.values())), strict=True):
                path = self.worker.results / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if method is not None:
                own = self.folder / sha256(method[1])[:16] / method[0]
                own.parent.mkdir(parents=True, exist_ok=True)
                own.write_bytes(method[1])
                job = replace(job, run=replace(job.run, method_name=str(own)))
            self.worker.do(job, send)
        except (BenchError, OSError) as error:  # OSError: this node's disk is full
            fixable = not isinstance(error, RecordError | OSError)
            line = f"{job.title}: {one_line(str(error))} (on {os.uname().nodename})"
            for spec_id in job.made or [""]:
                send(Failed(spec_id=spec_id, line=line, fixable=fixable))
            send(Done())
        finally:
            for left in self.folder.iterdir():
                shutil.rmtree(left, ignore_errors=True)

    def _refuse_other_files(self) -> None:
        """Raise DataError if this node lacks files of the data."""
        from bench.jobs.work import refuse_other_files

        if not self.checked:
            for images in self.worker.images:
                refuse_other_files(images.dataset)
        self.checked = True
