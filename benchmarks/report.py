"""Seconds of `bench report` and `bench --help`, each in its own process, next to their limits.

On a shared machine the CPU time says more than the wall time.

The made records are four settings and ten methods, the rest seeds; 256 images each.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import click

from bench.listing import aligned
from tests.report.many import make_many

BENCH = "import sys; from bench.cli import main; sys.exit(main())"


def seconds(*arguments: str) -> tuple[str, str]:
    """Return the wall and the CPU time of a `bench` command."""
    since, before = time.perf_counter(), os.times()
    command = [sys.executable, "-c", BENCH, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - since, os.times()
    busy = sum(after[2:4]) - sum(before[2:4])  # user and system time of children
    return f"{wall:.2f}", f"{busy:.2f}"


@click.command()
@click.option("--runs", default=2000, show_default=True, help="Number of made records.")
def main(runs: int) -> None:
    """Measure `bench report` over results/digits and over made records, and `bench --help`."""
    with TemporaryDirectory() as folder:
        made = Path(folder, "results")
        with mock.patch("bench.storage.os.fsync"):  # made records need not survive a power cut
            make_many(made, runs)
        rows = [("command", "seconds", "CPU seconds", "limit")]
        for name, results in (("results/digits", "results/digits"), (f"{runs:,} runs", str(made))):
            command = ("report", "--results", results, "--reports", f"{folder}/{len(rows)}")
            rows.append((f"bench report, {name}", *seconds(*command), "10"))
        seconds("--help")  # writes the byte code
        rows.append(("bench --help", *seconds("--help"), "0.3"))
    click.echo(aligned(rows))


if __name__ == "__main__":
    main()
