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

from bench.jobs.ray_cluster import own_versions
from bench.records import load_records
from bench.storage import read_json
from benchmarks.kills import LEFT
from tests.commands import bench, method, refused
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

    first = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_states(results, first)
    jobs = list(read_json(results / ".slurm" / "jobs.json"))
    assert len(jobs) == 2
    for job in jobs:
        for process in psutil.Process(int(job)).children():
            process.send_signal(signal.SIGUSR2)  # as Slurm does before the limit
    first.kill()
    first.communicate()
    refused(bench(*asked), "Slurm jobs may still work in", jobs[0], "--cluster slurm")

    said = said_after(subprocess.Popen(line, stderr=subprocess.PIPE, text=True), 2 * TIMEOUT)
    assert all(f"follows Slurm job {job}" in said for job in jobs)
    assert said.count("resumes at batch") == 2
    assert "lost its worker" not in said
    check(results, whole)
    assert not (results / ".slurm").exists()
