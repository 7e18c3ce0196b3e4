"""The training loop: everything that a method does not decide.

A training depends only on its specification and the data: every draw comes from a generator seeded
by purpose and batch number. So training that is interrupted and resumes from the last saved state
ends with the weights of an uninterrupted run, bit for bit on a CPU.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.archs import build
from bench.archs.arch import Arch
from bench.archs.batchnorm import share_batchnorm
from bench.archs.weights import save_weights
from bench.attacks.networks import MIN_ROWS
from bench.data.dataset import Dataset
from bench.data.loader import augment, epoch_order, loader
from bench.errors import ConfigError, MemoryLimit, NonFiniteLoss
from bench.machine import (
    free_memory,
    on_cpu,
    out_of_memory,
    sent,
    tf32_operations,
    tuned_convolutions,
)
from bench.method import Batch, Method, TrainState
from bench.progress import Reporter, Task
from bench.ranks import ALONE, Ranks, Rows
from bench.records import QUANTILES
from bench.records.run_folder import RunFolder
from bench.records.spec import TrainSpec
from bench.seeding import seed_for
from bench.storage import sha256_file
from bench.threat import Threat
from bench.training.batching import epoch_parts, micro_batches, own_rows, refuse_ranks
from bench.training.checkpoint import load_state, save_state
from bench.training.cost import Cost
from bench.training.optimiser import MixedPrecision, Optimiser, plain
from bench.training.validation import Score, score

SAVE_SECONDS = 120.0
"""Interval at which the state is saved within an epoch."""
CHECK_BATCHES = 50
"""Batches between two checks that the loss is finite; a check waits for the device."""


@dataclass
class Progress:
    """What a training has reached so far, as its saved state holds it."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    rate: float = 0.0
    tf32: list[str] = field(default_factory=list)
    """What computed fp32 in TF32, in some epoch."""
    ranks: list[int] = field(default_factory=list)
    """How many ranks trained; several values, if that changed at a resume."""
    epoch_seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sums of the epoch's metrics, kept on the device: reading them waits for it."""
    n_summed: int = 0
    first_bad: Tensor | None = None
    """The epoch's first batch with a loss that is not finite; -1 if none."""

    def add(self, metrics: Mapping[str, Tensor], n: int, step: int) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value * n
        self.n_summed += n
        loss = metrics["loss"]
        if self.first_bad is None:
            self.first_bad = torch.full((), -1, device=loss.device)
        bad = (self.first_bad < 0) & ~loss.isfinite()
        self.first_bad = torch.where(bad, step, self.first_bad)

    def check(self, epoch: int) -> None:
        if self.first_bad is not None and int(self.first_bad) >= 0:
            raise NonFiniteLoss(epoch, int(self.first_bad))

    def begin_epoch(self) -> None:
        self.sums, self.n_summed, self.first_bad, self.epoch_seconds = {}, 0, None, 0.0


class Trainer:
    """One training run in its folder."""

    def __init__(
        self,
        spec: TrainSpec,
        method: Method,
        dataset: Dataset,
        folder: RunFolder,
        device: torch.device,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        """ranks: the processes that train together; all of them do this, and the first saves."""
        self.ranks = ranks
        self.spec, self.method, self.folder, self.device = spec, method, folder, device
        threat = Threat(spec.norm, spec.eps)
        method.validate(threat, spec.num_classes)
        if spec.recipe.micro_batch is not None:
            method.refuse_micro_batch()
        self.data = loader(dataset.train, dataset.scale, device)
        self.val = loader(dataset.val, dataset.scale, device)
        refuse_ranks(spec.recipe, len(self.data), ranks.size)
        parts = epoch_parts(torch.arange(len(self.data)), spec.recipe.batch_size)
        self.batches_per_epoch = len(parts)
        self.n_batches = self.batches_per_epoch * spec.recipe.epochs
        self.network = initial_model(spec).to(device).to(memory_format=torch.channels_last)
        if ranks.size > 1:
            share_batchnorm(self.network, ranks)
        mixed = spec.precision == "bf16"
        model = MixedPrecision(self.network) if mixed else self.network
        self.cost = Cost()
        self.cost.watch(model, self.network.first_layer)
        self.optimiser = Optimiser(model, spec.recipe, self.n_batches, ranks)
        examples = method.example_state(len(self.data), threat)
        self.state = TrainState(
            model=model,
            threat=threat,
            num_classes=spec.num_classes,
            seed=spec.seed,
            n_epochs=spec.recipe.epochs,
            stepper=self.optimiser,
            device=device,
            ranks=ranks,
            examples={name: value.to(device) for name, value in examples.items()},
        )
        self.progress = Progress()
        self.warnings: list[str] = []
        self._saved = time.monotonic()

    def run(self, reporter: Reporter) -> dict[str, Any]:
        """Train to the end, from the saved state if there is one; return the summary.

        Raises NonFiniteLoss, and MemoryLimit if it does not fit; the saved state stays.
        """
        if self.ranks.rank > 0:
            self.ranks.wait()  # the first may put damaged files aside
        self._resume(reporter)
        if self.ranks.rank == 0:
            self.ranks.wait()
        self.ranks.wait()  # the first may remove what the others read
        self.progress.ranks = sorted({*self.progress.ranks, self.ranks.size})
        with reporter.task(self.folder.run_id, self.n_batches) as task:
            task.begin_at(self.state.batch_number)
            first = self.state.batch_number // self.batches_per_epoch
            for epoch in range(first, self.spec.recipe.epochs):
                self._epoch(epoch, task)
        if self.ranks.rank > 0:
            return {}
        save_weights(plain(self.method.eval_model(self.state)), self.folder.weights("last"))
        best = self._best_path()
        if best.exists():
            best.replace(self.folder.weights("best"))
        return self._summary()

    def time_batch(self, n: int) -> float:
        """Time a step on the first n images, in seconds; the trainer is unusable afterwards."""
        since = time.perf_counter()
        self._batch(torch.arange(n, device=self.device), 0)
        float(self.progress.sums["loss"])  # waits for the device
        return time.perf_counter() - since

    def _too_large(self, rows: int) -> MemoryLimit:
        """Return an error that names what fits instead of a batch of `rows` images.

        The trainer is unusable afterwards.
        """
        batch = self.spec.recipe.batch_size
        n = self.spec.recipe.micro_batch or rows
        head = f"{self.folder.run_id}: a batch of {n} images does not fit into the memory of "
        if self.ranks.size > 1:  # the others take no part in tries
            advice = "choose a smaller --batch-size or --micro-batch, or more --gpus-per-training"
            return MemoryLimit(f"{head}{self.ranks.size} GPUs; {advice}")
        while (n := n // 2) >= 2 and not self._fits(n, rows):
            pass
        if n < 2:
            advice = "and neither do 2; choose a smaller --arch or another --device"
        elif self.method.has_standard_step:
            advice = (
                f"{n} do: add --micro-batch {n}, which sums the gradients of {n} images at a time "
                f"into the steps of {batch}; BatchNorm then normalises {n} at a time"
            )
        else:
            advice = (
                f"{n} do: add --batch-size {n}, another recipe, for this method needs the whole "
                "batch at once"
            )
        return MemoryLimit(f"{head}{self.device}; {advice}")

    def _fits(self, n: int, rows: int) -> bool:
        """Whether training fits with n images at a time: whole steps on `rows` images if it can."""
        self.optimiser.sgd.zero_grad(set_to_none=True)
        free_memory(self.device)
        accumulates = self.method.has_standard_step
        if accumulates:
            recipe = replace(self.spec.recipe, micro_batch=n)
            self.spec = replace(self.spec, recipe=recipe)
        try:
            for _ in range(2):  # the first makes the momentum, which the second finds in memory
                self.time_batch(rows if accumulates else n)
        except Exception as error:
            if out_of_memory(error):
                return False
            raise
        return True

    def _epoch(self, epoch: int, task: Task) -> None:
        state = self.state
        state.epoch = epoch
        progress = self.progress
        progress.tf32 = sorted({*progress.tf32, *tf32_operations(self.device)})
        order = epoch_order(len(self.data), self.spec.seed, epoch, self.device)
        parts = epoch_parts(order, self.spec.recipe.batch_size)
        own = parts if self.ranks.size == 1 else [part[self._own(len(part))] for part in parts]
        self.data.expect(own, epoch * self.batches_per_epoch)
        since = time.monotonic()
        for step in range(state.batch_number % self.batches_per_epoch, len(parts)):
            self._batch_in_memory(parts[step], step, own[step])
            task.advance()
            if (step + 1) % CHECK_BATCHES == 0:
                self.progress.check(epoch)
            if step + 1 < len(parts) and time.monotonic() - self._saved > SAVE_SECONDS:
                self.progress.epoch_seconds += time.monotonic() - since
                since = time.monotonic()
                self._save()
        self.progress.check(epoch)
        self.progress.epoch_seconds += time.monotonic() - since
        self.method.end_epoch(state)
        self._close_epoch(epoch, task)

    def _batch_in_memory(self, index: Tensor, step: int, own: Tensor) -> None:
        """Train on a batch; raises MemoryLimit if it does not fit."""
        try:
            return self._batch(index, step, own)
        except Exception as error:
            if not out_of_memory(error):
                raise
        raise self._too_large(len(index))  # out here, where the error no longer holds the tensors

    def _own(self, n: int) -> Rows:
        return own_rows(self.ranks, n, self.spec.recipe.micro_batch)

    def _batch(self, index: Tensor, step: int, own: Tensor | None = None) -> None:
        """Train on the images of `index`; `own` are those of this rank, all by default."""
        state, progress = self.state, self.progress
        own, n = index if own is None else own, len(index)
        progress.rate = self.optimiser.set_rate(state.batch_number)
        with self.ranks.sharing(n, self._own(n)):
            x = augment(
                self.data.views(own, self.spec.seed, state.batch_number),
                pad=self.spec.recipe.pad or 0,
                flip=bool(self.spec.recipe.flip),
                mode=self.spec.recipe.pad_mode,
                generator=state.generator("augmentation"),
            )
            state.model.train()
            with self.cost.counting(n / len(own)), tuned_convolutions():
                metrics = self._step(Batch(x, self.data.labels(own), own), n)
            if self.ranks.size > 1:
                for value in state.examples.values():
                    value[index] = state.whole(value[own])
        progress.add(metrics, n, step)
        state.next_batch()

    def _step(self, batch: Batch, n: int) -> Mapping[str, Tensor]:
        """Update on the rows here of a batch of n; return metrics of the whole.

        With micro-batches, the update is by the sum of their gradients.
        """
        size, state, ranks = self.spec.recipe.micro_batch, self.state, self.ranks
        if size is None:
            metrics = self.method.train_step(state, batch)
            return {name: ranks.mean(value) for name, value in metrics.items()}
        total = torch.zeros((), device=self.device, dtype=batch.x.dtype)
        end = 0
        for micro in micro_batches(torch.arange(n), size):
            own = ranks.rows(len(micro))
            rows = slice(end, end := end + own.stop - own.start)
            part = Batch(batch.x[rows], batch.y[rows], batch.index[rows])
            state.scratch.clear()
            with ranks.sharing(len(micro)):
                x_adv = self.method.perturb(state, part)
                loss = self.method.loss(state, part, x_adv) * (len(micro) / n)
                state.backward(loss)
                total += ranks.mean(loss.detach())
        state.step()
        return {"loss": total}

    def _close_epoch(self, epoch: int, task: Task) -> None:
        progress = self.progress
        self._refuse_drift(epoch)
        model = plain(self.method.eval_model(self.state))
        result = self._score(model)
        if self.ranks.rank > 0:
            return progress.begin_epoch()
        progress.history.append(self._history_row(epoch, result))
        rank = result.rank(self.method.selects_by)
        if progress.best is None or rank >= tuple(progress.best["rank"]):
            progress.best = {"epoch": epoch, "rank": list(rank)}
            save_weights(model, self._best_path())
            progress.best["sha256"] = sha256_file(self._best_path())
        self.folder.write_history(progress.history)
        progress.begin_epoch()
        self._save()
        for older in self.folder.path.glob("best-*.safetensors"):
            if older != self._best_path():
                older.unlink()
        clean, robust = result.n_clean / result.n, result.n_robust / result.n
        task.advance(0, f"val clean {clean:.1%}, PGD-10 {robust:.1%}")
        return None

    def _refuse_drift(self, epoch: int) -> None:
        """Raise ConfigError where ranks differ in anything that a saved state holds."""
        state = self.state
        kept = {"": self.network.state_dict(), "examples.": state.examples, "memory.": state.memory}
        values = {head + name: value for head, of in kept.items() for name, value in of.items()}
        if not self.ranks.agree(values):
            raise ConfigError(
                f"{self.folder.run_id}: the {self.ranks.size} ranks of this training differ after "
                f"epoch {epoch}; a method must draw with `drawn` from `state.generator`, and keep "
                "what it shares in `state.examples` or sum it over ranks; train it with "
                "--gpus-per-training 1"
            )

    def _score(self, model: Arch) -> Score:
        try:
            return score(model, self.val, self.state.threat, self.spec.seed, self.ranks)
        except Exception as error:
            if not out_of_memory(error):
                raise
        raise MemoryLimit(
            f"{self.folder.run_id}: {MIN_ROWS} validation images do not fit into the memory of "
            f"{self.device}; choose a smaller --arch or another --device"
        )

    def _history_row(self, epoch: int, result: Score) -> dict[str, Any]:
        n, seconds = self.progress.n_summed, self.progress.epoch_seconds
        measured = dict(self.progress.sums)
        for name, value in self.state.examples.items():
            if value.is_floating_point() and value.ndim == 1:
                levels = sent(torch.tensor(QUANTILES, dtype=value.dtype), value.device)
                measured[f"{name}_quantiles"] = torch.quantile(value, levels)
                measured[f"{name}_mean"] = value.mean()
        measured = on_cpu(measured)
        row: dict[str, Any] = {
            "epoch": epoch,
            "lr": self.progress.rate,
            **{name: float(measured.pop(name)) / n for name in self.progress.sums},
            "val_clean": result.n_clean / result.n,
            "val_robust": result.n_robust / result.n,
            "n_val": result.n,
            "train_seconds": seconds,
            "images_per_second": n / max(seconds, 1e-9),
        }
        return row | {name: value.tolist() for name, value in measured.items()}

    def _summary(self) -> dict[str, Any]:
        progress, epochs = self.progress, self.spec.recipe.epochs
        assert progress.best is not None
        seconds = sum(row["train_seconds"] for row in progress.history)
        n_seen = len(self.data) * epochs
        by_epoch = {row["epoch"]: row for row in progress.history}
        checkpoints = {
            name: {
                "epoch": epoch,
                "val_clean": by_epoch[epoch]["val_clean"],
                "val_robust": by_epoch[epoch]["val_robust"],
                "sha256": sha256_file(self.folder.weights(name)),
            }
            for name, epoch in (("best", progress.best["epoch"]), ("last", epochs - 1))
        }
        cost = {
            "train_seconds": seconds,
            "images_per_second": n_seen / max(seconds, 1e-9),
            "forward_per_image": self.cost.forward / n_seen,
            "backward_per_image": self.cost.backward / n_seen,
            "first_layer_per_image": self.cost.first_layer / n_seen,
        }
        summary = {"status": "done", "epochs": epochs, "checkpoints": checkpoints, "cost": cost}
        if progress.tf32:
            summary["tf32"] = progress.tf32
        if progress.ranks != [1]:
            summary["ranks"] = progress.ranks
        return summary | {"warnings": self.warnings, "error": None}

    def _best_path(self) -> Path:
        # The epoch is in the saved state too: a kill between the files leaves a consistent pair.
        assert self.progress.best is not None
        return self.folder.path / f"best-{self.progress.best['epoch']}.safetensors"

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.ranks.rank > 0:
            return
        state = {
            "run_id": self.folder.run_id,
            "model": self.network.state_dict(),
            "optimiser": self.optimiser.sgd.state_dict(),
            "batch_number": self.state.batch_number,
            "examples": self.state.examples,
            "memory": self.state.memory,
            "cost": [self.cost.forward, self.cost.backward, self.cost.first_layer],
        }
        save_state(self.folder.path, on_cpu(state | vars(self.progress)))
        self._saved = time.monotonic()

    def _resume(self, reporter: Reporter) -> None:
        saved, self.warnings = load_state(self.folder.path, self.device)
        if saved is not None:
            known = {"tf32": [], "ranks": [1]} | saved  # older states have none
            self.progress = Progress(**{f.name: known[f.name] for f in fields(Progress)})
            if best := self.progress.best:
                # at the end they get their final name, and only then are the states removed
                places = self._best_path(), self.folder.weights("best")
                if not any(p.exists() and sha256_file(p) == best["sha256"] for p in places):
                    self.warnings.append(
                        "the best weights so far are missing or damaged: begun again"
                    )
                    saved, self.progress = None, Progress()
        for warning in self.warnings:
            reporter.say(f"{self.folder.run_id}: {warning}")
        if saved is None:
            return
        state = self.state
        self.network.load_state_dict(saved["model"])
        self.optimiser.sgd.load_state_dict(saved["optimiser"])
        state.batch_number = saved["batch_number"]
        state.examples, state.memory = saved["examples"], saved["memory"]
        self.cost.forward, self.cost.backward, self.cost.first_layer = saved["cost"]
        reporter.say(
            f"{self.folder.run_id}: resumes at batch {state.batch_number} of {self.n_batches}"
        )


def initial_model(spec: TrainSpec) -> Arch:
    """Build the network before training, initialised from the run's seed.

    Initialisers draw from the CPU's global generator, which is restored; a GPU's is not touched.
    """
    size: dict[str, Any] = {"num_classes": spec.num_classes, "image_size": spec.image_size}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(spec.seed, "weights"))
        return build(spec.arch, **size, in_channels=spec.in_channels, mean=spec.mean, std=spec.std)
