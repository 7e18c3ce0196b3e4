"""The driver: hands out jobs, and alone writes to the results folder."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic, sleep
from typing import Any

from torch import nn

from bench.checkpoints import weights_whole
from bench.estimate import attack_effort
from bench.experiments.plan import Plan
from bench.jobs.display import Attempt, Display
from bench.jobs.here import HereEngine
from bench.jobs.job import (
    Began,
    Done,
    Engine,
    Event,
    Failed,
    Job,
    Lost,
    Said,
    Sent,
    Shown,
    Trained,
)
from bench.jobs.runs import WAIT_SECONDS, Run
from bench.jobs.work import Worker
from bench.jobs.workspace import Workspace
from bench.machine import describe_machine
from bench.progress import Task
from bench.provenance import training_code
from bench.registry import source_file

MAX_LOSSES = 5
"""Times in a row that a job may lose its worker without progress."""


def run_plans(
    plans: Sequence[Plan],
    where: Workspace,
    provenance: Mapping[str, Any] | None = None,
    *,
    networks: Mapping[str, nn.Module] | None = None,
) -> None:
    """Do what is missing of the plans; failures are in the reporter. Raises RecordError.

    provenance: more entries of it. networks: external models by run id, for a
    worker in this process.
    """
    make = partial(Worker, where.results, [plan.dataset for plan in plans])
    if isinstance(where.engine, HereEngine):
        make = partial(make, networks=networks)
    where.engine.begin(make)
    Driver(plans, where, where.engine, provenance).run()


class Driver:
    """Works on the runs of plans through an engine, until nothing is left that can be done."""

    make_run: type[Run] = Run

    def __init__(
        self,
        plans: Sequence[Plan],
        where: Workspace,
        engine: Engine,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.where, self.engine, self.reporter = where, engine, where.reporter
        self.provenance = dict(provenance or {})
        self.machine = describe_machine(where.device)
        self.runs: dict[str, Run] = {}
        for number, plan in enumerate(plans):
            for planned in plan.runs:
                if planned.method is not None:
                    training_code(source_file(planned.method))  # hash the file before it can change
                if planned.run_id in self.runs:
                    planned = self.runs[planned.run_id].plan.joined(planned)
                self.runs[planned.run_id] = self.make_run(planned, plan, number, where)
        self.serving = {s for run in self.runs.values() for s in run.plan.surrogates}
        self.effort = self._total_effort() / (4 * engine.slots) if engine.whole else 0.0
        """Of an attack job: about four a worker."""
        self.out: dict[int, Attempt] = {}
        self.losses: dict[str, int] = {}
        """By the name of a job."""
        self.n_attempts = 0
        self.last = ""
        """The run of the last job that ended; its worker has its network."""
        self.ready: set[str] = set()
        """Runs whose weights were found whole, to serve others."""
        self.locks = True
        self.display = Display(self.reporter, engine, self.out, self.runs)

    def _total_effort(self) -> float:
        return sum(
            attack_effort(run.plan.spec, spec, spec.n_examples)
            for run in self.runs.values()
            for spec in run.plan.evaluations
        )

    def run(self) -> None:
        """Work until every run is finished or failed; raises RecordError."""
        try:
            for run in self.runs.values():
                self._open(run)
                self._close(run)
            self._hand_out()
            while self.out or self._waits():
                if self.out or self.engine.free <= 0:
                    self.engine.poll(WAIT_SECONDS, self._take)
                else:
                    sleep(WAIT_SECONDS)
                self._hand_out()
        finally:
            self.display.hide()
            for run in self.runs.values():
                if run.claim is not None:
                    run.claim.close()

    def _waits(self) -> bool:
        """Whether runs of another command, or jobs without any machine, may go on some time."""
        left = [run.jobs for run in self.runs.values()]
        return None in left or (self.engine.free <= 0 and any(left))

    # --- what is missing ---

    def _open(self, run: Run) -> None:
        """Claim a run, mend its folder and list its jobs, unless another command has it."""
        held = [job for job in self.engine.held if job.run.run_id == run.run_id]
        ours = run.open(mends=not held and not self._out_of(run))
        if ours is False:
            return
        for job in held:
            self._submit(run, job)
        if ours is None and self.locks:
            self.locks = False
            line = f"{self.where.results} cannot lock files: start no second command in it"
            self.reporter.say(line)
        self._list_jobs(run)
        if run.jobs or run.folder.train_file.exists():
            self._write_spec(run, self.machine)
        run.write_scalars()

    def _close(self, run: Run) -> None:
        if not self._out_of(run):
            run.close()

    def _out_of(self, run: Run) -> list[Job]:
        return [attempt.job for attempt in self.out.values() if attempt.run is run]

    def _list_jobs(self, run: Run) -> None:
        wanted = {s for other in self.runs.values() for s in other.status.surrogates}
        out = {unit for job in self._out_of(run) for unit in job.units}
        run.list_jobs(out, serves=run.run_id in wanted, effort=self.effort)
        if run.jobs:
            several = self.engine.slots > 1
            run.jobs.sort(key=lambda job: (job.stage, -job.work if several else 0.0))

    def _write_spec(self, run: Run, machine: Mapping[str, Any]) -> None:
        asked = run.plan.evaluations or run.plan.measures
        role = "surrogate" if run.run_id in self.serving and not asked else ""
        run.write_spec(machine, self.provenance, role=role)

    # --- which job is next ---

    def _hand_out(self) -> None:
        """Give jobs to idle workers while there are any."""
        while self.engine.free > 0 and (found := self._next()) is not None:
            run, job = found
            if min(job.gpus, self.engine.slots) > self.engine.free:
                break  # it waits for more GPUs, and shorter jobs with it
            if run.claim is None:  # another command may have worked on it: look again
                self._open(run)
            if run.claim is not None and run.jobs and job in run.jobs:
                run.jobs.remove(job)
                if job.trains and run.prepare_training():
                    self._write_spec(run, self.machine)
                self._submit(run, job)
        for run in self.runs.values():
            self._close(run)

    def _submit(self, run: Run, job: Job) -> None:
        self.n_attempts += 1
        task = Task(self.reporter, job.title, 0)
        self.out[self.n_attempts] = Attempt(run, job, task, monotonic())
        self.engine.submit(self.n_attempts, job)

    def _next(self) -> tuple[Run, Job] | None:
        """Return the job to hand out, if there is one.

        The stages of a suite follow each other, but no worker is idle while a later one has jobs.
        Within a stage, trainings come before attacks, first those that others wait for, then the
        longest, so that only short jobs are left for the end. A worker stays with a network, and
        workers without one help where most is left. A single worker attacks a network before it
        trains the next.
        """
        ready = []
        for run in self.runs.values():
            if run.jobs is None and monotonic() >= run.look_at:
                self._open(run)
            if job := next((j for j in list(run.jobs or ()) if self._can_start(run, j)), None):
                ready.append((run, job))
        wanted = {s for run in self.runs.values() for s in run.status.surrogates}
        n_out = Counter(attempt.run.run_id for attempt in self.out.values())

        def rank(found: tuple[Run, Job]) -> tuple[object, ...]:
            run, job = found
            if self.engine.slots == 1:
                return job.stage, run.run_id != self.last
            if job.trains:
                return job.stage, 0, run.run_id not in wanted, -job.work
            left = sum(job.work for job in run.jobs or ())
            return job.stage, 1, run.run_id != self.last, -left / (1 + n_out[run.run_id])

        return min(ready, key=rank, default=None)

    def _can_start(self, run: Run, job: Job) -> bool:
        """Whether the surrogates of a job are ready; a job that lacks one for good is dropped."""
        for run_id in job.run.surrogates:
            source, why = self.runs.get(run_id), ""
            if source is None or run_id in self.ready:  # or of an earlier command, and looked at
                continue
            if source.failed:
                why = f"surrogate {run_id} failed"
            elif source.status.failed:
                why = (
                    f"surrogate {run_id} failed in training ({source.status.failed}); leave the "
                    "transfer attack and the checks out, or name another: transfer:METHOD"
                )
            if why:
                line = f"{run.run_id}: what needs a surrogate was not made: {why}"
                self.reporter.failed(f"{run.run_id}/{run_id}", line, fixable=True)
                run.jobs = [other for other in run.jobs or () if other is not job]
                return False
            if source.jobs is None or not source.status.trained:
                return False
            summary = source.folder.train_summary()
            if summary is None or not weights_whole(source.folder, summary, "best"):
                source.jobs, source.look_at = None, 0.0  # nobody needed them before
                return False
            self.ready.add(run_id)
        return True

    # --- what comes back ---

    def _take(self, number: int, event: Event) -> None:
        """Act on an event; one of an attempt that was given up is dropped."""
        attempt = self.out.get(number)
        if attempt is None:
            return
        run, job = attempt.run, attempt.job
        match event:
            case Began(machine):
                if dict(machine) != self.machine:  # which spec.json names so far
                    (run.folder.path / "spec.json").unlink(missing_ok=True)
                    self._write_spec(run, machine)
            case Sent(parcel):
                parcel.apply(run.folder.path)
                self.losses.pop(job.name, None)
            case Trained(summary):
                run.finish_training(dict(summary))
            case Said(line):
                self.reporter.say(line)
            case Shown():
                self.display.show(attempt, event)
            case Failed():
                run.give_up(event)
            case Done() | Lost():
                del self.out[number]
                self.reporter.hide(attempt.task)
                if isinstance(event, Lost):
                    self._lose(run, job, event.reason)
                else:
                    self._finish(run, job, monotonic() - attempt.since)
                self.display.show_all()
                self._hand_out()
        if job.trains:
            run.write_scalars(ends=isinstance(event, Done | Lost))

    def _finish(self, run: Run, job: Job, seconds: float) -> None:
        run.worked, self.last = True, run.run_id
        self.display.count(job, seconds)
        others = [*(run.jobs or ()), *(attempt.job for attempt in self.out.values())]
        if job.trains:
            self._list_jobs(run)
        elif not any(job.made.keys() & other.made.keys() for other in others):
            run.folder.merge()
            if not any(other.run.run_id == run.run_id for other in others):
                run.status = run.plan.status(run.folder)

    def _lose(self, run: Run, job: Job, reason: str) -> None:
        """Hand the job out again, unless it keeps losing its workers without progress."""
        self._list_jobs(run)
        if not any(other.name == job.name for other in run.jobs or ()):
            return self._finish(run, job, 0.0)  # it was done
        self.losses[job.name] = self.losses.get(job.name, 0) + 1
        if self.losses[job.name] < MAX_LOSSES:
            self.reporter.say(f"{job.title}: lost its worker ({reason}); resumes in another")
            return None
        why = f"failed here: lost {MAX_LOSSES} workers without progress, the last by {reason}"
        for spec_id in job.made or [""]:
            run.give_up(Failed(spec_id=spec_id, line=f"{job.title} {why}", fixable=False))
        return None
