"""Killed at any moment, the same command finishes with the outcome of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench.jobs.processes import FROM_TERMINAL
from bench.records import RunRecord, load_records
from bench.storage import read_archive
from benchmarks.kills import LEFT, workers_of

TIMEOUT = 240


def command(results: Path, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "bench.cli", "run", "--results", str(results), "--quiet"),
        *("--methods", "cat-ce", "--seeds", "0", "--train-size", "200", "--test-size", "24"),
        *arguments,
    ]


def outcome(record: RunRecord) -> dict[str, object]:
    assert record.train is not None
    return {
        "weights": record.train["checkpoints"],
        **{e.eval_id: (e.survived.tolist(), e.broken_by()) for e in record.evaluations},
    }


@contextmanager
def started(results: Path, *arguments: str) -> Iterator[psutil.Popen]:
    pipe = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = psutil.Popen(command(results, *arguments), **pipe)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def wait_until(ready: Callable[[], bool], process: psutil.Popen) -> None:
    """Wait until `ready`; fails if the process ends before."""
    end = time.monotonic() + TIMEOUT
    while not ready():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.005)


def kill_when(process: psutil.Popen, ready: Callable[[], bool]) -> None:
    """SIGKILL as soon as `ready`; fails if the process ended before."""
    wait_until(ready, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_in_training_and_in_autoattack(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    asked = ["--epochs", "4", "--attacks", "pgd-20,autoattack"]
    subprocess.run(command(whole, *asked), check=True, timeout=TIMEOUT)

    in_training = subprocess.Popen(command(cut, *asked))
    kill_when(in_training, lambda: any(cut.glob("*/state-*.pt")))
    assert not any(cut.glob("*/train.json"))
    in_autoattack = subprocess.Popen(command(cut, *asked))
    # pgd-20 is asked for first: once it is there, AutoAttack is running
    kill_when(in_autoattack, lambda: any(cut.glob("*/evaluations/best.npz")))
    time.sleep(0.2)
    (evaluations,) = cut.glob("*/evaluations/best.npz")
    assert not any(name.startswith("autoattack-") for name in read_archive(evaluations)[0])
    subprocess.run(command(cut, *asked), check=True, timeout=TIMEOUT)

    (one,), (two,) = load_records(whole), load_records(cut)
    assert outcome(one) == outcome(two)
    assert not load_records(cut).damaged
    assert any(e.spec.attack == "autoattack" and e.complete for e in two.evaluations)


@pytest.mark.slow
def test_two_commands_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    asked = ["--epochs", "2", "--attacks", "pgd-20,cw", "--seeds", "0,1"]
    subprocess.run(command(alone, *asked), check=True, timeout=TIMEOUT)
    both = [subprocess.Popen(command(shared, *asked)) for _ in range(2)]
    assert [process.wait(TIMEOUT) for process in both] == [0, 0]
    one, two = load_records(alone), load_records(shared)
    assert [outcome(a) for a in one] == [outcome(b) for b in two]
    assert not two.damaged
    leftovers = [p for p in shared.rglob("*") if p.suffix in (".partial", ".damaged")]
    assert leftovers == []


@pytest.mark.slow
def test_workers_killed_in_training_and_in_an_attack_change_no_record(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    asked = ["--seeds", "0,1", "--epochs", "4", "--attacks", "clean,cw,pgd-50"]
    subprocess.run(command(whole, *asked), check=True, timeout=TIMEOUT)

    with started(cut, *asked, "--workers", "2") as driver:
        for ready in ("*/state-*.pt", "*/evaluations/*"):
            wait_until(lambda ready=ready: any(cut.glob(ready)), driver)  # type: ignore[misc]
            for worker in workers_of(driver):
                worker.kill()
        assert driver.wait(TIMEOUT) == 0

    one, two = load_records(whole), load_records(cut)
    assert [outcome(a) for a in one] == [outcome(b) for b in two]
    assert not two.damaged
    assert not [p for kind in LEFT for p in cut.rglob(kind)]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_driver_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    asked = ["--seeds", "0,1", "--epochs", "400", "--attacks", "clean", "--workers", "2"]
    ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # by nohup, which children inherit
    with started(tmp_path / "r", *asked) as driver:
        signal.signal(signal.SIGHUP, ignored)
        wait_until(lambda: len(list((tmp_path / "r").glob("*/state-*.pt"))) == 2, driver)
        workers = workers_of(driver)
        assert len(workers) == 2
        if how in FROM_TERMINAL:
            os.killpg(driver.pid, how)
        else:
            driver.send_signal(how)
        _, said = driver.communicate(timeout=TIMEOUT)
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    left = list((tmp_path / "tmp").rglob("atbench-*/**/*"))
    assert not [path for path in left if path.is_file()]
    if how == signal.SIGKILL:
        assert driver.returncode == -how
    else:
        assert driver.returncode == 130
        assert said == "Interrupted. Run the same command again to resume.\n"
        assert not list((tmp_path / "tmp").glob("atbench-*"))
    assert load_records(tmp_path / "r").damaged == ()


def ranks_of(driver: psutil.Popen, workers: int) -> list[psutil.Process]:
    parents = [driver] if workers == 1 else workers_of(driver)
    return [rank for parent in parents for rank in workers_of(parent)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_rank_costs_a_resume_and_ranks_end_with_their_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    results, asked = tmp_path / "r", ["--epochs", "40", "--attacks", "clean"]
    shared = "--gpus-per-training", "2", "--workers", str(workers)
    with started(results, *asked, *shared) as driver:
        wait_until(lambda: any(results.glob("*/state-*.pt")), driver)
        first, states = ranks_of(driver, workers), set(results.glob("*/state-*.pt"))
        first[1].kill()
        wait_until(lambda: set(results.glob("*/state-*.pt")) - states != set(), driver)
        ranks = ranks_of(driver, workers)
        assert len({*first, *ranks}) == 4
        driver.kill()
        assert psutil.wait_procs([*first, *ranks], timeout=60)[1] == []
    assert not any(results.glob("*/train.json"))
    subprocess.run(command(results, *asked), check=True, timeout=TIMEOUT)
    (record,) = load_records(results)
    assert record.train is not None
    assert record.train["ranks"] == [1, 2]
    assert not [path for path in (tmp_path / "tmp").rglob("atbench-*/**/*") if path.is_file()]


@pytest.mark.slow
def test_workers_share_the_runs(tmp_path: Path) -> None:
    asked = ["--epochs", "1", "--attacks", "clean", "--seeds", "0,1,2", "--workers", "2"]
    subprocess.run(command(tmp_path / "w", *asked), check=True, timeout=TIMEOUT)
    records = load_records(tmp_path / "w")
    assert [record.status for record in records] == ["done"] * 3
    assert np.all(records.to_frame().status == "done")
