"""Connect to a Ray cluster, and find out which of its nodes can do the work of this command."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, one_line

PORT_SECONDS = 5.0
PROBE_SECONDS = 60.0
"""In which a node must say what is installed there."""


@dataclass(frozen=True)
class Node:
    """A living machine of the cluster."""

    node_id: str
    host: str
    cpus: int
    gpus: int
    kind: str
    """Of its GPUs; empty without one, or if Ray does not know it."""
    versions: str
    """As `own_versions`; empty until it answered."""


def connect(cluster: str, say: Callable[[str], None]) -> None:
    """Connect to `ray`, a cluster that was started here or that RAY_ADDRESS names, or an address.

    Messages of Ray's own processes go to `say`, shortened. Raises ConfigError.
    """
    address = address_of(cluster)
    check_port(address)
    try:
        import ray
    except ImportError:
        raise ConfigError(
            f"--cluster {cluster} needs Ray: pip install 'atbench[ray]', on every machine"
        ) from None
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # of what this process starts
    _divert_messages(say)
    try:
        with _own_signals():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds: authentication, versions, gRPC
        raise ConfigError(
            f"--cluster {cluster}: cannot join the cluster at {address}: {one_line(error)}"
        ) from None


@contextmanager
def connected(cluster: str) -> Iterator[Nodes]:
    """Connect, yield the nodes, and disconnect; raises ConfigError."""
    connect(cluster, lambda _: None)
    import ray

    try:
        yield Nodes()
    finally:
        ray.shutdown()


def address_of(cluster: str) -> str:
    """Return HOST:PORT or ray://HOST:PORT; raises ConfigError if there is none."""
    if cluster != "ray":
        return cluster
    named = os.environ.get("RAY_ADDRESS", "").strip()
    if named not in ("", "auto", "local"):
        return named
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    with suppress(OSError):
        return (folder / "ray" / "ray_current_cluster").read_text().strip()
    raise ConfigError(
        "--cluster ray: no Ray cluster runs on this machine; start one (ray start --head), or "
        "name one: --cluster HOST:PORT or ray://HOST:PORT"
    )


def check_port(address: str) -> None:
    """Raise ConfigError if nothing listens there: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--cluster {address}: write ray, HOST:PORT, ray://HOST:PORT or slurm")
    try:
        socket.create_connection((host, int(port)), PORT_SECONDS).close()
    except OSError as error:
        default = "10001" if address.startswith("ray://") else "6379"
        raise ConfigError(
            f"--cluster {address}: nothing answers on port {port} of {host} ({one_line(error)}); "
            f"is the cluster running, the port right (its default is {default}) and open?"
        ) from None


@cache
def own_versions() -> str:
    """Return what the nodes must have, such as `atbench 0.1.0, torch 2.14.1, code 3f2a9c1b`.

    The last is a hash of the code that trains and attacks.
    """
    return str(_versions()())


class Nodes:
    """The living nodes; those that join are asked for their versions."""

    def __init__(self) -> None:
        self._asked: dict[str, Any] = {}
        self._versions: dict[str, str] = {}

    def living(self) -> list[Node]:
        """Return the nodes, without waiting for those that did not answer yet."""
        import ray

        rows = [row for row in ray.nodes() if row["Alive"]]
        for node_id in (row["NodeID"] for row in rows):
            if node_id not in self._asked:
                self._asked[node_id] = pinned(_probe(), node_id).remote()
            if node_id not in self._versions:
                self._versions |= self._answer(node_id)
        return [
            Node(
                node_id=row["NodeID"],
                host=str(row["NodeManagerHostname"]),
                cpus=int(row["Resources"].get("CPU", 0)),
                gpus=int(row["Resources"].get("GPU", 0)),
                kind=", ".join(
                    name.removeprefix("accelerator_type:")
                    for name in row["Resources"]
                    if name.startswith("accelerator_type:")
                ),
                versions=self._versions.get(row["NodeID"], ""),
            )
            for row in rows
        ]

    def answered(self) -> list[Node]:
        """Return the nodes once each has answered, or after a minute."""
        end = time.monotonic() + PROBE_SECONDS
        found = self.living()
        while time.monotonic() < end and not all(node.versions for node in found):
            time.sleep(0.1)
            found = self.living()
        return found

    def time_of_empty_job(self) -> float:
        """Return the seconds of a job on a node that is ready for it."""
        import ray

        node_id = next(iter(self._asked))
        since = time.monotonic()
        ray.get(pinned(_probe(), node_id).remote())
        return time.monotonic() - since

    def _answer(self, node_id: str) -> dict[str, str]:
        import ray

        ready, _ = ray.wait([self._asked[node_id]], timeout=0)
        if not ready:
            return {}
        try:
            return {node_id: str(ray.get(ready[0]))}
        except ray.exceptions.RayError as error:
            return {node_id: f"no answer ({one_line(error)})"}


def pinned(remote: Any, node_id: str, **options: Any) -> Any:
    """Return a remote function or class that runs on this node or not at all."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return remote.options(scheduling_strategy=place, **options)


def _probe() -> Any:
    import ray

    return ray.remote(num_cpus=0, max_retries=0)(_versions())


def _versions() -> Callable[[], str]:
    """Return a function that travels by value, since a node may lack this package."""

    def versions() -> str:
        from hashlib import sha256
        from importlib import metadata

        found = []
        for name in ("atbench", "torch"):
            try:
                number = metadata.version(name).partition("+")[0]  # of any CUDA build
                found.append(f"{name} {number}")
            except metadata.PackageNotFoundError:
                found.append(f"no {name}")
        try:
            from bench.provenance import evaluation_code, training_code
        except ImportError:  # no or another atbench, as is said above
            return ", ".join(found)
        code = training_code(None)["training_sha256"] + evaluation_code()["evaluation_sha256"]
        return ", ".join([*found, f"code {sha256(code.encode()).hexdigest()[:8]}"])

    return versions


def _divert_messages(say: Callable[[str], None]) -> None:
    """Let `say` have the first line of what Ray would print, each once.

    It prints to stdout whatever log_to_driver says: twenty lines of log when a node dies. If this
    name of Ray's is gone some day, they are printed as Ray does.
    """
    from ray._private import worker

    said = set[str]()

    def divert(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        line = next((text for text in "\n".join(data["lines"]).splitlines() if text.strip()), "")
        line = one_line(line, 160)
        if line and line not in said:
            said.add(line)
            say(f"Ray: {line}")

    worker.print_to_stdstream = divert


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this program's handler of SIGTERM, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
