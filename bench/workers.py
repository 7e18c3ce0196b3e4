"""Worker processes: the same command again, in the same results folder.

Workers claim runs through file locks and never talk to each other; if one dies, the others take
over its run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from bench.progress import Reporter

HELPER = "ATBENCH_HELPER"
"""Environment variable of a worker process: the command that started it."""


@contextmanager
def helpers(
    n: int, arguments: Sequence[str], device: torch.device, reporter: Reporter
) -> Iterator[None]:
    """Run `n` more processes of `bench ARGUMENTS` while the block runs, and pass on their lines.

    Each gets the next GPU, or a share of the CPU cores. They end with the block and with this
    process, even if it is killed.
    """
    threads = max(1, torch.get_num_threads() // (n + 1))
    if device.type == "cpu":
        torch.set_num_threads(threads)
    started = [_start(i + 1, arguments, device, threads, reporter) for i in range(n)]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _start(
    number: int,
    arguments: Sequence[str],
    device: torch.device,
    threads: int,
    reporter: Reporter,
) -> subprocess.Popen[str]:
    where = "cpu"
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
    threading.Thread(target=_pass_on, args=(process, reporter), daemon=True).start()
    return process


def _pass_on(process: subprocess.Popen[str], reporter: Reporter) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        reporter.say(line)


def die_with_parent() -> None:
    """In a worker: exit when the parent process ends, even if that was killed."""
    if HELPER not in os.environ:
        return

    def watch() -> None:
        # unbuffered: Python cannot shut down while a thread holds a buffered reader
        while os.read(0, 1):
            pass
        os._exit(1)  # the parent closed its end of the pipe

    threading.Thread(target=watch, daemon=True).start()
