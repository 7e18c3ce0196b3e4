"""The worker's side of a job, whatever engine carries it."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import nn

from bench.checkpoints import surrogate_network
from bench.data import Dataset
from bench.data.dataset import FileSplit
from bench.errors import (
    BenchError,
    ConfigError,
    DataError,
    ModelError,
    NonFiniteLoss,
    RecordError,
    one_line,
)
from bench.evaluation.inputs import blamed
from bench.evaluation.store import AttackedCheckpoint, Images, attack, measure
from bench.experiments.plan import RunPlan
from bench.external.identity import FILE as FINGERPRINT
from bench.external.identity import fingerprint, refuse_another
from bench.jobs.job import Began, Done, Event, Failed, Job, Lost, Said, Send, Sent, Shown, Trained
from bench.jobs.parcel import Mirror, Parcel
from bench.jobs.spawn import Unforeseen, run_ranks
from bench.machine import describe_machine, free_memory, several_devices
from bench.progress import Reporter, Task
from bench.provenance import evaluation_code
from bench.ranks import ALONE, RankLost, Ranks
from bench.records.run_folder import RunFolder
from bench.records.spec import CHUNK, EvalSpec, MeasureSpec, ModelSpec
from bench.registry import method_sha256
from bench.training.checkpoint import has_state
from bench.training.engine import Trainer

SHOW_SECONDS = 0.25
"""Time between two messages of how far a training is."""
KEPT_NETWORKS = 2
"""Networks that stay loaded between jobs: both checkpoints of a run."""
LOOKED_AT = 300
"""Image files of each split whose presence a worker checks."""
RESUMED = ("state-*.pt", "best*.safetensors")
"""Files that an interrupted training resumes from."""


class Worker:
    """Does one job after another on one device; keeps data and the last networks loaded."""

    def __init__(
        self,
        results: Path,
        datasets: Sequence[Dataset],
        device: torch.device,
        *,
        scratch: Path | None = None,
        networks: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """results: only read, except by a training without `scratch`, which works in it.

        networks: external models by run id.
        """
        self.home = self.results = results
        """The driver's folder, and where its files are here, which an engine may change."""
        self.device, self.scratch = device, scratch
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # else libraries would also take memory of the first
        self.ending = False
        """Whether this process was told to end, by an exception that is no failure."""
        self.images = [Images(dataset, device) for dataset in datasets]
        self.info = describe_machine(device) | {"code": evaluation_code()}
        self.external = dict(networks or {})
        self._attacked: dict[tuple[str, str, int], AttackedCheckpoint] = {}
        self._surrogates: dict[tuple[str, int], nn.Module] = {}
        self._told: set[tuple[str, str]] = set()

    def do(self, job: Job, send: Send) -> None:
        """Do the job and send its events; raises RecordError if nothing can be written."""
        end: Event = Done()
        if job.trains:
            with self._reported(send, job, ""):
                end = self._train(job, send)
        pieces = list(product(job.made.items(), job.chunks))
        for done, ((spec_id, spec), chunk) in enumerate(pieces):
            send(Shown(done, len(pieces), spec.title) if len(pieces) > 1 else Shown(0, 0, ""))
            with self._reported(send, job, spec_id), blamed(self._target(job).model, spec.title):
                send(Sent(self._made(job, spec, chunk, send)))
        send(end)

    def _train(self, job: Job, send: Send) -> Event:
        """Train; return the last event."""
        run, home = job.run, RunFolder(self.results, job.run.run_id)
        assert run.method_name is not None
        if method_sha256(run.method_name) != run.train_spec.method_sha256:
            raise ConfigError(f"{run.method_name} changed since this command began; run it again")
        folder = home
        if self.scratch is not None:
            folder = RunFolder(self.scratch, run.run_id)
            shutil.rmtree(folder.path, ignore_errors=True)
            folder.path.mkdir(parents=True)
            for path in (path for kind in RESUMED for path in home.path.glob(kind)):
                shutil.copy2(path, folder.path / path.name)
        dataset = self.images[job.dataset].dataset
        work = partial(train, job.run, dataset, folder, folder is not home)
        end: Event = Done()
        if job.gpus == 1:
            work(self.device, send)
        else:
            devices = [torch.device(name) for name in job.devices]
            self._attacked.clear()  # the first rank needs the memory
            free_memory(self.device)
            try:
                gpus = devices or several_devices(self.device, job.gpus)
                run_ranks(work, gpus, send, self.scratch)
            except RankLost as error:
                end = Lost(str(error))
        if self.scratch is not None:
            shutil.rmtree(folder.path, ignore_errors=True)
        return end

    def _made(self, job: Job, spec: EvalSpec | MeasureSpec, chunk: int, send: Send) -> Parcel:
        """Return the files of a chunk or a measure; send the parts of a chunk as they are done."""
        target = self._target(job)
        if isinstance(spec, MeasureSpec):
            return Parcel(measure(target, spec))
        folder = RunFolder(self.results, job.run.run_id).evaluation(spec)
        part = f"evaluations/{spec.eval_id}/{folder.partial(chunk).name}"
        made = attack(
            *(target, spec, chunk),
            unfinished=folder.unfinished(chunk),
            on_part=lambda content: send(Sent(Parcel({part: content}))),
            keep_images=job.run.keep_images,
            recorded=folder.has(chunk),
        )
        return Parcel(made, (part,))

    @contextmanager
    def _reported(self, send: Send, job: Job, spec_id: str) -> Iterator[None]:
        """Send what fails in the block; raises only RecordError."""
        try:
            yield
        except RecordError:
            raise
        except (Exception, SystemExit) as error:  # a user's code, no memory, a mistake here
            if self.ending:
                raise
            send(self.failed(job, spec_id, error))
            del error
            free_memory(self.device)

    def failed(self, job: Job, spec_id: str, error: BaseException) -> Failed:
        """Return why something failed, in one line, and the traceback of an unforeseen error."""
        run_id, fixable = job.run.run_id, isinstance(error, BenchError)
        reason, trace = one_line(str(error), 10_000) if fixable else one_line(error), ""
        found = Unforeseen.of(error)
        reason = reason if fixable else found.line
        head, why = f"{run_id} {job.run.checkpoints}", reason.partition(": ")[2]
        if not fixable:
            place = f"{found.place}; " if found.place else ""
            file = RunFolder(self.home, run_id).traceback_file
            reason += f" ({place}its traceback is in {file})"
            trace = found.trace
        if job.trains:
            line = f"{run_id}: failed here: {reason}"
            line = f"error: {reason} ({run_id} failed)" if fixable else line
        else:
            title = job.made[spec_id].title if spec_id else job.title
            line = reason if isinstance(error, ModelError) else f"{title} was not made: {reason}"
            if why and (head, why) in self._told:  # one line explains all fourteen checks
                line = f"{title}: the same"
            line = f"{run_id} ({job.run.checkpoints[0]}): {line}"
        self._told.add((head, why))
        return Failed(spec_id=spec_id, line=line, fixable=fixable, traceback=trace)

    def _target(self, job: Job) -> AttackedCheckpoint:
        """Return the checkpoint to attack; loads its network if another one was attacked last."""
        run, checkpoint = job.run, job.run.checkpoints[0]
        summary = RunFolder(self.results, run.run_id).train_summary() or {}
        sha256 = summary.get("checkpoints", {}).get(checkpoint, {}).get("sha256", checkpoint)
        key = run.run_id, str(sha256), job.dataset
        if key not in self._attacked:
            while len(self._attacked) >= KEPT_NETWORKS:
                del self._attacked[next(iter(self._attacked))]
            images = self.images[job.dataset]
            network = self.external.get(run.run_id)
            if network is None:
                network = run.load(checkpoint, self.results, images.dataset, self.device)
                if isinstance(run.spec, ModelSpec):
                    first = images.chunk(range(min(CHUNK, len(images.dataset.test))))[0]
                    refuse_another(self.results / run.run_id, fingerprint(network, first))
            self._attacked[key] = AttackedCheckpoint(
                run_id=run.run_id,
                checkpoint=checkpoint,
                model=network,
                images=images,
                surrogate=lambda run_id: self._surrogate(run_id, job.dataset),
                info=self.info,
            )
        return self._attacked[key]

    def _surrogate(self, run_id: str, dataset: int) -> nn.Module:
        if (run_id, dataset) not in self._surrogates:
            found = surrogate_network(self.results, run_id, self.images[dataset].dataset)
            self._surrogates[run_id, dataset] = found.to(self.device)
        return self._surrogates[run_id, dataset]


def train(
    run: RunPlan,
    dataset: Dataset,
    folder: RunFolder,
    mirrored: bool,
    device: torch.device,
    send: Send,
    ranks: Ranks = ALONE,
) -> None:
    """Train in `folder`; the first rank sends progress, and how it ends.

    mirrored: send the changed files as well, at every saved state.
    """
    method, first = run.method, ranks.rank == 0
    assert method is not None
    trainer = _SavingTrainer(run.train_spec, method, dataset, folder, device, ranks=ranks)
    mirror = Mirror(folder.path) if mirrored and first else None
    if first:
        trainer.saved = lambda: send(Sent(mirror.changes() if mirror else Parcel()))
        if not has_state(folder.path):
            send(Began(describe_machine(device)))
    try:
        summary = trainer.run(_RemoteReporter(send) if first else Reporter(quiet=True))
    except NonFiniteLoss as error:
        place = {"epoch": error.epoch, "step": error.step}
        summary = {"status": "failed", "error": str(error), **place}
        summary["warnings"] = trainer.warnings
        if first:
            send(Said(f"{run.run_id}: failed: {error}"))
    if first:
        trainer.saved()
        send(Trained(summary))


def needed_files(job: Job, results: Path) -> list[str]:
    """Return the files of the results folder that a job reads, for workers elsewhere."""
    run, folder = job.run, RunFolder(results, job.run.run_id)
    if job.trains:
        found = [path for kind in RESUMED for path in folder.path.glob(kind)]
    else:
        (checkpoint,) = run.checkpoints
        found = [folder.train_file, folder.weights(checkpoint), folder.path / FINGERPRINT]
        for made in (folder.evaluation(spec) for spec in run.evaluations):
            found += [made.partial(n) for n in job.chunks]
            if run.keep_images:  # of chunks that may be recorded
                found += [made.path / "eval.json", made.path.with_name(f"{checkpoint}.npz")]
                numbered = product(job.chunks, ("json", "npz"))
                found += [made.path / f"{n}.{name}" for n, name in numbered]
        for run_id in run.surrogates:
            other = RunFolder(results, run_id)
            found += [other.path / "spec.json", other.train_file, other.weights("best")]
        found += [results / name for name in run.reads]
    return [str(path.relative_to(results)) for path in found if path.is_file()]


def refuse_other_files(dataset: Dataset) -> None:
    """Raise DataError if image files of a data set are not here; looks at some hundreds."""
    for split in (dataset.train, dataset.val, dataset.test):
        if isinstance(split, FileSplit):
            for number in range(0, len(split), max(1, len(split) // LOOKED_AT)):
                path = split.root / split.paths[number]
                if not (path.is_file() and path.stat().st_size == split.sizes[number]):
                    raise DataError(
                        f"{path} is not here, or another file: images must lie in the same folder "
                        "on every machine"
                    )


def _nothing() -> None:
    """Only the first rank tells that it saved."""


class _SavingTrainer(Trainer):
    """A training that tells when its state was saved."""

    saved: Callable[[], None] = staticmethod(_nothing)

    def _save(self) -> None:
        super()._save()
        self.saved()


class _RemoteReporter(Reporter):
    """Sends progress and lines to the driver."""

    def __init__(self, send: Send) -> None:
        super().__init__(quiet=True)
        self.send, self._shown = send, 0.0

    def say(self, text: str) -> None:
        self.send(Said(text))

    def show(self, task: Task) -> None:
        if time.monotonic() - self._shown >= SHOW_SECONDS:
            self._shown = time.monotonic()
            self.send(Shown(task.done, task.total, task.detail))
