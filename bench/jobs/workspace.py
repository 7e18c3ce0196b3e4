"""What a command computes with. Loads torch only after worker processes have begun to."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.jobs.here import HereEngine
from bench.jobs.processes import ProcessesEngine
from bench.progress import Reporter

if TYPE_CHECKING:
    import torch

    from bench.jobs.job import Engine
    from bench.tensorboard import HistoryScalars


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The options that say what to compute on."""

    device: str = "auto"
    workers: int = 1
    per_gpu: int = 1
    """Jobs at once on a GPU."""

    def engine(self) -> Engine:
        if self.workers == 1:
            return HereEngine()
        return ProcessesEngine(self.workers, self.per_gpu)


@dataclass(frozen=True)
class Workspace:
    """What a command computes with."""

    results: Path
    device: torch.device
    reporter: Reporter
    command: str
    """As typed; goes into the records."""
    engine: Engine
    gpus_per_training: int = 1
    """Devices that share each training, with a rank on each."""
    scalars: HistoryScalars | None = None
    """Where the histories of trainings also go."""


@contextmanager
def workspace(results: Path, machines: Machines, quiet: bool) -> Iterator[Workspace]:
    """Set up this process for a command, and yield what it computes with.

    Workers start at once, to load while the command is planned. Raises ConfigError.
    """
    if threading.current_thread() is threading.main_thread():
        for ending in (signal.SIGTERM, signal.SIGHUP):  # end like Ctrl-C
            if signal.getsignal(ending) == signal.SIG_DFL:  # not under nohup
                signal.signal(ending, signal.default_int_handler)
    engine = machines.engine()
    try:
        from bench.machine import choose_device, tune_process

        tune_process()
        chosen = choose_device(machines.device)
        engine.use(chosen)
        command = "bench " + " ".join(sys.argv[1:])
        with Reporter(quiet=quiet) as reporter:
            yield Workspace(results, chosen, reporter, command, engine)
    finally:
        engine.close()
