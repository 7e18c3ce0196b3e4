"""A run in the driver's hands: what is missing of it, and what its folder gets besides parcels."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

from bench.checkpoints import weights_whole
from bench.estimate import attack_effort, training_effort
from bench.evaluation.checks import CHECKS
from bench.experiments.plan import Plan, RunPlan
from bench.jobs.job import Failed, Job
from bench.jobs.workspace import Workspace
from bench.provenance import training_code
from bench.records.load import load_evaluations
from bench.records.run_folder import RunFolder
from bench.records.spec import CHECKPOINTS, GIVEN, EvalSpec, MeasureSpec, ModelSpec
from bench.registry import parameters, source_file
from bench.storage import quarantine, write_json
from bench.training.checkpoint import has_state, remove_states

WAIT_SECONDS = 1.0
"""Time between two looks at runs that another command works on."""


class Run:
    """One run, claimed by this command while it mends the folder or a job is out."""

    def __init__(self, plan: RunPlan, of: Plan, dataset: int, where: Workspace) -> None:
        """of: the plan that it belongs to; dataset: the number of that plan."""
        self.plan, self.of, self.dataset, self.where = plan, of, dataset, where
        self.run_id, self.reporter = plan.run_id, where.reporter
        self.folder = RunFolder(where.results, plan.run_id)
        self.status = plan.status(self.folder)
        self.jobs: list[Job] | None = None
        """Not handed out yet; None before the first look."""
        self.later: list[Job] = []
        """What follows a training that is listed or out."""
        self.claim: ExitStack | None = None
        self.look_at = 0.0
        """When to look again whether another command still works on it."""
        self.worked = False
        """Whether a job of it ended."""
        self._told = False
        """Whether its outcome was printed."""

    @property
    def failed(self) -> bool:
        return self.run_id in self.reporter.failures

    def open(self, *, mends: bool = True) -> bool | None:
        """Claim the run and mend its folder, unless another command has it.

        mends: False if workers write to the folder. Returns whether it is claimed; None if the file
        system cannot tell.
        """
        claim = ExitStack()
        ours = claim.enter_context(self.folder.claimed())
        if ours is False:
            if not self.look_at:
                self.reporter.say(f"another process works on {self.run_id}; waiting for it")
            self.jobs, self.look_at = None, monotonic() + WAIT_SECONDS
            return ours
        self.claim = claim
        if not mends:
            return ours
        for path in self.folder.quarantine_damaged():
            name = path.relative_to(self.folder.path)
            self.reporter.say(f"{self.run_id}: a file was damaged; kept as {name} and made again")
        if not self.worked:
            self.folder.traceback_file.unlink(missing_ok=True)
        return ours

    def close(self) -> None:
        """Give up the claim; tell the outcome if nothing is left."""
        if self.claim is None:
            return
        self.claim.close()
        self.claim, failed = None, self.status.failed
        if not (self.jobs or self._told or self.failed):
            self._told = True
            before = f"failed before: {failed}" if failed else "done already"
            text = self._accuracies() if self.worked else before
            if not (failed and self.worked):  # its worker said so
                self.reporter.say(f"{self.run_id}: {text}")

    def list_jobs(
        self, out: Collection[tuple[str, int]], *, serves: bool, effort: float = 0.0
    ) -> None:
        """List what is missing by the folder: a training, or all that follows it.

        out: units of its jobs that workers have, which are not listed. serves: whether attacks on
        another run need its best network. effort: of an attack job; the least is one chunk.
        """
        self.status = self.plan.status(self.folder)
        self.jobs, self.later = [], []
        if self.status.failed or self.failed:
            return
        rest = list(self._attacks(out, effort))
        needed = {checkpoint for job in rest for checkpoint in job.run.checkpoints}
        needed |= {"best"} if serves else set()
        if isinstance(self.plan.spec, ModelSpec) or self._weights_whole(sorted(needed)):
            self.jobs = rest if not effort else list(_packed(rest, effort))
        elif self.plan.method_name is None:
            line = f"error: the weights of {self.run_id} are not here or damaged; run the command "
            line += f"that trained it again to make them ({self.run_id} failed)"
            self.give_up(Failed(line=line, fixable=True))
        else:
            plan = replace(self.plan, evaluations=(), measures=())
            work = training_effort(self.plan.train_spec)
            gpus = self.where.gpus_per_training
            training = Job(run=plan, dataset=self.dataset, work=work, gpus=gpus)
            self.jobs, self.later = [training] * (not training.units & set(out)), rest
            self.status = replace(self.status, trained=False)

    def _attacks(self, out: Collection[tuple[str, int]], effort: float) -> Iterator[Job]:
        """Yield the missing chunks and measures; masking checks go together, since they share."""
        spec, failures = self.plan.spec, self.reporter.failures
        make = partial(Job, dataset=self.dataset)
        for checkpoint in (*CHECKPOINTS, GIVEN):
            for missing, chunks in self.status.missing:
                is_next = missing.checkpoint == checkpoint
                if is_next and f"{self.run_id}/{missing.eval_id}" not in failures:
                    left = [n for n in chunks if (missing.eval_id, n) not in out]
                    yield from self._chunks(missing, left, effort)
            groups: dict[object, list[MeasureSpec]] = {}
            for measure in self.status.missing_measures:
                is_next = measure.checkpoint == checkpoint and (measure.measure_id, 0) not in out
                if is_next and f"{self.run_id}/{measure.measure_id}" not in failures:
                    shares = measure.surrogates if measure.name in CHECKS else measure.measure_id
                    groups.setdefault(shares, []).append(measure)
            for group in groups.values():
                work = sum(attack_effort(spec, m, m.n_examples) for m in group)
                cut = replace(self.plan, evaluations=(), measures=tuple(group))
                yield make(run=cut, work=work)

    def _chunks(self, missing: EvalSpec, left: Sequence[int], effort: float) -> Iterator[Job]:
        sizes = [len(chunk) for chunk in missing.chunks()]
        n_each = max(1, int(effort / attack_effort(self.plan.spec, missing, sizes[0])))
        run = replace(self.plan, evaluations=(missing,), measures=())
        for first in range(0, len(left), n_each):
            part = tuple(left[first : first + n_each])
            work = attack_effort(self.plan.spec, missing, sum(sizes[n] for n in part))
            yield Job(run=run, dataset=self.dataset, chunks=part, work=work)

    def _weights_whole(self, checkpoints: Sequence[str]) -> bool:
        """Whether it is trained and these weights are here; those that are damaged are moved."""
        summary = self.folder.train_summary()
        if summary is None:
            return False
        for checkpoint in checkpoints:
            path = self.folder.weights(checkpoint)
            if not weights_whole(self.folder, summary, checkpoint):
                why = f"damaged, kept as {quarantine(path).name}" if path.exists() else "not here"
                again = "" if self.plan.method_name is None else "; training again"
                self.reporter.say(f"{self.run_id}: {path.name} is {why}{again}")
                return False
        return True

    def give_up(self, event: Failed) -> None:
        """Report what failed, in one line, and list no more of it."""
        if event.traceback:
            self.folder.keep_traceback(event.traceback)
        key = f"{self.run_id}/{event.spec_id}" if event.spec_id else self.run_id
        self.reporter.failed(key, event.line, fixable=event.fixable)
        left = self.jobs or () if event.spec_id else ()
        self.jobs = [job for job in left if event.spec_id not in job.made]

    def write_spec(self, machine: Mapping[str, Any], more: Mapping[str, Any], *, role: str) -> None:
        """Write spec.json if it is not there.

        machine: the one that trains it; more: other entries of its provenance.
        """
        plan, method = self.plan, self.plan.method
        origin = {"dataset_source": self.of.source, "machine": machine}
        origin |= self.of.dataset.notes(plan.notes)
        if isinstance(plan.spec, ModelSpec):
            self.folder.write_spec(plan.spec, {}, origin)
        if method is None:
            return
        card = {
            "name": plan.train_spec.method,
            "title": method.title or plan.train_spec.method,
            "paper": method.paper,
            "objective": method.objective,
            "inner": method.inner,
            "params": dict(plan.train_spec.params),
            "defaults": {name: field.default for name, field in parameters(type(method)).items()},
        }
        origin = {"command": self.where.command} | origin | dict(more)
        origin |= {"role": role} if role else {}
        origin |= {"code": training_code(source_file(method))}
        self.folder.write_spec(plan.spec, card, origin)

    def prepare_training(self) -> bool:
        """Make ready for a training; return whether it starts over, so this code makes all of it.

        Its spec.json is removed in that case.
        """
        folder = self.folder
        if folder.train_file.exists():  # trained before, but its weights are lost
            folder.train_file.replace(folder.earlier_train_file)
        if has_state(folder.path):
            return False
        (folder.path / "spec.json").unlink(missing_ok=True)
        return True

    def finish_training(self, summary: dict[str, Any]) -> None:
        """Write train.json, once nothing speaks of earlier weights any more."""
        folder, method = self.folder, self.plan.method
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
                        f"{self.run_id}: the new weights differ from the recorded ones; the "
                        f"earlier {earlier.name} are kept as {aside.name} and made again"
                    )
        write_json(folder.train_file, summary)
        folder.earlier_train_file.unlink(missing_ok=True)
        remove_states(folder.path)

    def write_scalars(self, *, ends: bool = True) -> None:
        if self.where.scalars is not None:
            self.where.scalars.update(self.folder)
            if ends:
                self.where.scalars.close(self.folder)

    def _accuracies(self) -> str:
        shown, spec = [], self.plan.spec
        eps = None if isinstance(spec, ModelSpec) else spec.attacked_eps
        asked = {e.eval_id for e in self.plan.evaluations if e.checkpoint in ("best", GIVEN)}
        for record in load_evaluations(self.folder.path, []):
            if record.eval_id in asked and eps in (None, record.spec.eps):
                share = record.n_correct / record.n_examples
                shown.append(f"{record.spec.attack} {share:.1%} of {record.n_examples}")
        return "; ".join(shown) or "done"


def _packed(jobs: Sequence[Job], effort: float) -> Iterator[Job]:
    """Join short jobs that attack the same chunks of a checkpoint, up to an effort."""
    packs: dict[object, Job] = {}
    for job in jobs:
        run = job.run
        key = job.stage, run.checkpoints[0], job.chunks, frozenset(run.surrogates), not run.measures
        pack = packs.get(key)
        if pack is None or run.measures or pack.work + job.work > effort:
            if pack is not None:
                yield pack
            packs[key] = job
        else:
            packs[key] = replace(pack, run=pack.run.joined(run), work=pack.work + job.work)
    yield from packs.values()
