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

from bench.errors import ConfigError
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
    workers: int | None = None
    """The most jobs at once; 0: on every GPU; None: one, or all that fit in a Ray cluster."""
    per_gpu: int = 1
    """Jobs at once on a GPU."""
    cluster: str = ""
    """ray, HOST:PORT, ray://HOST:PORT or slurm; empty for this machine."""
    slurm: tuple[str, ...] = ()
    """Options of sbatch, KEY=VALUE."""

    def __post_init__(self) -> None:
        on_slurm = self.cluster == "slurm"
        if self.slurm and not on_slurm:
            raise ConfigError("--slurm needs --cluster slurm")
        if on_slurm and not self.workers:
            raise ConfigError("--cluster slurm needs --workers N, the most jobs at once")
        if on_slurm and self.per_gpu > 1:
            raise ConfigError("--per-gpu is for this machine and Ray; a Slurm job has its own GPU")
        if self.cluster and self.device not in ("auto", "cuda", "cpu"):
            raise ConfigError(
                f"--device {self.device} is one of this machine; with --cluster write cuda or cpu"
            )

    def engine(self, results: Path) -> Engine:
        if self.cluster == "slurm":
            from bench.jobs.slurm import SlurmEngine

            return SlurmEngine(results, self.device, self.workers or 1, self.slurm)
        if self.cluster:
            from bench.jobs.ray import RayEngine

            most = self.workers or None
            return RayEngine(self.cluster, results, self.device, most, self.per_gpu)
        n = self._n_on_gpus() if self.workers == 0 else self.workers or 1
        return HereEngine() if n == 1 else ProcessesEngine(n, self.per_gpu)

    def _n_on_gpus(self) -> int:
        import torch

        every = self.device in ("auto", "cuda")
        n_gpus = torch.cuda.device_count() if every else int(self.device != "cpu")
        return max(1, n_gpus * self.per_gpu)

    @property
    def own_device(self) -> str:
        """Return the device of this process, which may have no GPU where a cluster has."""
        return "auto" if self.cluster and self.device.startswith("cuda") else self.device


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
    if machines.cluster != "slurm" and (results / ".slurm").exists():
        from bench.jobs.slurm import refuse_running

        refuse_running(results)
    engine = machines.engine(results)
    try:
        from bench.machine import choose_device, tune_process

        tune_process()
        chosen = choose_device(machines.own_device)
        command = "bench " + " ".join(sys.argv[1:])
        with Reporter(quiet=quiet) as reporter:
            engine.use(chosen, reporter.say)
            yield Workspace(results, chosen, reporter, command, engine)
    finally:
        engine.close()
