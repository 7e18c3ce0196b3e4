"""The engine for Slurm: jobs, submitted by submitit, that work in the shared results folder.

A job that comes to its time limit is put into the queue again and resumes from the folder. Jobs
outlive the driver: RESULTS/.slurm holds what they are and what they say, and the next command
follows them.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, RecordError, one_line
from bench.jobs.job import Began, Done, Engine, Event, Failed, Job, Lost, Said, Sent, Shown, Trained
from bench.jobs.parcel import Parcel
from bench.storage import read_json, write_atomic, write_json

if TYPE_CHECKING:
    import torch

    from bench.jobs.work import Worker

EVENTS = {kind.__name__: kind for kind in (Began, Done, Failed, Said, Shown, Trained)}
FOLDER = ".slurm"
"""Below the results folder. Its pickles are code: share records without it."""
MAX_REQUEUES = 1000
"""Times that a job may come to its limit; submitit's own default is 3."""
SIGNAL_SECONDS = 90
"""Before the limit, in which a job stops and asks to be queued again."""
END_SECONDS = 10.0
"""In which a job that is done ends."""
LOOK_SECONDS = 2.0
"""Time between two looks at what jobs said."""
SHOW_SECONDS = 10.0
"""Time between two lines in which a job says how far it is."""


@dataclass
class _Out:
    """A Slurm job."""

    job: Job
    slurm: Any
    """Submitit's view of it."""
    log: Path
    attempt: int | None = None
    """None while no driver follows it."""
    place: int = 0
    """Up to which its log was read."""
    over: bool = False
    """Whether it said that it is done."""
    silent: bool = False
    """Whether Slurm said at the last look that it ended."""


class SlurmEngine(Engine):
    """Submits a Slurm job for each job, at most `workers` at once."""

    whole = True

    def __init__(self, results: Path, device: str, workers: int, options: Sequence[str]) -> None:
        """options: KEY=VALUE of sbatch."""
        self.slots, self._device = workers, device
        self._folder = (results / FOLDER).resolve()
        self._submitit, self._file = self._folder / "submitit", self._folder / "jobs.json"
        self._executor = self.executor(options)
        self._out: dict[str, _Out] = {}
        self._looked = 0.0

    def executor(self, options: Sequence[str]) -> Any:
        """Return submitit's executor; raises ConfigError if there is no Slurm."""
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "--cluster slurm needs submitit: pip install 'atbench[slurm]'"
            ) from None
        if shutil.which("sbatch") is None:
            raise ConfigError("--cluster slurm: there is no sbatch here; run it on a login node")
        executor = submitit.SlurmExecutor(self._submitit, max_num_timeout=MAX_REQUEUES)
        given = sbatch_options(options)
        if "time" not in given:
            raise ConfigError("--slurm needs the time limit of a job, such as time=24:00:00")
        known = {key: given.pop(key) for key in list(given) if key in executor._valid_parameters()}
        if self._device != "cpu" and not any("gpu" in t or t.startswith("gres") for t in options):
            known["gpus_per_node"] = 1
        executor.update_parameters(
            **{"job_name": "atbench", "signal_delay_s": SIGNAL_SECONDS} | known,
            additional_parameters={"requeue": True} | given,
        )
        return executor

    def use(self, device: torch.device, say: Callable[[str], None]) -> None:
        """Find the jobs of earlier commands; `device` is the driver's."""
        self._say = say
        for slurm_id, log in (read_json(self._file) if self._file.exists() else {}).items():
            path = self._folder / log
            try:
                job = pickle.loads(path.with_suffix(".job").read_bytes())
            except Exception as error:  # by another version of this program
                raise ConfigError(
                    f"Slurm job {slurm_id} of an earlier command cannot be followed "
                    f"({one_line(error)}): end it (scancel {slurm_id}) and remove {self._folder}"
                ) from None
            slurm = self._executor.job_class(self._submitit, slurm_id)
            self._out[slurm_id] = _Out(job, slurm, path)

    def begin(self, make: Callable[..., Worker]) -> None:
        self._plan = self._folder / f"{uuid.uuid4().hex}.plan"
        self._make = make

    @property
    def held(self) -> list[Job]:
        """Jobs of earlier commands, which `submit` follows instead of submitting them again."""
        return [out.job for out in self._out.values() if out.attempt is None and not out.over]

    @property
    def free(self) -> int:
        return self.slots - sum(out.attempt is not None for out in self._out.values())

    def submit(self, attempt: int, job: Job) -> None:
        for slurm_id, out in self._out.items():
            if out.attempt is None and out.job is job:
                out.attempt = attempt
                self._say(f"{job.title}: follows Slurm job {slurm_id}")
                return
        if not self._plan.exists():
            write_atomic(self._plan, pickle.dumps(self._make))
        log = self._folder / f"{uuid.uuid4().hex}.log"
        write_atomic(log.with_suffix(".job"), pickle.dumps(job))
        slurm = self._executor.submit(SlurmJob(), self._plan, log, self._device)
        self._out[slurm.job_id] = _Out(job, slurm, log, attempt)
        self._write()

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        sleep(min(seconds, max(0.0, self._looked + LOOK_SECONDS - monotonic())))
        self._looked = monotonic()
        for slurm_id, out in list(self._out.items()):
            if out.over and out.slurm.done():
                self._forget(slurm_id)
            elif out.attempt is not None:
                self._follow(slurm_id, out, out.attempt, take)

    def close(self) -> None:
        end = monotonic() + END_SECONDS
        for slurm_id, out in list(self._out.items()):
            while out.over and not out.slurm.done() and monotonic() < end:
                sleep(0.1)
            if out.over:
                self._forget(slurm_id)
        if not self._out:
            shutil.rmtree(self._folder, ignore_errors=True)
        followed = [i for i, out in self._out.items() if out.attempt is not None]
        if followed:
            self._say(
                f"Slurm jobs {', '.join(followed)} go on; the same command follows them "
                f"(to end them: scancel {' '.join(followed)})"
            )

    def _follow(
        self, slurm_id: str, out: _Out, attempt: int, take: Callable[[int, Event], None]
    ) -> None:
        ended = out.slurm.done()
        for event in self._new_events(out):
            if isinstance(event, Done):
                out.attempt, out.over = None, True
            take(attempt, event)
        if out.over or not ended:
            return
        if not out.silent:  # its last words may take a moment on a network disk
            out.silent = True
            return
        self._forget(slurm_id)
        if (state := out.slurm.state).startswith("CANCELLED"):
            line = f"{out.job.title}: its Slurm job {slurm_id} was cancelled"
            for spec_id in out.job.made or [""]:
                take(attempt, Failed(spec_id=spec_id, line=line, fixable=True))
            take(attempt, Done())
        else:
            take(attempt, Lost(f"Slurm job {slurm_id}: {state}"))

    def _new_events(self, out: _Out) -> list[Event]:
        """Return what a job said since the last look, in whole lines."""
        with suppress(OSError):  # no word yet
            # a network disk shows what others wrote to a folder once it is opened again
            list((self._folder.parent / out.job.run.run_id).iterdir())
            content = out.log.read_bytes()[out.place :]
            whole = content[: content.rfind(b"\n") + 1]
            out.place += len(whole)
            return [event for line in whole.splitlines() for event in _events(line)]
        return []

    def _forget(self, slurm_id: str) -> None:
        out = self._out.pop(slurm_id)
        for path in (out.log, out.log.with_suffix(".job")):
            path.unlink(missing_ok=True)
        for path in self._submitit.glob(f"{slurm_id}_*"):
            path.unlink(missing_ok=True)
        self._write()

    def _write(self) -> None:
        write_json(self._file, {slurm_id: out.log.name for slurm_id, out in self._out.items()})


def refuse_running(results: Path) -> None:
    """Raise ConfigError if Slurm jobs of an earlier command may work in the results folder."""
    path = results / FOLDER / "jobs.json"
    if path.exists() and (ids := read_json(path)):
        raise ConfigError(
            f"Slurm jobs may still work in {results}: {', '.join(ids)}; go on with --cluster "
            f"slurm, or end them (scancel {' '.join(ids)}) and remove {path.parent}"
        )


def sbatch_options(options: Sequence[str]) -> dict[str, Any]:
    """Return the options of sbatch that KEY=VALUE name, the time in minutes; raises ConfigError."""
    found: dict[str, Any] = {}
    for text in options:
        key, _, value = (part.strip() for part in text.partition("="))
        if not (key and value):
            raise ConfigError(
                f"--slurm {text}: write options of sbatch as KEY=VALUE, such as "
                "partition=gpu,time=24:00:00"
            )
        found[key.removeprefix("--").replace("-", "_")] = value
    if "time" in found:
        found["time"] = _minutes(found["time"])
    return found


def _minutes(text: str) -> int:
    """Return minutes of Slurm's notation: MIN, MIN:S, H:MIN:S, D-H, D-H:MIN or D-H:MIN:S."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise ConfigError(f"--slurm time={text}: write it as 24:00:00, 2-12 (days-hours) or 90")
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes = (*parts, 0)[:2]
    else:
        hours, minutes = (parts[0], parts[1]) if len(parts) == 3 else (0, parts[0])
    return int(days or 0) * 1440 + hours * 60 + minutes


class SlurmJob:
    """What a Slurm job does; submitit pickles it."""

    worker: Worker | None = None

    def __call__(self, plan: Path, log: Path, device: str) -> None:
        from bench.machine import choose_device, tune_process

        tune_process()
        job: Job = pickle.loads(log.with_suffix(".job").read_bytes())
        worker: Worker = pickle.loads(plan.read_bytes())(choose_device(device))
        folder = plan.parent.parent
        worker.home = worker.results = folder
        self.worker = worker
        shown = 0.0

        def send(event: Event) -> None:
            nonlocal shown
            if isinstance(event, Sent):
                event.parcel.apply(folder / job.run.run_id)
                event = Sent(Parcel())  # that something was done
            if not isinstance(event, Shown) or monotonic() - shown > SHOW_SECONDS:
                shown = monotonic()
                with log.open("a") as file:
                    file.write(_line(event))

        try:
            worker.do(job, send)
        except RecordError as error:  # the disk is full
            send(worker.failed(job, "", error))
            send(Done())

    def checkpoint(self, *args: Any) -> Any:
        """Before the limit: the state is in the results folder, so do the same once more."""
        from submitit.helpers import DelayedSubmission

        if self.worker is not None:
            self.worker.ending = True  # submitit ends the process by SystemExit
        return DelayedSubmission(SlurmJob(), *args)


def _line(event: Event) -> str:
    """Return a line; one that a kill cut off before it does not touch it."""
    fields = {} if isinstance(event, Sent) else asdict(event)
    return "\n" + json.dumps([type(event).__name__, fields]) + "\n"


def _events(line: bytes) -> list[Event]:
    try:
        name, fields = json.loads(line)
    except ValueError:  # empty, or cut off
        return []
    return [Sent(Parcel()) if name == "Sent" else EVENTS[name](**fields)]
