"""The engine for several machines: a Ray actor per share of a GPU or core, files sent with jobs.

Actors, not tasks: Ray gives a task any free GPU, but a process keeps the first that torch used. No
file system is shared; nodes may die and join.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, one_line
from bench.jobs.job import Done, Engine, Event, Job, Lost
from bench.jobs.ray_cluster import Node, Nodes, connect, own_versions, pinned
from bench.jobs.ray_worker import Inbox, Server

if TYPE_CHECKING:
    import torch

    from bench.jobs.work import Worker

LOOK_SECONDS = 1.0
"""Time between two looks at which nodes live."""
DOUBT_SECONDS = 20.0
"""In which Ray notices that a node is gone."""


@dataclass
class _Worker:
    """An actor, and its attempt if it has one."""

    actor: Any
    node: str
    attempt: int | None = None
    ref: Any = None
    """Of the call that does the attempt's job."""
    run_id: str = ""
    """Of the last job: its data and network are loaded."""
    files: Collection[str] = ()
    """That the job reads."""


class RayEngine(Engine):
    """Starts an actor when a job needs one; one that dies costs only its own job."""

    def __init__(
        self, cluster: str, results: Path, device: str, workers: int | None, per_gpu: int
    ) -> None:
        """device: auto (GPUs if any node has one), cuda or cpu. workers: the most jobs at once."""
        self._cluster, self._results, self._per_gpu = cluster, results, per_gpu
        self._limit, self._kind = workers, device
        self._workers: list[_Worker] = []
        self._room: dict[str, int] = {}
        """By node: the jobs that it can run at once."""
        self._threads: dict[str, int] = {}
        self._stored: dict[str, tuple[object, Any]] = {}
        """Files in the object store, by name: what they were, and where."""
        self._refused = set[str]()
        self._doubtful: dict[str, float] = {}
        """By node that did not answer: when it may get jobs again, if it lives."""
        self._looked = 0.0
        self.slots = 0

    def use(self, device: torch.device, say: Callable[[str], None]) -> None:
        """Connect to the cluster; `device` is the driver's."""
        self._say = say
        connect(self._cluster, say)
        import ray

        self._nodes = Nodes()
        found = self._nodes.answered()
        if self._kind == "auto":
            self._kind = "cuda" if any(node.gpus for node in found) else "cpu"
        self._look()
        if not self._room:
            need = "a GPU" if self._kind == "cuda" else "a CPU"
            raise ConfigError(
                f"--cluster {self._cluster}: no node with {need} and {own_versions()} is there; "
                f"bench doctor --cluster {self._cluster} lists the nodes"
            )
        say(
            f"Ray: {self.slots} jobs at once on {len(self._room)} of {len(found)} nodes; this "
            "command sends no usage statistics"
        )
        here = ray.get_runtime_context().get_node_id()
        self._inbox = pinned(ray.remote(Inbox), here, num_cpus=0).remote()

    def begin(self, make: Callable[..., Worker]) -> None:
        import ray

        self._make = ray.put(make)

    @property
    def free(self) -> int:
        return self.slots - sum(w.attempt is not None for w in self._workers)

    def submit(self, attempt: int, job: Job) -> None:
        """Give the job to the idle actor that has its network, else to any, else to a new one."""
        from bench.jobs.work import needed_files

        idle = [w for w in self._workers if w.attempt is None]
        has = [w for w in idle if w.run_id == job.run.run_id]
        worker = next(iter([*has, *idle]), None) or self._start()
        name, method = job.run.method_name or "", None
        if name.endswith(".py"):
            method = Path(name).name, Path(name).read_bytes()
        files = {path: self._store(path) for path in needed_files(job, self._results)}
        worker.attempt, worker.run_id, worker.files = attempt, job.run.run_id, files.keys()
        worker.ref = worker.actor.do.remote(attempt, pickle.dumps(job), files, method)
        used = {path for w in self._workers for path in w.files}
        self._stored = {path: found for path, found in self._stored.items() if path in used}

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        import ray

        self._look()
        refs = [w.ref for w in self._workers if w.attempt is not None]
        ended = ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else []
        try:  # after the look at what ended, so that nothing of it is missed
            sent = ray.get(self._inbox.take.remote(0 if ended else seconds))
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise ConfigError(
                f"the head of the Ray cluster is gone ({one_line(error)}); start the cluster and "
                "run the same command again to resume"
            ) from None
        for attempt, content in sent:
            event: Event = pickle.loads(content)
            worker = next((w for w in self._workers if w.attempt == attempt), None)
            if worker is not None:
                if isinstance(event, Done):
                    worker.attempt = worker.ref = None
                take(attempt, event)
        for worker in [w for w in self._workers if w.ref in ended]:
            if (lost := worker.attempt) is not None:
                self._workers.remove(worker)
                why = _why(worker.ref)
                if "Unavailable" in why:  # its node, too, perhaps
                    self._doubtful[worker.node] = time.monotonic() + DOUBT_SECONDS
                    self._looked = 0.0
                    self._look()
                take(lost, Lost(why))

    def close(self) -> None:
        try:
            import ray
        except ImportError:
            return
        for worker in self._workers:
            with suppress(Exception):  # it may be dead
                ray.kill(worker.actor)
        ray.shutdown()

    def _look(self) -> None:
        """See which nodes live: forget idle actors on those that died, count room on new ones."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        living = self._nodes.living()
        self._looked = time.monotonic()
        for node in living:
            differs = node.versions and node.versions != own_versions()
            if differs and self._share(node) and node.node_id not in self._refused:
                self._refused.add(node.node_id)
                self._say(
                    f"{node.host} gets no jobs: it has {node.versions}, and this command "
                    f"{own_versions()}"
                )
        before, usable = self._room, [n for n in living if n.versions == own_versions()]
        usable = [n for n in usable if self._doubtful.get(n.node_id, 0.0) < self._looked]
        self._room = {n.node_id: self._share(n) for n in usable if self._share(n)}
        room = sum(self._room.values())
        self.slots = room if self._limit is None else min(room, self._limit)
        self._threads = {n.node_id: max(1, n.cpus // self._room.get(n.node_id, 1)) for n in usable}
        self._workers = [w for w in self._workers if w.attempt or w.node in self._room]
        if before and not self._room:
            self._say("no node of the cluster answers; waiting for one")

    def _share(self, node: Node) -> int:
        """Return how many jobs a node runs at once: by GPU, else one a core."""
        return node.gpus * self._per_gpu if self._kind == "cuda" else node.cpus

    def _start(self) -> _Worker:
        import ray

        used = {node: sum(w.node == node for w in self._workers) for node in self._room}
        node = max(self._room, key=lambda node: self._room[node] - used[node])
        on_gpu = self._kind == "cuda"
        share = {"num_gpus": 1 / self._per_gpu, "num_cpus": 0} if on_gpu else {"num_cpus": 1}
        remote = pinned(ray.remote(Server), node, max_restarts=0, **share)
        threads = self._threads[node] if on_gpu else 1
        actor = remote.remote(self._inbox, self._make, self._kind, threads)
        worker = _Worker(actor, node)
        self._workers.append(worker)
        return worker

    def _store(self, name: str) -> Any:
        """Put a file of the results folder into the object store, unless it is there."""
        import ray

        stat = (self._results / name).stat()
        what = stat.st_mtime_ns, stat.st_size
        if name not in self._stored or self._stored[name][0] != what:
            self._stored[name] = what, ray.put((self._results / name).read_bytes())
        return self._stored[name][1]


def _why(ref: Any) -> str:
    """Return how a call ended that did not end well; of an error in our code, its last line."""
    import ray

    try:
        ray.get(ref)
    except ray.exceptions.RayError as error:
        *_, last = [line for line in str(error).splitlines() if line.strip()] or [""]
        raised = isinstance(error, ray.exceptions.RayTaskError) or "creation task" in str(error)
        return one_line(last) if raised else type(error).__name__
    return "it ended without a word"
