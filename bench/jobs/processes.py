"""The engine for one machine: a process per GPU, or per share of the CPU cores.

The processes start before the driver has loaded torch, and load it meanwhile.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from os import _exit
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError, RecordError
from bench.jobs.job import Done, Engine, Event, Job, Lost

if TYPE_CHECKING:
    import torch

    from bench.jobs.work import Worker

FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)
END_SECONDS = 5.0
"""After this a process that does not end is killed."""


@dataclass
class _Process:
    """A worker process and its attempt, if it has one."""

    process: SpawnProcess
    pipe: Connection
    scratch: Path
    ready: bool = False
    """Whether it was told how to make its worker."""
    attempt: int | None = None
    run_id: str = ""
    """Of the last job: its data and network are loaded."""


class ProcessesEngine(Engine):
    """A process that dies costs only its own job; another takes its place."""

    def __init__(self, slots: int, per_gpu: int = 1) -> None:
        self.slots, self._per_gpu = slots, per_gpu
        self._folder = Path(tempfile.mkdtemp(prefix="atbench-"))
        self._workers: list[_Process | None] = [None] * slots
        self._lent: dict[int, int] = {}
        """Attempt by the number of a worker whose device another one uses as well."""
        try:
            for number in range(slots):
                self._start(number)
        except BaseException:  # too many files, or Ctrl-C
            self.close()
            raise

    def use(self, device: torch.device, say: Callable[[str], None]) -> None:
        """Give each process the next GPU, or as many CPU threads as the others."""
        import torch

        self._devices = [device]
        if device.type == "cuda":
            if device.index is None:
                self._devices = [
                    torch.device("cuda", number) for number in range(torch.cuda.device_count())
                ]
            n_gpus = len(self._devices)
            if self.slots > (most := n_gpus * self._per_gpu):
                each = -(-self.slots // n_gpus)
                raise ConfigError(
                    f"--workers {self.slots}: there is room for {most} ({n_gpus} GPU"
                    f"{'' if n_gpus == 1 else 's'}, {self._per_gpu} job"
                    f"{'' if self._per_gpu == 1 else 's'} on each); name no more, or run several "
                    f"on a GPU with --per-gpu {each}"
                )
        torch.set_num_threads(max(1, torch.get_num_threads() // self.slots))
        self._threads = torch.get_num_threads()

    def begin(self, make: Callable[..., Worker]) -> None:
        self._make = make

    @property
    def free(self) -> int:
        return len(self._idle())

    def _idle(self) -> list[int]:
        workers = enumerate(self._workers)
        idle = [n for n, worker in workers if worker is None or worker.attempt is None]
        return [n for n in idle if n not in self._lent]

    def submit(self, attempt: int, job: Job) -> None:
        """Give the job to the idle worker that has its network, else to any.

        A job of several devices gets those of other idle workers, which wait for it.
        """
        idle = sorted(self._idle(), key=lambda n: self._rank(n, job.run.run_id))
        number, *others = idle[: job.gpus]
        self._lent |= dict.fromkeys(others, attempt)
        if job.gpus > 1 and len(self._devices) > 1:
            slots = (number, *others, *range(len(self._devices)))
            names = [str(self._devices[n % len(self._devices)]) for n in slots]
            job = replace(job, devices=tuple(dict.fromkeys(names))[: job.gpus])
        worker = self._workers[number] or self._start(number)
        worker.attempt, worker.run_id = attempt, job.run.run_id
        with suppress(OSError):  # it died while idle; `poll` finds its end of the pipe closed
            if not worker.ready:
                device = self._devices[number % len(self._devices)]
                make = partial(self._make, device, scratch=worker.scratch)
                worker.pipe.send((make, self._threads))
                worker.ready = True
            worker.pipe.send(job)

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        busy = {w.pipe: w for w in self._workers if w is not None and w.attempt is not None}
        for pipe in wait(list(busy), timeout=seconds):
            assert isinstance(pipe, Connection)
            worker, attempt = busy[pipe], busy[pipe].attempt
            assert attempt is not None
            try:
                event = pipe.recv()
            except (EOFError, OSError):
                event = Lost(self._end(self._workers.index(worker)))
            if isinstance(event, Done | Lost):
                worker.attempt = None
                self._lent = {n: of for n, of in self._lent.items() if of != attempt}
            take(attempt, event)

    def close(self) -> None:
        for number, worker in enumerate(self._workers):
            if worker is not None:
                worker.process.terminate()
                self._end(number)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _rank(self, number: int, run_id: str) -> int:
        worker = self._workers[number]
        return 2 if worker is None else int(worker.run_id != run_id)

    def _start(self, number: int) -> _Process:
        scratch = self._folder / str(number)
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, scratch))
        resource_tracker.ensure_running()  # `start` would run it, and unblock SIGINT after that
        # inherited: what a terminal sends to all processes is for the driver
        signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_TERMINAL)
        theirs.close()
        worker = self._workers[number] = _Process(process, ours, scratch)
        return worker

    def _end(self, number: int) -> str:
        """Clean up after a worker that ends; return how it ended."""
        worker = self._workers[number]
        assert worker is not None
        self._workers[number] = None
        worker.pipe.close()
        worker.process.join(END_SECONDS)
        worker.process.kill()
        worker.process.join()
        shutil.rmtree(worker.scratch, ignore_errors=True)
        return f"exit code {worker.process.exitcode}"


def _serve(pipe: Connection, scratch: Path) -> None:
    """Do the jobs that come through the pipe, until it closes."""
    ending = threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True)
    ending.start()
    import torch

    import bench.jobs.work  # noqa: F401  (takes seconds, in which the driver plans)
    from bench.machine import tune_process

    tune_process()
    with suppress(EOFError, OSError):
        make, n_threads = pipe.recv()
        torch.set_num_threads(n_threads)
        worker = make()
        while True:
            job = pipe.recv()
            try:
                worker.do(job, pipe.send)
            except RecordError as error:  # its scratch folder is full
                pipe.send(worker.failed(job, "", error))
                pipe.send(Done())
    ending.join(END_SECONDS)  # the driver is gone: let the folder be removed first


def _end_with_parent(scratch: Path) -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    for _ in range(10):  # the training goes on writing meanwhile
        for rank in active_children():
            rank.kill()
            rank.join()
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # the last worker removes the folder of all
            scratch.parent.rmdir()
        if not scratch.exists():
            break
    _exit(1)
