"""What a command computes with: results folder, device, progress, and worker processes.

A worker is the same command again in the same results folder. Workers claim runs through file locks
and never talk to each other; if one dies, the others take over its run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.machine import choose_device, tune_process
from bench.progress import Reporter

HELPER = "ATBENCH_HELPER"
"""Environment variable of a worker process: the command that started it."""


@dataclass(frozen=True)
class Workspace:
    """The results folder, device, reporter and helper processes of a command."""

    results: Path
    device: torch.device
    reporter: Reporter
    command: str
    """As typed; goes into the records."""
    helpers: AbstractContextManager[None]
    """Helper processes for the same work; entered once there is work to share."""


@contextmanager
def workspace(results: Path, device: str, workers: int, quiet: bool) -> Iterator[Workspace]:
    """Set up this process for a command, and yield what it computes with."""
    tune_process()
    chosen = choose_device(device)
    if HELPER in os.environ:
        threading.Thread(target=_die_with_parent, daemon=True).start()
    command = os.environ.get(HELPER) or "bench " + " ".join(sys.argv[1:])
    with Reporter(quiet=quiet) as reporter:
        yield Workspace(results, chosen, reporter, command, _helpers(workers - 1, chosen, reporter))


@contextmanager
def _helpers(n: int, device: torch.device, reporter: Reporter) -> Iterator[None]:
    """Run `n` more processes of this command while the block runs, and pass on their lines.

    Each gets the next GPU, or a share of the CPU cores. They end with the block and with this
    process, even if it is killed.
    """
    threads = max(1, torch.get_num_threads() // (n + 1))
    if device.type == "cpu":
        torch.set_num_threads(threads)
    started = [_start(i + 1, device, threads, reporter) for i in range(n)]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _start(
    number: int, device: torch.device, threads: int, reporter: Reporter
) -> subprocess.Popen[str]:
    where, arguments = "cpu", sys.argv[1:]
    if device.type == "cuda":
        where = f"cuda:{((device.index or 0) + number) % torch.cuda.device_count()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.cli", *arguments, "--workers", "1", "--device", where],
        env=os.environ | {HELPER: f"bench {' '.join(arguments)}", "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def pass_on() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            reporter.say(line)

    threading.Thread(target=pass_on, daemon=True).start()
    return process


def _die_with_parent() -> None:
    while os.read(0, 1):  # unbuffered: Python cannot shut down while a thread holds a reader
        pass
    os._exit(1)  # the parent closed its end of the pipe
