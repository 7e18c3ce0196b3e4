"""Engines for several machines: whatever dies, the records are those of an undisturbed process.

Needs the extras ray and slurm; `make test-all` installs them.
"""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import pytest
import torch

from bench.errors import ConfigError
from bench.jobs.job import Done, Event, Failed, Job, Lost
from bench.jobs.ray_cluster import own_versions
from bench.jobs.slurm import SUBMITTED, SlurmEngine
from bench.jobs.slurm_job import _line
from bench.jobs.work import Worker
from bench.records import load_records
from benchmarks.kills import LEFT
from tests.commands import bench, method, refused
from tests.harness import raises_line
from tests.test_jobs import run_plan
from tests.test_kill import TIMEOUT, command, outcome

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parent.parent
ASKED = ("--seeds", "0,1", "--epochs", "40", "--attacks", "clean,pgd-20", "--test-size", "300")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What a single process makes."""
    results = tmp_path_factory.mktemp("whole") / "results"
    subprocess.run(command(results, *ASKED), check=True, timeout=TIMEOUT)
    return [outcome(record) for record in load_records(results)]


def check(results: Path, expected: list[dict[str, object]]) -> None:
    records = load_records(results)
    assert [outcome(record) for record in records] == expected
    assert not records.damaged
    assert not [path for kind in LEFT for path in results.rglob(kind)]


def said_after(process: "subprocess.Popen[str]", timeout: float = TIMEOUT) -> str:
    _, said = process.communicate(timeout=timeout)
    assert process.returncode == 0, said
    return said


def wait_for_states(results: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until both trainings have saved their state."""
    ends = monotonic() + TIMEOUT
    while len(list(results.glob("*/state-*.pt"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert monotonic() < ends
        sleep(0.05)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster whose head runs no jobs."""
    for name, value in {
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    head["ray_client_server_port"] = port
    found = Cluster(initialize_head=True, head_node_args=head)
    found.client_address = f"ray://127.0.0.1:{port}"
    yield found
    found.shutdown()


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Ray's log files
def test_a_node_of_ray_dies_and_another_joins(
    cluster: Any, tmp_path: Path, whole: list[dict[str, object]]
) -> None:
    nodes = [add_node(cluster) for _ in range(2)]
    cluster.wait_for_nodes()
    results = tmp_path / "results"
    asked = [a for a in command(results, *ASKED) if a != "--quiet"]
    direct = [*asked, "--cluster", cluster.address]
    process = subprocess.Popen(direct, stderr=subprocess.PIPE, text=True)
    wait_for_states(results, process)
    cluster.remove_node(nodes[0], allow_graceful=False)
    add_node(cluster)
    said = said_after(process)
    assert said.count("lost its worker") == 1
    assert "resumes at batch" in said
    assert "(raylet)" not in said
    check(results, whole)

    # from outside, with a method from a file: the text of which goes along
    page = run_text("doctor", "--cluster", cluster.client_address)
    assert page.count(own_versions()) == 3
    assert "An empty job takes" in page
    (tmp_path / "own.py").write_text(method())
    own = ["--methods", str(tmp_path / "own.py"), "--seeds", "0", "--epochs", "1"]
    small = ["--attacks", "clean", "--train-size", "60", "--test-size", "16", "--no-checks"]
    place = ["--cluster", cluster.client_address, "--results", str(tmp_path / "own")]
    run_text("run", *own, *small, *place)
    (record,) = load_records(tmp_path / "own")
    assert record.status == "done"
    assert all(e.complete for e in record.evaluations)


def run_text(*arguments: str) -> str:
    """What a command prints, in a process of its own: Ray cannot connect anew in this one."""
    line = [sys.executable, "-m", "bench", *arguments]
    for _ in range(3):  # a busy machine starts Ray's server for clients too late
        found = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT)
        if "cannot join the cluster" not in found.stderr:
            break
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_slurm_jobs_are_queued_again_and_followed_by_the_next_command(
    tmp_path: Path, whole: list[dict[str, object]]
) -> None:
    results = tmp_path / "results"
    asked = [a for a in command(results, *ASKED)[3:] if a != "--quiet"]
    slurm = ["--cluster", "slurm", "--workers", "2"]
    line = [sys.executable, "-m", "tests.local_slurm", *asked, *slurm]

    # no pipe: its jobs would hold it open
    first = subprocess.Popen(line, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    wait_for_states(results, first)
    jobs = [path.name.split("_")[0] for path in (results / ".slurm").rglob(SUBMITTED)]
    assert len(jobs) == 2
    for job in jobs:
        for process in psutil.Process(int(job)).children():
            process.send_signal(signal.SIGUSR2)  # as Slurm does before the limit
    first.kill()
    first.wait()
    refused(bench(*asked), "Slurm jobs may still work in", jobs[0], "--cluster slurm")

    said = said_after(subprocess.Popen(line, stderr=subprocess.PIPE, text=True), 2 * TIMEOUT)
    assert all(f"follows Slurm job {job}" in said for job in jobs)
    assert said.count("resumes at batch") == 2
    assert "lost its worker" not in said
    check(results, whole)
    assert not (results / ".slurm").exists()


# --- Slurm's commands, played by scripts ---

SCRIPTS = {
    "sbatch": 'cat "$1" >> {0}/scripts; echo >> {0}/ids; cat {0}/ids | wc -l > {0}/queue;'
    "echo Submitted batch job $(cat {0}/queue)",
    "srun": "exit 1",
    "squeue": "cat {0}/queue",
    "sacct": "echo 'JobID|State|NodeList'; echo '1|'$(cat {0}/state)'|n'",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what Slurm knows: its queue, the state of job 1, and what was submitted."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in SCRIPTS.items():
        (folder / name).write_text("#!/bin/sh\n" + text.format(folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def slurm_engine(folder: Path, said: list[str]) -> SlurmEngine:
    engine = SlurmEngine(folder, "auto", 4, ["partition=gpu", "time=90", "mem=8G"])
    engine.use(torch.device("cpu"), said.append)
    engine.begin(Worker)
    return engine


def polled(engine: SlurmEngine) -> list[tuple[int, Event]]:
    found = list[tuple[int, Event]]()
    engine.poll(0.0, lambda attempt, event: found.append((attempt, event)))
    return found


def test_a_job_that_slurm_does_not_know_any_more_is_lost(tmp_path: Path, slurm: Path) -> None:
    said: list[str] = []
    engine = slurm_engine(tmp_path, said)
    engine.submit(7, job := Job(run=run_plan(), dataset=0, gpus=3))
    assert engine.free == 1
    assert "#SBATCH --gpus-per-node=3" in (slurm / "scripts").read_text()
    assert "#SBATCH --mem=8G" in (slurm / "scripts").read_text()
    assert polled(engine) == []
    (slurm / "queue").unlink()
    engine._looked_at_queue = float("-inf")
    assert polled(engine) == []
    assert "squeue fails" in said[-1]
    (slurm / "queue").write_text("5\n")
    engine._looked_at_queue = float("-inf")
    (engine._submitit / "1_0_log.err").write_text("loading\nslurmstepd: out of memory\n\n")
    (lost,) = polled(engine)  # sacct fails
    assert lost == (7, Lost("Slurm job 1: ended: slurmstepd: out of memory"))
    assert engine.free == 4

    (slurm / "state").write_text("CANCELLED by 0")
    (slurm / "ids").unlink()
    engine.submit(8, job)
    (slurm / "queue").write_text("")
    engine._looked_at_queue = float("-inf")
    (_, failed), end = polled(engine)
    assert isinstance(failed, Failed)
    assert "Slurm job 1 was cancelled" in failed.line
    assert end == (8, Done())

    engine.submit(9, job)
    (log,) = tmp_path.glob(".slurm/*.log")
    log.write_text(_line(Lost("rank 1: exit code -9")) + _line(Done()) + '["Do')
    assert polled(engine) == [(9, Lost("rank 1: exit code -9"))]
    assert engine.free == 4
    (slurm / "queue").write_text("")
    engine._looked_at_queue = float("-inf")
    assert not polled(engine)
    engine.close()
    assert not list(tmp_path.glob(".slurm"))


def test_a_job_submitted_by_a_command_that_was_killed_is_followed(
    tmp_path: Path, slurm: Path
) -> None:
    first = slurm_engine(tmp_path, [])
    first.submit(1, Job(run=run_plan(), dataset=0))
    with raises_line(ConfigError, "another command follows the Slurm jobs"):
        slurm_engine(tmp_path, [])
    first._claim.close()  # by its end

    said: list[str] = []
    second = slurm_engine(tmp_path, said)
    (job,) = second.held
    assert job == Job(run=run_plan(), dataset=0)
    second.submit(1, job)
    assert "follows Slurm job 1" in said[-1]
    assert (slurm / "ids").read_text() == "\n"
    assert not second.held
    assert not polled(second)
    second.close()

    (slurm / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1")
    third = slurm_engine(tmp_path, [])
    with raises_line(ConfigError, "sbatch refused a job", "invalid partition"):
        third.submit(1, Job(run=run_plan(1), dataset=0))
    third.close()

    (found,) = (tmp_path / ".slurm").rglob(SUBMITTED)
    found.write_bytes(b"of another version")
    fourth = SlurmEngine(tmp_path, "cpu", 1, ["time=90"])
    with raises_line(ConfigError, "Slurm job 1 of an earlier command cannot be followed"):
        fourth.use(torch.device("cpu"), said.append)
    fourth.close()
    assert found.exists()
