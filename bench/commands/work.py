"""Set up a command that computes: device, progress, worker processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from bench.progress import Reporter


@contextmanager
def at_work(
    device: str, workers: int, quiet: bool
) -> Iterator[tuple[torch.device, Reporter, str, AbstractContextManager[None]]]:
    """Yield the device, the progress display, the command for the records, and the workers."""
    from bench.machine import choose_device, tune_process
    from bench.progress import Reporter
    from bench.workers import HELPER, die_with_parent, helpers

    tune_process()
    chosen = choose_device(device)
    die_with_parent()
    command = os.environ.get(HELPER) or "bench " + " ".join(sys.argv[1:])
    with Reporter(quiet=quiet) as reporter:
        yield chosen, reporter, command, helpers(workers - 1, sys.argv[1:], chosen, reporter)
