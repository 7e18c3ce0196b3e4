"""The driver: decides what is missing, hands out jobs, and alone writes to the results folder."""

import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import torch
from torch import nn

from bench.checkpoints import weights_whole
from bench.estimate import Forecast, attack_effort, training_effort
from bench.evaluation.checks import CHECKS
from bench.experiments.plan import Plan, RunPlan, RunStatus
from bench.jobs.here import HereEngine
from bench.jobs.job import Done, Engine, Event, Failed, Job, Lost, Said, Sent, Shown, Trained
from bench.jobs.processes import ProcessesEngine
from bench.jobs.work import Worker
from bench.machine import choose_device, describe_machine, tune_process
from bench.progress import Reporter, Task
from bench.provenance import training_code
from bench.records.load import load_evaluations
from bench.records.run_folder import RunFolder
from bench.records.spec import CHECKPOINTS, GIVEN, ModelSpec
from bench.registry import source_file
from bench.storage import quarantine, write_json
from bench.tensorboard import HistoryScalars
from bench.training.checkpoint import has_state, remove_states

MAX_LOSSES = 5
"""Times in a row that a job may lose its worker without progress."""
WAIT_SECONDS = 1.0
"""Time between two looks at runs that another command works on."""
SHOW_SECONDS = 0.5
"""Time between two looks at what is left."""


@dataclass(frozen=True)
class Workspace:
    """What a command computes with."""

    results: Path
    device: torch.device
    reporter: Reporter
    command: str
    """As typed; goes into the records."""
    workers: int = 1
    scalars: HistoryScalars | None = None
    """Where the histories of trainings also go."""


@contextmanager
def workspace(results: Path, device: str, workers: int, quiet: bool) -> Iterator[Workspace]:
    """Set up this process for a command, and yield what it computes with."""
    tune_process()
    chosen = choose_device(device)
    command = "bench " + " ".join(sys.argv[1:])
    with Reporter(quiet=quiet) as reporter:
        yield Workspace(results, chosen, reporter, command, workers)


def run_plans(
    plans: Sequence[Plan],
    where: Workspace,
    provenance: Mapping[str, Any] | None = None,
    *,
    compiles: bool = False,
    networks: Mapping[str, nn.Module] | None = None,
) -> None:
    """Do what is missing of the plans; failures are in the reporter. Raises RecordError.

    provenance: more entries of it. compiles: compile the copies that trainings attack. networks:
    external models by run id, if they are loaded.
    """
    make = partial(Worker, where.results, [plan.dataset for plan in plans], compiles=compiles)
    engine: Engine
    if where.workers == 1:
        engine = HereEngine(make(where.device, networks=networks))
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // where.workers))
        engine = ProcessesEngine(where.workers, where.device, make)
    if threading.current_thread() is threading.main_thread():
        for ending in (signal.SIGTERM, signal.SIGHUP):  # end like Ctrl-C
            if signal.getsignal(ending) == signal.SIG_DFL:  # not under nohup
                signal.signal(ending, signal.default_int_handler)
    try:
        Driver(plans, where, engine, provenance).run()
    finally:
        engine.close()


@dataclass
class _Run:
    """A run and what this command has to do for it."""

    plan: RunPlan
    run_id: str
    dataset: int
    folder: RunFolder
    status: RunStatus
    jobs: list[Job] | None = None
    """Not handed out yet; None before the first look."""
    later: list[Job] = field(default_factory=list)
    """What follows a training that is listed or out."""
    claim: ExitStack | None = None
    """Held while a job is out."""
    look_at: float = 0.0
    """When to look again whether another command still works on it."""
    worked: bool = False
    """Whether a job of it ended."""
    told: bool = False
    """Whether its outcome was printed."""


@dataclass
class _Attempt:
    """A job in the hands of a worker."""

    run: _Run
    job: Job
    task: Task
    since: float
    first: int | None = None
    """Unit at which its progress began."""


class Driver:
    """Works on the runs of plans through an engine, until nothing is left that can be done."""

    def __init__(
        self,
        plans: Sequence[Plan],
        where: Workspace,
        engine: Engine,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.plans, self.where, self.engine = plans, where, engine
        self.reporter, self.provenance = where.reporter, dict(provenance or {})
        self.machine = describe_machine(where.device)
        self.runs: dict[str, _Run] = {}
        for number, plan in enumerate(plans):
            for cell in plan.cells:
                run_id, folder = cell.run_id, RunFolder(where.results, cell.run_id)
                if cell.method is not None:
                    training_code(source_file(cell.method))  # hash the file before it can change
                if run_id in self.runs:
                    cell = self.runs[run_id].plan.joined(cell)
                self.runs[run_id] = _Run(cell, run_id, number, folder, cell.status(folder))
        self.out: dict[int, _Attempt] = {}
        self.losses: dict[str, int] = {}
        """By the name of a job."""
        self.n_attempts = self.n_done = 0
        self.last = ""
        """The run of the last job that ended; its worker has its network."""
        self.forecast, self.shown = Forecast(), 0.0
        self.ready: set[str] = set()
        """Runs whose weights were found whole, to serve others."""
        self.locks = True
        self.overall = Task(self.reporter, "jobs", 0, left=self._seconds_left)

    def run(self) -> None:
        """Work until every run is finished or failed; raises RecordError."""
        try:
            for run in self.runs.values():
                self._open(run)
                self._close(run)
            self._hand_out()
            while self.out or any(run.jobs is None for run in self.runs.values()):
                if self.out:
                    self.engine.poll(WAIT_SECONDS, self._take)
                else:
                    sleep(WAIT_SECONDS)
                self._hand_out()
        finally:
            self.reporter.hide(self.overall)
            for run in self.runs.values():
                if run.claim is not None:
                    run.claim.close()

    # --- what is missing ---

    def _open(self, run: _Run) -> None:
        """Claim a run, mend its folder and list its jobs, unless another command has it."""
        claim = ExitStack()
        ours = claim.enter_context(run.folder.claimed())
        if ours is False:
            if not run.look_at:
                self.reporter.say(f"another process works on {run.run_id}; waiting for it")
            run.jobs, run.look_at = None, monotonic() + WAIT_SECONDS
            return
        if ours is None:
            line = f"{self.where.results} cannot lock files: start no second command in it"
            if self.locks:
                self.reporter.say(line)
            self.locks = False
        run.claim = claim
        for path in run.folder.quarantine_damaged():
            name = path.relative_to(run.folder.path)
            self.reporter.say(f"{run.run_id}: a file was damaged; kept as {name} and made again")
        if not run.worked:
            run.folder.traceback_file.unlink(missing_ok=True)
        self._list_jobs(run)
        if run.jobs or run.folder.train_file.exists():
            self._write_spec(run)
        self._write_scalars(run)

    def _write_scalars(self, run: _Run, *, ends: bool = True) -> None:
        if self.where.scalars is not None:
            self.where.scalars.update(run.folder)
            if ends:
                self.where.scalars.close(run.folder)

    def _close(self, run: _Run) -> None:
        """Give up the claim if no job is out; tell the outcome if nothing is left."""
        if run.claim is None or any(attempt.run is run for attempt in self.out.values()):
            return
        run.claim.close()
        run.claim, failed = None, run.status.failed
        if not (run.jobs or run.told or run.run_id in self.reporter.failures):
            run.told = True
            before = f"failed before: {failed}" if failed else "done already"
            text = self._accuracies(run) if run.worked else before
            if not (failed and run.worked):  # its worker said so
                self.reporter.say(f"{run.run_id}: {text}")

    def _list_jobs(self, run: _Run) -> None:
        """List what is missing by a run's folder and not out: a training, or all the rest."""
        run.status = run.plan.status(run.folder)
        run.jobs, run.later = [], []
        if run.status.failed or run.run_id in self.reporter.failures:
            return
        rest = list(self._attacks(run))
        needed = {job.run.checkpoints[0] for job in rest}
        if any(run.run_id in other.status.surrogates for other in self.runs.values()):
            needed.add("best")
        whole = isinstance(run.plan.spec, ModelSpec) or self._weights_whole(run, sorted(needed))
        if not whole and run.plan.method_name is None:
            line = f"error: the weights of {run.run_id} are not here or damaged; run the command "
            line += f"that trained it again to make them ({run.run_id} failed)"
            self._failed(run, Failed(line=line, fixable=True))
        elif not whole:
            training = replace(run.plan, evaluations=(), measures=())
            work = training_effort(run.plan.train_spec)
            run.jobs, run.later = [Job(run=training, dataset=run.dataset, work=work)], rest
            run.status = replace(run.status, trained=False)
        else:
            out = {attempt.job.name for attempt in self.out.values()}
            run.jobs = [job for job in rest if job.name not in out]
            if self.engine.slots > 1:
                run.jobs.sort(key=lambda job: -job.work)

    def _attacks(self, run: _Run) -> Iterator[Job]:
        """Yield the missing chunks and measures; masking checks go together, since they share."""
        spec, status, failures = run.plan.spec, run.status, self.reporter.failures
        make = partial(Job, dataset=run.dataset)
        for checkpoint in (*CHECKPOINTS, GIVEN):
            for missing, chunks in status.missing:
                cut = replace(run.plan, evaluations=(missing,), measures=())
                is_next = missing.checkpoint == checkpoint
                if is_next and f"{run.run_id}/{missing.eval_id}" not in failures:
                    for number in chunks:
                        work = attack_effort(spec, missing, len(missing.chunks()[number]))
                        yield make(run=cut, chunk=number, work=work)
            groups: dict[object, list[Any]] = {}
            for measure in status.missing_measures:
                is_next = measure.checkpoint == checkpoint
                if is_next and f"{run.run_id}/{measure.measure_id}" not in failures:
                    shares = measure.surrogates if measure.name in CHECKS else measure.measure_id
                    groups.setdefault(shares, []).append(measure)
            for group in groups.values():
                work = sum(attack_effort(spec, m, m.n_examples) for m in group)
                cut = replace(run.plan, evaluations=(), measures=tuple(group))
                yield make(run=cut, work=work)

    def _weights_whole(self, run: _Run, checkpoints: Sequence[str]) -> bool:
        """Whether a run is trained and these weights are here; those that are damaged are moved."""
        summary = run.folder.train_summary()
        if summary is None:
            return False
        for checkpoint in checkpoints:
            path = run.folder.weights(checkpoint)
            if not weights_whole(run.folder, summary, checkpoint):
                why = f"damaged, kept as {quarantine(path).name}" if path.exists() else "not here"
                again = "" if run.plan.method_name is None else "; training again"
                self.reporter.say(f"{run.run_id}: {path.name} is {why}{again}")
                return False
        return True

    def _write_spec(self, run: _Run) -> None:
        plan, of, method = run.plan, self.plans[run.dataset], run.plan.method
        origin = {"dataset_source": of.source, "machine": self.machine}
        origin |= of.dataset.notes(plan.notes)
        if isinstance(plan.spec, ModelSpec):
            run.folder.write_spec(plan.spec, {}, origin)
        if method is None:
            return
        card = {
            "name": plan.train_spec.method,
            "title": method.title or plan.train_spec.method,
            "paper": method.paper,
            "objective": method.objective,
            "inner": method.inner,
            "params": dict(plan.train_spec.params),
        }
        serves = any(run.run_id in other.plan.surrogates for other in self.runs.values())
        role = {} if plan.evaluations or plan.measures or not serves else {"role": "surrogate"}
        code = {"code": training_code(source_file(method))}
        origin = {"command": self.where.command} | origin | self.provenance
        run.folder.write_spec(plan.spec, card, origin | role | code)

    # --- which job is next ---

    def _hand_out(self) -> None:
        """Give jobs to idle workers while there are any."""
        while self.engine.free and (found := self._next()) is not None:
            run, job = found
            if run.claim is None:  # another command may have worked on it: look again
                self._open(run)
            if run.claim is not None and run.jobs and job in run.jobs:
                run.jobs.remove(job)
                if job.trains:
                    self._prepare_training(run)
                self.n_attempts += 1
                task = Task(self.reporter, job.title, 0)
                self.out[self.n_attempts] = _Attempt(run, job, task, monotonic())
                self.engine.submit(self.n_attempts, job)
        for run in self.runs.values():
            self._close(run)

    def _next(self) -> tuple[_Run, Job] | None:
        """Return the job to hand out, if there is one.

        Trainings come before attacks, first those that others wait for, then the longest, so that
        only short jobs are left for the end. A worker stays with a network, and workers without
        one help where most is left. A single worker attacks a network before it trains the next.
        """
        ready = []
        for run in self.runs.values():
            if run.jobs is None and monotonic() >= run.look_at:
                self._open(run)
            if job := next((j for j in list(run.jobs or ()) if self._can_start(run, j)), None):
                ready.append((run, job))
        wanted = {s for run in self.runs.values() for s in run.status.surrogates}

        def rank(found: tuple[_Run, Job]) -> tuple[object, ...]:
            run, job = found
            if self.engine.slots == 1:
                return (run.run_id != self.last,)
            if job.trains:
                return 0, run.run_id not in wanted, -job.work
            n_out = sum(attempt.run is run for attempt in self.out.values())
            left = sum(job.work for job in run.jobs or ())
            return 1, run.run_id != self.last, -left / (1 + n_out)

        return min(ready, key=rank, default=None)

    def _can_start(self, run: _Run, job: Job) -> bool:
        """Whether the surrogates of a job are ready; a job that lacks one for good is dropped."""
        for run_id in job.run.surrogates:
            source, why = self.runs.get(run_id), ""
            if source is None or run_id in self.ready:  # or of an earlier command, and looked at
                continue
            if run_id in self.reporter.failures:
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

    def _prepare_training(self, run: _Run) -> None:
        folder = run.folder
        if folder.train_file.exists():  # trained before, but its weights are lost
            folder.train_file.replace(folder.earlier_train_file)
        if not has_state(folder.path):  # starts over, so this code makes all of it
            (folder.path / "spec.json").unlink(missing_ok=True)
            self._write_spec(run)

    # --- what comes back ---

    def _take(self, number: int, event: Event) -> None:
        """Act on an event; one of an attempt that was given up is dropped."""
        attempt = self.out.get(number)
        if attempt is None:
            return
        run, job = attempt.run, attempt.job
        match event:
            case Sent(parcel):
                parcel.apply(run.folder.path)
                self.losses.pop(job.name, None)
            case Trained(summary):
                self._finish_training(run, dict(summary))
            case Said(line):
                self.reporter.say(line)
            case Shown():
                self._show(attempt, event)
            case Failed():
                self._failed(run, event)
            case Done() | Lost():
                del self.out[number]
                self.reporter.hide(attempt.task)
                if isinstance(event, Lost):
                    self._lose(run, job, event.reason)
                else:
                    self._finish(run, job, monotonic() - attempt.since)
                self._show_all()
                self._hand_out()
        if job.trains:
            self._write_scalars(run, ends=isinstance(event, Done | Lost))

    def _finish(self, run: _Run, job: Job, seconds: float) -> None:
        run.worked, self.last = True, run.run_id
        self.n_done += 1
        self.forecast.add(job.kind, job.work, seconds)
        others = [*(run.jobs or ()), *(attempt.job for attempt in self.out.values())]
        if job.trains:
            self._list_jobs(run)
        elif not any(job.made.keys() & other.made.keys() for other in others):
            run.folder.merge()
            if not any(other.run.run_id == run.run_id for other in others):
                run.status = run.plan.status(run.folder)

    def _lose(self, run: _Run, job: Job, reason: str) -> None:
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
            self._failed(run, Failed(spec_id=spec_id, line=f"{job.title} {why}", fixable=False))
        return None

    def _failed(self, run: _Run, event: Failed) -> None:
        """Report what failed, in one line, and hand out no more of it."""
        if event.traceback:
            run.folder.keep_traceback(event.traceback)
        key = f"{run.run_id}/{event.spec_id}" if event.spec_id else run.run_id
        self.reporter.failed(key, event.line, fixable=event.fixable)
        left = run.jobs or () if event.spec_id else ()
        run.jobs = [job for job in left if event.spec_id not in job.made]

    def _finish_training(self, run: _Run, summary: dict[str, Any]) -> None:
        """Write train.json, once nothing speaks of earlier weights any more."""
        folder, method = run.folder, run.plan.method
        assert method is not None
        if began := folder.other_code(training_code(source_file(method))):
            warning = f"begun by other code ({began}), then resumed"
            summary["warnings"] = [*summary["warnings"], warning]
        if folder.earlier_weights() != summary.get("checkpoints"):
            # outcomes of earlier weights, which training on another machine may change
            for earlier in (folder.path / "evaluations", folder.path / "measures"):
                if earlier.exists():
                    aside = quarantine(earlier)
                    self.reporter.say(
                        f"{run.run_id}: the new weights differ from the recorded ones; the "
                        f"earlier {earlier.name} are kept as {aside.name} and made again"
                    )
        write_json(folder.train_file, summary)
        folder.earlier_train_file.unlink(missing_ok=True)
        remove_states(folder.path)

    # --- what is told ---

    def _show(self, attempt: _Attempt, event: Shown) -> None:
        if attempt.first is None:
            attempt.first, attempt.since = event.done, monotonic()
        task = attempt.task
        task.done, task.total, task.detail = event.done, event.total, event.detail
        if self.reporter.bars is not None:
            self.reporter.show(task)
        self._show_all()

    def _show_all(self) -> None:
        overall, now = self.overall, monotonic()
        if now - self.shown >= SHOW_SECONDS:
            self.shown = now
            waiting = sum(len(run.jobs or ()) + len(run.later) for run in self.runs.values())
            overall.done, overall.total = self.n_done, self.n_done + len(self.out) + waiting
            if self.reporter.bars is None:  # which has a bar for each
                overall.detail = "; ".join(attempt.task.text for attempt in self.out.values())
            self.reporter.show(overall)

    def _seconds_left(self) -> float | None:
        """Return the seconds until all jobs are done, those included that trainings will bring."""
        found = [self._seconds_of(attempt) for attempt in self.out.values()]
        for run in self.runs.values():
            jobs = (*(run.jobs or ()), *run.later)
            found += [self.forecast.seconds(job.kind, job.work) for job in jobs]
        left = [seconds for seconds in found if seconds is not None]
        if len(left) < len(found) or not left:
            return None
        return max(sum(left) / self.engine.slots, *left)

    def _seconds_of(self, attempt: _Attempt) -> float | None:
        """Return what is left of a job that is out, by its own progress if it shows any."""
        passed, task = monotonic() - attempt.since, attempt.task
        if attempt.first is not None and attempt.first < task.done:
            return passed / (task.done - attempt.first) * (task.total - task.done)
        seconds = self.forecast.seconds(attempt.job.kind, attempt.job.work)
        return None if seconds is None else max(0.0, seconds - passed)

    def _accuracies(self, run: _Run) -> str:
        shown, spec = [], run.plan.spec
        eps = None if isinstance(spec, ModelSpec) else spec.attacked_eps
        asked = {e.eval_id for e in run.plan.evaluations if e.checkpoint in ("best", GIVEN)}
        for record in load_evaluations(run.folder.path, []):
            if record.eval_id in asked and eps in (None, record.spec.eps):
                share = record.n_correct / record.n_examples
                shown.append(f"{record.spec.attack} {share:.1%} of {record.n_examples}")
        return "; ".join(shown) or "done"
