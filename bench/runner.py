"""Execute a plan: skip what is finished, train, evaluate, record.

Trainings and chunks depend only on a specification and on files, so any number of processes may
work in one results folder. A process claims a training while it works on it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from bench.checkpoints import load_network, surrogate_network, weights_whole
from bench.errors import BenchError, CheckpointError, NonFiniteLoss, RecordError
from bench.evaluation.store import AttackedCheckpoint, Images, evaluate_missing
from bench.machine import describe_machine, free_memory
from bench.plan import JobStatus, Plan, TrainingJob
from bench.provenance import evaluation_code, training_code
from bench.records import load_evaluations
from bench.registry import source_file
from bench.run_store import RunFolder
from bench.spec import CHECKPOINTS
from bench.storage import quarantine, write_json
from bench.training.checkpoint import has_state, remove_states
from bench.training.engine import Trainer
from bench.workers import Workspace

WAIT_SECONDS = 1.0
"""Time between two looks at trainings that other processes hold."""


class Runner:
    """Executes a plan in one results folder, on one device."""

    def __init__(
        self,
        plan: Plan,
        where: Workspace,
        provenance: Mapping[str, Any] | None = None,
        *,
        compiles: bool = False,
    ) -> None:
        """provenance: more entries of it; compiles: compile the copies that trainings attack."""
        self.plan, self.compiles = plan, compiles
        self.results, self.device, self.reporter = where.results, where.device, where.reporter
        self.images = Images(plan.dataset, self.device)
        machine = describe_machine(self.device)
        origin = {"command": where.command, "dataset_source": plan.source, "machine": machine}
        self.provenance = {**origin, **plan.dataset.notes(), **(provenance or {})}
        self.info = machine | {"code": evaluation_code()}
        self.networks: dict[str, nn.Module] = {}
        self.attacked: dict[tuple[str, str], nn.Module] = {}
        """The last attacked network: while waiting, it is asked for every second."""
        self.begun: set[str] = set()
        for method in (cell.method for cell in plan.cells):
            if method is not None:
                training_code(source_file(method))  # hash the file now, before it can change

    def run(self) -> None:
        """Work on every cell; those that wait for another process come last."""
        held = [cell for cell in self.plan.cells if not self._try(cell)]
        if held:
            names = ", ".join(cell.spec.run_id for cell in held)
            self.reporter.say(f"another process works on {names}; waiting for it")
        while held:
            # a training that is repeated may need a surrogate whose weights were not needed before
            wanted = {run for cell in held for run in self._status(cell).surrogates}
            lacking = wanted - self.networks.keys() - {cell.spec.run_id for cell in held}
            for cell in self.plan.cells:
                if cell.spec.run_id in lacking:
                    self._try(cell)
            still = [cell for cell in held if not self._try(cell)]
            if len(still) == len(held):
                time.sleep(WAIT_SECONDS)
            held = still

    def surrogate(self, run_id: str) -> nn.Module:
        """Return the network of another run in eval mode; raises CheckpointError."""
        if run_id not in self.networks:
            network = surrogate_network(self.results, run_id, self.plan.dataset)
            self.networks[run_id] = network.to(self.device)
        return self.networks[run_id]

    def _status(self, cell: TrainingJob) -> JobStatus:
        return cell.status(RunFolder(self.results, cell.spec.run_id))

    def _try(self, cell: TrainingJob) -> bool:
        """Do what can be done of a cell; return False if it waits for another process or cell.

        Report a cell that fails and continue with the others; raise only if nothing can be written.
        """
        folder = RunFolder(self.results, cell.spec.run_id)
        if folder.run_id in self.reporter.failures:
            return True
        try:
            with folder.claimed() as alone:
                if alone:
                    self._prepare(cell, folder)
            with folder.claimed(shared=True) as ours:
                return ours and self._attack(cell, folder)
        except RecordError:
            raise
        except (Exception, SystemExit) as error:  # a user's method, no memory, a mistake here
            run_id, why = folder.run_id, folder.failure(error)
            line = f"{run_id}: failed: {why}"
            if isinstance(error, BenchError):
                line = f"error: {why} ({run_id} failed)"
            self.reporter.failed(run_id, line, error)
        free_memory(self.device)
        return True

    def _prepare(self, cell: TrainingJob, folder: RunFolder) -> None:
        folder.quarantine_damaged()
        if folder.run_id not in self.begun:
            folder.traceback_file.unlink(missing_ok=True)
            self.begun.add(folder.run_id)
        self._write_spec(cell, folder)
        status = cell.status(folder)
        needed = [spec.checkpoint for spec in (*status.missing, *status.missing_measures)]
        others = [other for other in self.plan.cells if folder.run_id in other.surrogates]
        if any(folder.run_id in self._status(other).surrogates for other in others):
            needed.append("best")
        if status.failed or (status.finished and not needed):
            note = f"failed before: {status.failed}" if status.failed else "done already"
            self.reporter.say(f"{folder.run_id}: {note}")
        elif not (status.trained and self._weights_whole(folder, needed)):
            self._train(cell, folder)

    def _write_spec(self, cell: TrainingJob, folder: RunFolder) -> None:
        method = cell.method
        if method is None:  # an existing run
            return
        card = {
            "name": cell.spec.method,
            "title": method.title or cell.spec.method,
            "paper": method.paper,
            "objective": method.objective,
            "inner": method.inner,
            "params": dict(cell.spec.params),
        }
        serves = any(cell.spec.run_id in other.surrogates for other in self.plan.cells)
        role = {} if cell.evaluations or cell.measures or not serves else {"role": "surrogate"}
        code = {"code": training_code(source_file(method))}
        folder.write_spec(cell.spec, card, self.provenance | role | code)

    def _attack(self, cell: TrainingJob, folder: RunFolder) -> bool:
        """Evaluate what is missing and has its surrogates; return whether nothing is left."""
        status = cell.status(folder)
        if status.finished:
            return True
        if not status.trained:
            return False
        ready, lost = self._surrogates(cell, status.surrogates)
        complete = True
        for checkpoint in CHECKPOINTS:
            missing = [e for e in status.missing if e.checkpoint == checkpoint]
            measures = [m for m in status.missing_measures if m.checkpoint == checkpoint]
            missing = [e for e in missing if lost.isdisjoint(e.surrogates)]
            measures = [m for m in measures if lost.isdisjoint(m.surrogates)]
            now = [e for e in missing if ready.issuperset(e.surrogates)]
            now_measures = [m for m in measures if ready.issuperset(m.surrogates)]
            complete &= len(now) == len(missing) and len(now_measures) == len(measures)
            if now or now_measures:
                target = self._target(cell, folder, checkpoint)
                complete &= target is not None and evaluate_missing(
                    target, now, now_measures, self.reporter, folder.merge
                )
        if complete:
            self.reporter.say(f"{folder.run_id}: {_accuracies(folder, cell)}")
        return complete

    def _target(
        self, cell: TrainingJob, folder: RunFolder, checkpoint: str
    ) -> AttackedCheckpoint | None:
        """Return the checkpoint to attack; None if its weights are gone."""
        summary = folder.train_summary()
        assert summary is not None
        if cell.method is not None and not weights_whole(folder, summary, checkpoint):
            return None
        key = folder.run_id, str(summary["checkpoints"][checkpoint]["sha256"])
        if key not in self.attacked:
            self.attacked = {key: load_network(cell.spec, folder, checkpoint).to(self.device)}
        return AttackedCheckpoint(
            folder=folder,
            checkpoint=checkpoint,
            model=self.attacked[key],
            images=self.images,
            surrogate=self.surrogate,
            info=self.info,
            keep_images=cell.keep_images,
        )

    def _surrogates(self, cell: TrainingJob, wanted: set[str]) -> tuple[set[str], set[str]]:
        """Return which of the surrogates that a cell needs are ready, and which failed."""
        ready, lost = set(), set()
        for run_id in wanted:
            try:
                if self._ready(run_id):
                    ready.add(run_id)
            except CheckpointError as error:
                lost.add(run_id)
                own = cell.spec.run_id
                line = f"{own}: what needs a surrogate was not made: {error}"
                self.reporter.failed(f"{own}/{run_id}", line, error)
        return ready, lost

    def _ready(self, run_id: str) -> bool:
        """Whether a surrogate and its weights are ready; raises CheckpointError if it failed."""
        if run_id in self.networks:
            return True
        folder = RunFolder(self.results, run_id)
        with folder.claimed(shared=True) as ours:  # another process may be training it again
            summary = folder.train_summary()
            if summary and summary["status"] == "failed":
                raise CheckpointError(
                    f"surrogate {run_id} failed in training ({summary['error']}); "
                    "leave the transfer attack and the checks out, or name another: transfer:METHOD"
                )
            if not (ours and summary and weights_whole(folder, summary, "best")):
                if run_id in self.reporter.failures:
                    raise CheckpointError(f"surrogate {run_id} failed")
                return False
            self.surrogate(run_id)
            return True

    def _train(self, cell: TrainingJob, folder: RunFolder) -> None:
        if cell.method is None:
            raise CheckpointError(
                f"the weights of {folder.run_id} are not here or damaged; run the command that "
                "trained it again to make them"
            )
        if folder.train_file.exists():  # trained before, but its weights are lost
            folder.train_file.replace(folder.earlier_train_file)
        if not has_state(folder.path):  # starts over, so this code makes all of it
            (folder.path / "spec.json").unlink(missing_ok=True)
            self._write_spec(cell, folder)
        trainer = Trainer(
            *(cell.spec, cell.method, self.plan.dataset, folder, self.device),
            compiles=self.compiles,
        )
        try:
            summary = trainer.run(self.reporter)
        except NonFiniteLoss as error:
            summary = {
                "status": "failed",
                "error": str(error),
                "epoch": error.epoch,
                "step": error.step,
                "warnings": list(trainer.warnings),
            }
            self.reporter.say(f"{folder.run_id}: failed: {error}")
        if began := folder.other_code(training_code(source_file(cell.method))):
            warning = f"begun by other code ({began}), then resumed"
            summary["warnings"] = [*summary["warnings"], warning]
        if folder.earlier_weights() != summary.get("checkpoints"):
            # outcomes of earlier weights, which training on another machine may change
            for earlier in (folder.path / "evaluations", folder.path / "measures"):
                if earlier.exists():
                    aside = quarantine(earlier)
                    self.reporter.say(
                        f"{folder.run_id}: the new weights differ from the recorded ones; the "
                        f"earlier {earlier.name} are kept as {aside.name} and made again"
                    )
        write_json(folder.train_file, summary)
        folder.earlier_train_file.unlink(missing_ok=True)
        remove_states(folder.path)

    def _weights_whole(self, folder: RunFolder, checkpoints: Sequence[str]) -> bool:
        summary = folder.train_summary()
        assert summary is not None
        for checkpoint in dict.fromkeys(checkpoints):
            path = folder.weights(checkpoint)
            if not weights_whole(folder, summary, checkpoint):
                why = "not here"
                if path.exists():
                    why = f"damaged, kept as {quarantine(path).name}"
                self.reporter.say(f"{folder.run_id}: {path.name} is {why}; training again")
                return False
        return True


def _accuracies(folder: RunFolder, cell: TrainingJob) -> str:
    shown = []
    records = {record.eval_id: record for record in load_evaluations(folder.path, [])}
    for spec in cell.evaluations:
        record = records.get(spec.eval_id)
        if record and spec.checkpoint == "best" and spec.eps == cell.spec.attacked_eps:
            share = record.n_correct / record.n_examples
            shown.append(f"{spec.attack} {share:.1%} of {record.n_examples}")
    return "; ".join(shown) or "done"
