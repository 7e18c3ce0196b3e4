"""How long `bench report` takes over 2,000 made records: `python -m benchmarks.report [RUNS]`.

Four settings, ten methods, the rest seeds; one evaluation of 256 images each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from tests.report.many import make_many

RUNS = 2000


def main() -> None:
    """Make the records, report on them in a process of its own, print one line."""
    n_runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with TemporaryDirectory() as folder:
        results, reports = Path(folder, "results"), Path(folder, "reports")
        with mock.patch("bench.storage.os.fsync"):  # made records need not survive a power cut
            make_many(results, n_runs)
        bench = "import sys; from bench.cli import main; sys.exit(main())"
        command = ["report", "--results", str(results), "--reports", str(reports)]
        start, before = time.perf_counter(), os.times()
        subprocess.run(
            [sys.executable, "-c", bench, *command], check=True, stdout=subprocess.DEVNULL
        )
        seconds, after = time.perf_counter() - start, os.times()
    busy = after.children_user + after.children_system
    busy -= before.children_user + before.children_system
    print(f"bench report, {n_runs} runs: {seconds:.1f} s, of which {busy:.1f} s of one processor")


if __name__ == "__main__":
    main()
