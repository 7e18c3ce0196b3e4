"""Carry a plan out: skip what is finished, train, evaluate, record.

Cells and chunks are functions of a specification and of files, so that any number of processes
may work in one results folder; a cell is claimed while a process works on it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.archs.weights import load_state, read_weights
from bench.errors import CheckpointError, NonFiniteLoss
from bench.evaluation.store import Images, evaluate_missing
from bench.folder import RunFolder
from bench.machine import describe_machine
from bench.plan import Cell, Plan
from bench.progress import Reporter
from bench.records import load_evaluation
from bench.spec import CHECKPOINTS, EvalSpec, TrainSpec
from bench.storage import keep_aside, sha256_file, write_json
from bench.training.checkpoint import remove_states
from bench.training.engine import Trainer, initial_model

WAIT_SECONDS = 1.0
"""Between two looks at cells that other processes hold."""


class Runner:
    """Works through a plan in one results folder, on one device."""

    def __init__(
        self,
        plan: Plan,
        results: Path,
        device: torch.device,
        reporter: Reporter,
        provenance: Mapping[str, Any],
    ) -> None:
        self.plan, self.results, self.device, self.reporter = plan, results, device, reporter
        self.images = Images.of(plan.dataset, device)
        self.machine = describe_machine(device)
        self.provenance = dict(provenance) | {"machine": self.machine}

    def run(self) -> None:
        """Every cell, those that another process holds last."""
        held = [cell for cell in self.plan.cells if not self._try(cell)]
        if held:
            names = ", ".join(cell.spec.run_id for cell in held)
            self.reporter.say(f"another process works on {names}; waiting for it")
        while held:
            still = [cell for cell in held if not self._try(cell)]
            if len(still) == len(held):
                time.sleep(WAIT_SECONDS)
            held = still

    def _try(self, cell: Cell) -> bool:
        """Do what is missing of a cell; False where another process holds it."""
        folder = RunFolder(self.results, cell.spec.run_id)
        with folder.claimed() as mine:
            if mine:
                self._cell(cell, folder)
            return mine

    def _cell(self, cell: Cell, folder: RunFolder) -> None:
        folder.set_damage_aside()
        folder.write_spec(cell.spec, card(cell), self.provenance)
        status = cell.status(folder)
        if status.finished:
            note = f"failed before: {status.failed}" if status.failed else "done already"
            self.reporter.say(f"{folder.run_id}: {note}")
            return
        if not (status.trained and self._weights_whole(folder, status.missing)):
            if not self._train(cell, folder):
                return
            status = cell.status(folder)
        for checkpoint in CHECKPOINTS:
            missing = [e for e in status.missing if e.checkpoint == checkpoint]
            if missing:
                model = load_network(cell.spec, folder, checkpoint).to(self.device)
                evaluate_missing(
                    folder, checkpoint, model, missing, self.images, self.machine, self.reporter
                )
        self.reporter.say(f"{folder.run_id}: {self._figures(folder, cell)}")

    def _train(self, cell: Cell, folder: RunFolder) -> bool:
        """Train and record; False where the loss was not finite."""
        if folder.train_file.exists():  # trained before, and its weights are gone
            folder.train_file.replace(folder.earlier_train_file)
            (folder.path / "spec.json").unlink(missing_ok=True)
            folder.write_spec(cell.spec, card(cell), self.provenance)
        trainer = Trainer(cell.spec, cell.method, self.plan.dataset, folder, self.device)
        try:
            summary = trainer.run(self.reporter)
        except NonFiniteLoss as error:
            summary = failure(error, trainer.warnings)
            self.reporter.say(f"{folder.run_id}: failed: {error}")
        if folder.earlier_weights() != summary.get("checkpoints"):
            self._set_evaluations_aside(folder)
        write_json(folder.train_file, summary)
        folder.earlier_train_file.unlink(missing_ok=True)
        remove_states(folder.path)
        return bool(summary["status"] == "done")

    def _weights_whole(self, folder: RunFolder, missing: Sequence[EvalSpec]) -> bool:
        """Whether the weights that the missing evaluations need are those that were recorded."""
        summary = folder.train_summary()
        assert summary is not None
        for checkpoint in dict.fromkeys(e.checkpoint for e in missing):
            path = folder.weights(checkpoint)
            if not path.exists():
                self.reporter.say(f"{folder.run_id}: {path.name} is not here; training again")
                return False
            if sha256_file(path) != summary["checkpoints"][checkpoint]["sha256"]:
                aside = keep_aside(path)
                self.reporter.say(
                    f"{folder.run_id}: {path.name} is damaged, kept as {aside.name}; training again"
                )
                return False
        return True

    def _set_evaluations_aside(self, folder: RunFolder) -> None:
        """Training again gave other weights (another machine, say): outcomes are not theirs."""
        evaluations = folder.path / "evaluations"
        if evaluations.exists():
            aside = keep_aside(evaluations)
            self.reporter.say(
                f"{folder.run_id}: the new weights differ from the recorded ones; the earlier "
                f"evaluations are kept as {aside.name} and made again"
            )

    def _figures(self, folder: RunFolder, cell: Cell) -> str:
        """The new figures in a line."""
        shown = []
        for spec in cell.evaluations:
            record = load_evaluation(folder.evaluation(spec).path, [])
            if record and spec.checkpoint == "best" and spec.eps == cell.spec.attacked_eps:
                share = record.n_correct / record.n_examples
                shown.append(f"{spec.attack} {share:.1%} of {record.n_examples}")
        return "; ".join(shown) or "done"


def card(cell: Cell) -> dict[str, Any]:
    """What a reader of the record wants to know of the method."""
    method = cell.method
    return {
        "name": cell.spec.method,
        "title": method.title or cell.spec.method,
        "paper": method.paper,
        "objective": method.objective,
        "inner": method.inner,
        "params": dict(cell.spec.params),
    }


def failure(error: NonFiniteLoss, warnings: Sequence[str]) -> dict[str, Any]:
    """Content of train.json for a training that ended with an error."""
    return {
        "status": "failed",
        "error": str(error),
        "epoch": error.epoch,
        "step": error.step,
        "warnings": list(warnings),
    }


def load_network(spec: TrainSpec, folder: RunFolder, checkpoint: str) -> nn.Module:
    """The trained network, on the CPU, in eval mode; raises CheckpointError."""
    path, summary = folder.weights(checkpoint), folder.train_summary()
    again = "run the command that trained it again to make it"
    if summary is None or not path.exists():
        raise CheckpointError(f"{path} is not here; {again}")
    if sha256_file(path) != summary["checkpoints"][checkpoint]["sha256"]:
        raise CheckpointError(f"{path} is damaged: it is not what was recorded; {again}")
    model = initial_model(spec)
    load_state(model, read_weights(path))
    return model.eval()
