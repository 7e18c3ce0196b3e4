"""Start the ranks of one training as processes of this machine, and end them together."""

import os
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from bench.archs.graphs import SWITCH
from bench.errors import BenchError, one_line
from bench.jobs.job import Done, Lost, Send
from bench.machine import n_cores, tune_process
from bench.ranks import RankLost, Ranks

TIMEOUT_SECONDS = 600.0
"""A rank that waits longer than this for another gives up."""
GRACE_SECONDS = 5.0
"""Time in which a better reason may come, once a rank says that it lost another."""
FOR_PARENT = signal.SIGINT, signal.SIGHUP, signal.SIGUSR2
END_SECONDS = 5.0
"""After this a process that does not end is killed."""
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
"""The ranks of one machine listen on no other network interface."""

Work = Callable[[torch.device, Send, Ranks], None]


class Unforeseen(Exception):
    """An error that no user could foresee: what and where, and its traceback; picklable."""

    def __init__(self, line: str, place: str, trace: str) -> None:
        super().__init__(line, place, trace)
        self.line, self.place, self.trace = line, place, trace

    @classmethod
    def of(cls, error: BaseException) -> "Unforeseen":
        """Return the error itself, or what to tell of it."""
        if isinstance(error, cls):
            return error
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "site-packages" not in f.filename] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
        return cls(one_line(error), place, "".join(traceback.format_exception(error)))


def run_ranks(
    work: Work, devices: Sequence[torch.device], send: Send, scratch: Path | None = None
) -> None:
    """Run `work(device, send, ranks)` in a process for each device, and pass on what they send.

    work: picklable. scratch: where the ranks meet; None takes the temporary folder. Raises RankLost
    if a process dies or hangs, BenchError or Unforeseen if one fails; then all of them have ended.
    """
    with TemporaryDirectory(prefix="atbench-", dir=scratch) as folder:
        started: dict[Connection, tuple[int, SpawnProcess]] = {}
        try:
            for rank in range(len(devices)):
                how = TIMEOUT_SECONDS, torch.get_num_threads(), Path(folder)
                pipe, process = _start(rank, *how, devices, work)
                started[pipe] = rank, process
            _relay(dict(started), send)
        finally:
            for _, process in started.values():
                process.terminate()
            for pipe, (_, process) in started.items():
                process.join(END_SECONDS)
                process.kill()
                process.join()
                pipe.close()


def _start(rank: int, *how: Any) -> tuple[Connection, SpawnProcess]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, rank, *how))
    resource_tracker.ensure_running()  # `start` would run it, and unblock SIGINT after that
    # inherited: what a terminal or Slurm sends to all processes is for the one that started them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_PARENT)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, process


def _relay(left: dict[Connection, tuple[int, SpawnProcess]], send: Send) -> None:
    said = ""
    while left:
        ready = wait(list(left), timeout=GRACE_SECONDS if said else None)
        if not ready:
            break
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank, process = left[pipe]
            try:
                event = pipe.recv()
            except (EOFError, OSError):
                process.join()
                raise RankLost(f"rank {rank}: exit code {process.exitcode}") from None
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, Done | Lost):
                del left[pipe]
                said = event.reason if isinstance(event, Lost) else said
            else:
                send(event)
    if said:
        raise RankLost(said)


def _serve(
    pipe: Connection,
    rank: int,
    timeout: float,
    n_threads: int,
    folder: Path,
    devices: Sequence[torch.device],
    work: Work,
) -> None:
    """Do a rank's part; the last thing that it sends says how it ended."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    if rank > 0:  # the first says the same
        warnings.simplefilter("ignore")
    tune_process()
    torch.set_num_threads(max(1, min(n_threads, n_cores() // len(devices))))
    try:
        with _group(rank, timedelta(seconds=timeout), folder / "store", devices):
            work(devices[rank], pipe.send, Ranks(rank, len(devices)))
        pipe.send(Done())
    except RankLost as error:
        pipe.send(Lost(f"rank {rank}: {one_line(str(error))}"))
    except BenchError as error:
        pipe.send(error)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        pipe.send(Unforeseen.of(error))


@contextmanager
def _group(
    rank: int, timeout: timedelta, store: Path, devices: Sequence[torch.device]
) -> Iterator[None]:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, LOOPBACK)
    how: dict[str, Any] = {"rank": rank, "world_size": len(devices), "timeout": timeout}
    on_gpus = devices[rank].type == "cuda"
    if on_gpus:
        os.environ.setdefault(SWITCH, "0")  # NCCL's threads may disturb the recording of a graph
        torch.cuda.set_device(devices[rank])
        how["device_id"] = devices[rank]
    dist.init_process_group("nccl" if on_gpus else "gloo", init_method=f"file://{store}", **how)
    yield
    dist.destroy_process_group()  # not after an error: it may wait for the others


def _end_with_parent(folder: Path) -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
