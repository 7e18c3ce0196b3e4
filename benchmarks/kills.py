"""Kill workers and drivers of `bench run` at random, and count records that were lost or changed.

A small digits campaign runs once undisturbed, then again and again with kills, each time until the
same command, repeated, has nothing left to do. Every record must then be the undisturbed one's.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import click
import psutil

from bench.records import load_records

CAMPAIGN = (
    *("--suite", "digits", "--methods", "natural,madry", "--seeds", "0", "--epochs", "4"),
    *("--train-size", "300", "--test-size", "300", "--no-checks"),
    *("--attacks", "clean,pgd-20,transfer,apgd-ce"),
)
LEFT = ("*.partial", "*.damaged*", "*.unfinished", "state-*", "train.json.earlier")
"""Files that a finished campaign must not leave."""
DRIVER_SHARE = 0.3
"""Of kills: those of the driver; the others are of a worker."""


def start(results: Path, workers: int) -> psutil.Popen:
    place = ("--results", str(results), "--workers", str(workers), "--quiet")
    command = [sys.executable, "-m", "bench", "run", *CAMPAIGN, *place]
    return psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers_of(driver: psutil.Popen) -> list[psutil.Process]:
    """Return the worker processes, without the resource tracker of `multiprocessing`."""
    try:
        return [p for p in driver.children() if "spawn_main" in " ".join(p.cmdline())]
    except psutil.Error:  # one ends meanwhile
        return []


def outcomes(results: Path) -> dict[str, Any]:
    """Return what must be equal, by run and evaluation."""
    found: dict[str, Any] = {}
    for run in load_records(results):
        assert run.train is not None
        found[run.run_id] = run.train["status"], run.train["checkpoints"]
        for e in run.evaluations:
            key = f"{run.run_id}/{e.eval_id}"
            found[key] = e.survived.tolist(), e.clean.tolist(), e.broken_by()
    return found


def disturbed(results: Path, workers: int, mean: float, draw: random.Random) -> Counter[str]:
    """Repeat the command with kills about every `mean` seconds, until it ends by itself."""
    kills = Counter[str]()
    while True:
        driver = start(results, workers)
        while driver.poll() is None:
            try:
                driver.wait(draw.expovariate(1 / mean))
                break
            except psutil.TimeoutExpired:
                pass
            if draw.random() > DRIVER_SHARE:
                if there := workers_of(driver):  # else it still starts
                    draw.choice(there).kill()
                    kills["worker SIGKILL"] += 1
            else:
                how = draw.choice((signal.SIGKILL, signal.SIGTERM))
                driver.send_signal(how)
                kills[f"driver {how.name}"] += 1
                driver.wait()
        if driver.wait() == 0:
            return kills


@click.command()
@click.option("--kills", default=200, show_default=True, help="Number of kills.")
@click.option("--workers", default=2, show_default=True, help="Worker processes of the command.")
@click.option("--seed", default=0, show_default=True, help="Of the moments and victims.")
def main(kills: int, workers: int, seed: int) -> None:
    """Kill at random; exit code 1 if a record was lost or changed, or anything was left."""
    draw, done, bad = random.Random(seed), Counter[str](), Counter[str]()
    temporary = set(Path(gettempdir()).glob("atbench-*"))
    with TemporaryDirectory() as folder:
        whole, since = Path(folder, "whole"), time.monotonic()
        if start(whole, 1).wait() != 0:
            raise click.ClickException("the undisturbed command failed")
        mean, expected = (time.monotonic() - since) / 4, outcomes(whole)
        while sum(done.values()) < kills:
            results = Path(folder, "cut")
            done += disturbed(results, workers, mean, draw)
            found = outcomes(results)
            bad["lost"] += len(expected.keys() - found.keys())
            bad["changed"] += sum(found[key] != expected[key] for key in found if key in expected)
            bad["unasked"] += len(found.keys() - expected.keys())
            bad["damaged"] += len(load_records(results).damaged)
            bad["left over"] += sum(1 for kind in LEFT for _ in results.rglob(kind))
            shutil.rmtree(results)
            click.echo(f"{dict(done)}; of {len(expected)} records each time: {dict(bad)}")
    folders = set(Path(gettempdir()).glob("atbench-*")) - temporary
    left = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    click.echo(f"files of workers that are left: {len(left)}")
    raise click.exceptions.Exit(int(any(bad.values()) or bool(left)))


if __name__ == "__main__":
    main()
