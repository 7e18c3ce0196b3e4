"""The engine for Slurm: jobs, submitted by submitit, that work in the shared results folder.

A job that comes to its time limit is put into the queue again and resumes from the folder. Jobs
outlive the driver, and the next command follows them: submitit's own file of a job, without which
the job does nothing, has its id in its name, so no job is unknown wherever the driver was killed.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, one_line
from bench.jobs.job import Done, Engine, Event, Failed, Job, Lost
from bench.jobs.slurm_job import SlurmJob, events
from bench.records.run_folder import RunFolder
from bench.storage import write_atomic

if TYPE_CHECKING:
    import torch

    from bench.jobs.work import Worker

FOLDER = ".slurm"
"""Below the results folder. Its pickles are code: share records without it."""
SUBMITTED = "*_submitted.pkl"
"""Files of submitit, one a job; its id comes first."""
MAX_REQUEUES = 1000
"""Times that a job may come to its limit; submitit's own default is 3."""
SIGNAL_SECONDS = 90
"""Before the limit, in which a job stops and asks to be queued again."""
END_SECONDS = 10.0
"""In which a job that is done ends."""
LOOK_SECONDS = 2.0
"""Time between two looks at what jobs said."""
QUEUE_SECONDS = 30.0
"""Time between two looks at the queue."""


@dataclass
class _Out:
    """A Slurm job."""

    job: Job
    slurm: Any
    """Submitit's view of it."""
    log: Path
    """What it says; removed once it said that it is done."""
    attempt: int | None = None
    """None while no driver follows it."""
    place: int = 0
    """Up to which its log was read."""
    over: bool = False
    """Whether it said that it is done."""
    gone: bool = False
    """Whether it was not in the queue at the last look."""

    @property
    def ended(self) -> bool:
        return self.gone or self.slurm.paths.result_pickle.exists()


class SlurmEngine(Engine):
    """Submits a Slurm job for each job; a training on several GPUs counts as so many."""

    whole = True

    def __init__(self, results: Path, device: str, workers: int, options: Sequence[str]) -> None:
        """options: KEY=VALUE of sbatch."""
        self.slots, self._device = workers, device
        self._folder = (results / FOLDER).resolve()
        self._submitit = self._folder / "submitit"
        self._executor = self.executor(options)
        self._asks_gpus = device != "cpu" and not any(
            text.startswith(("gpu", "gres", "tres")) for text in options
        )
        self._out: dict[str, _Out] = {}
        self._looked = self._looked_at_queue = float("-inf")
        self._claim = ExitStack()
        if self._claim.enter_context(RunFolder(results, FOLDER).claimed()) is False:
            raise ConfigError(
                f"another command follows the Slurm jobs of {results}: wait for it, or end it (its "
                "jobs continue), then run this one again"
            )

    def executor(self, options: Sequence[str]) -> Any:
        """Return submitit's executor; raises ConfigError if there is no Slurm."""
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "--cluster slurm needs submitit: pip install 'atbench[slurm]'"
            ) from None
        if not (shutil.which("sbatch") and shutil.which("srun")):
            raise ConfigError("--cluster slurm: there is no sbatch here; run it on a login node")
        executor = submitit.SlurmExecutor(self._submitit, max_num_timeout=MAX_REQUEUES)
        given = sbatch_options(options)
        if "time" not in given:
            raise ConfigError("--slurm needs the time limit of a job, such as time=24:00:00")
        known = {key: given.pop(key) for key in list(given) if key in executor._valid_parameters()}
        executor.update_parameters(
            **{"job_name": "atbench", "signal_delay_s": SIGNAL_SECONDS} | known,
            additional_parameters={"requeue": True} | given,
        )
        return executor

    def queue(self) -> set[str]:
        """Return the ids of this user's jobs that wait or run; sacct need not know them."""
        line = ["squeue", "--me", "--noheader", "--format=%A"]
        found = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
        return set(found.stdout.split())

    def use(self, device: torch.device, say: Callable[[str], None]) -> None:
        """Find the jobs of earlier commands; `device` is the driver's."""
        self._say = say
        for path in self._submitit.glob(SUBMITTED):
            slurm_id = path.name.partition("_")[0]
            slurm = self._executor.job_class(self._submitit, slurm_id)
            try:
                if path.stat().st_uid != os.getuid():
                    raise PermissionError(f"it is {path.owner()}'s")
                job, _, log, _ = slurm.submission().args
            except Exception as error:  # such as a pickle of another version of this program
                raise ConfigError(
                    f"Slurm job {slurm_id} of an earlier command cannot be followed "
                    f"({one_line(error)}): end it (scancel {slurm_id}) and remove {self._folder}"
                ) from None
            self._out[slurm_id] = _Out(job, slurm, log, over=not log.exists())

    def begin(self, make: Callable[..., Worker]) -> None:
        self._plan = self._folder / f"{uuid.uuid4().hex}.plan"
        self._make = make

    @property
    def held(self) -> list[Job]:
        """Jobs of earlier commands, which `submit` follows instead of submitting them again."""
        return [out.job for out in self._out.values() if out.attempt is None and not out.over]

    @property
    def free(self) -> int:
        out = (out.job.gpus for out in self._out.values() if out.attempt is not None)
        return self.slots - sum(out)

    def submit(self, attempt: int, job: Job) -> None:
        from submitit.core.utils import FailedJobError

        for slurm_id, out in self._out.items():
            if out.attempt is None and out.job is job:
                out.attempt = attempt
                self._say(f"{job.title}: follows Slurm job {slurm_id}")
                return
        if not self._plan.exists():
            write_atomic(self._plan, pickle.dumps(self._make))
        log = self._folder / f"{uuid.uuid4().hex}.log"
        write_atomic(log, b"")
        if self._asks_gpus:
            self._executor.update_parameters(gpus_per_node=job.gpus)
        try:
            slurm = self._executor.submit(SlurmJob(), job, self._plan, log, self._device)
        except FailedJobError as error:
            raise ConfigError(
                f"sbatch refused a job: {one_line(str(error))}; look at --slurm and --workers"
            ) from None
        self._out[slurm.job_id] = _Out(job, slurm, log, attempt)

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        sleep(min(seconds, max(0.0, self._looked + LOOK_SECONDS - monotonic())))
        self._looked = monotonic()
        self._look_at_queue()
        for slurm_id, out in list(self._out.items()):
            if out.over and out.ended:
                self._forget(slurm_id)
            elif out.attempt is not None:
                self._follow(slurm_id, out, out.attempt, take)

    def close(self) -> None:
        end = monotonic() + END_SECONDS
        for slurm_id, out in list(self._out.items()):
            while out.over and not out.ended and monotonic() < end:
                sleep(0.1)
            if out.over:
                self._forget(slurm_id)
        if not any(self._submitit.glob(SUBMITTED)):
            shutil.rmtree(self._folder, ignore_errors=True)
        self._claim.close()
        followed = [i for i, out in self._out.items() if out.attempt is not None]
        if followed:
            self._say(
                f"Slurm jobs {', '.join(followed)} go on; the same command follows them "
                f"(to end them: scancel {' '.join(followed)})"
            )

    def _look_at_queue(self) -> None:
        if monotonic() - self._looked_at_queue < QUEUE_SECONDS:
            return
        self._looked_at_queue = monotonic()
        try:
            queued = self.queue()
        except (OSError, subprocess.SubprocessError) as error:
            self._say(f"squeue fails, trying again: {one_line(error)}")
            return
        for slurm_id, out in self._out.items():
            out.gone = slurm_id not in queued

    def _follow(
        self, slurm_id: str, out: _Out, attempt: int, take: Callable[[int, Event], None]
    ) -> None:
        ended = out.ended  # before the look at its last words
        for event in self._new_events(out):
            take(attempt, event)
            if isinstance(event, Done | Lost):
                out.attempt, out.over = None, True
                out.log.unlink(missing_ok=True)
                return
        if not ended:
            return
        last = [line for line in (out.slurm.stderr() or "").splitlines() if line.strip()][-1:]
        state = str(out.slurm.get_info().get("State") or "ended")
        self._forget(slurm_id)
        if state.startswith("CANCELLED"):
            line = f"{out.job.title}: its Slurm job {slurm_id} was cancelled"
            for spec_id in out.job.made or [""]:
                take(attempt, Failed(spec_id=spec_id, line=line, fixable=True))
            take(attempt, Done())
        else:
            take(attempt, Lost(one_line(": ".join([f"Slurm job {slurm_id}", state, *last]))))

    def _new_events(self, out: _Out) -> list[Event]:
        """Return what a job said since the last look, in whole lines."""
        try:
            with out.log.open("rb") as file:
                file.seek(out.place)
                content = file.read()
        except OSError:  # of a network disk, for a moment
            return []
        whole = content[: content.rfind(b"\n") + 1]
        out.place += len(whole)
        with suppress(OSError):  # a network disk shows new files once their folder is opened again
            list((self._folder.parent / out.job.run.run_id).iterdir())
        return events(whole)

    def _forget(self, slurm_id: str) -> None:
        out = self._out.pop(slurm_id)
        for path in self._submitit.glob(f"{slurm_id}_*"):
            path.unlink(missing_ok=True)
        out.log.unlink(missing_ok=True)


def refuse_running(results: Path) -> None:
    """Raise ConfigError if Slurm jobs of an earlier command may work in the results folder."""
    folder = results / FOLDER
    if ids := [path.name.partition("_")[0] for path in folder.rglob(SUBMITTED)]:
        raise ConfigError(
            f"Slurm jobs may still work in {results}: {', '.join(ids)}; go on with --cluster "
            f"slurm, or end them (scancel {' '.join(ids)}) and remove {folder}"
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
