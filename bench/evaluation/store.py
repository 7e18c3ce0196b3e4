"""Attacks and measures of a checkpoint, kept in its run's folder: what is there is not made again.

The unit is one chunk under one attack, or one measure. Any number of processes may work on the
units of one model: each unit is claimed while it is made, and its outcome does not depend on who
makes it or when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.dataset import Dataset
from bench.data.loader import Loader, loader
from bench.errors import ModelError, RecordError
from bench.evaluation.adversarials import write_adversarials
from bench.evaluation.chunk import Outcome, attack_chunk
from bench.evaluation.evaluate import inspect_model
from bench.evaluation.given import blamed
from bench.evaluation.measuring import Measuring
from bench.evaluation.normalised import expects_normalised
from bench.evaluation.unfinished import read_unfinished, write_unfinished
from bench.folder import RunFolder
from bench.machine import free_memory
from bench.measured import whole, write_measure
from bench.progress import Reporter
from bench.records import Chunk
from bench.spec import CHUNK, GIVEN, EvalSpec, MeasureSpec
from bench.threat import Threat


@dataclass(frozen=True)
class Images:
    """The images of a data set, as floats on the device when they are needed."""

    dataset: Dataset
    device: torch.device
    _loaders: dict[str, Loader] = field(default_factory=dict, repr=False)

    def split(self, name: str) -> Loader:
        """The images of train, val or test."""
        if name not in self._loaders:
            images = getattr(self.dataset, name)
            self._loaders[name] = loader(images, self.dataset.scale, self.device)
        return self._loaders[name]

    def chunk(self, index: Sequence[int], split: str = "test") -> tuple[Tensor, Tensor]:
        """x (n, C, H, W) in [0, 1] and y (n,)."""
        images = self.split(split)
        rows = torch.tensor(index, device=images.y.device)
        return images.images(rows), images.labels(rows)


SMALL = 1_000_000
"""Parameters of a network whose activations for 256 images fit any machine."""


def default_batch(device: torch.device, model: nn.Module) -> int:
    """Rows of one call of a model: what fits the memory; no result depends on it."""
    small = sum(p.numel() for p in model.parameters()) < SMALL
    return CHUNK if small or device.type == "cuda" else 64


@dataclass(frozen=True, kw_only=True)
class Target:
    """A checkpoint of a run, and what it is attacked with."""

    folder: RunFolder
    checkpoint: str
    model: nn.Module
    images: Images
    surrogate: Callable[[str], nn.Module]
    """The network of a run id."""
    info: Mapping[str, Any]
    """Versions and hardware, for the records."""
    keep_images: bool = False
    """Also write the adversarial images."""

    _notes: dict[Hashable, list[str]] = field(default_factory=dict, repr=False)

    @property
    def batch_size(self) -> int:
        """Rows of one call of the model."""
        return default_batch(self.images.device, self.model)

    def inspected(self, key: Hashable, x: Tensor, y: Tensor, *, probe: bool) -> list[str]:
        """What is wrong with the output on these images, looked at once whatever attacks follow.

        key: names the images. probe: also ask of a model from outside whether it expects
        normalised images.
        """
        if key not in self._notes:
            found = inspect_model(self.model, x, y, self.batch_size)
            if probe and self.checkpoint == GIVEN:
                found += expects_normalised(self.model, x, y, self.batch_size)
            self._notes[key] = found
        return self._notes[key]


class Unit(Protocol):
    """A piece of work that one process does."""

    @property
    def asked(self) -> str:
        """The evaluation or measure that it is a part of."""

    @property
    def name(self) -> str:
        """Its place in the run's folder, for the claim."""

    @property
    def title(self) -> str:
        """For the progress bar."""

    def missing(self) -> bool:
        """Whether it is not there yet."""

    def make(self) -> None:
        """Do it, and write the outcome."""


def evaluate_missing(
    target: Target,
    specs: Sequence[EvalSpec],
    measures: Sequence[MeasureSpec],
    reporter: Reporter,
) -> bool:
    """Make what `specs` and `measures` lack; False where another process still makes some of it.

    An evaluation or measure that fails is told to `reporter`, and the others are made.
    """
    measuring = Measuring(target.model, target.batch_size, target.surrogate)
    units: list[Unit] = [
        _ChunkUnit(target, spec, number)
        for spec in specs
        for number in target.folder.evaluation(spec).missing(images=target.keep_images)
    ]
    units += [
        _MeasureUnit(target, spec, measuring)
        for spec in measures
        if not whole(target.folder.measure(spec))
    ]
    if not units:
        return True
    held = 0
    with reporter.task(
        f"{target.folder.run_id} ({target.checkpoint}): attacks", len(units)
    ) as task:
        for unit in units:
            task.advance(0, unit.title)
            if f"{target.folder.run_id}/{unit.asked}" not in reporter.failures:
                with target.folder.claimed_unit(unit.name) as mine:
                    if mine and unit.missing():
                        _make(target, unit, reporter)
                held += not mine
            task.advance(1)
    return held == 0


def _make(target: Target, unit: Unit, reporter: Reporter) -> None:
    """Make a unit, or say why it cannot be made; raises where nothing can be written."""
    try:
        with blamed(target.model, unit.title):
            unit.make()
        return
    except RecordError:
        raise
    except (Exception, SystemExit) as error:  # a user's model, no memory, a mistake here
        run_id, reason = target.folder.run_id, target.folder.failure(error)
        head = f"{run_id} ({target.checkpoint}): "
        named = reason if isinstance(error, ModelError) else f"{unit.title} was not made: {reason}"
        told = f"{head}{named}"
        why = reason.partition(": ")[2]
        if why and any(
            line.startswith(head) and why in line for line in reporter.failures.values()
        ):
            told = f"{head}{unit.title}: the same"  # of fourteen checks one line tells the reason
        reporter.failed(f"{run_id}/{unit.asked}", told, error)
    free_memory(target.images.device)


@dataclass(frozen=True)
class _ChunkUnit:
    target: Target
    spec: EvalSpec
    number: int

    @property
    def asked(self) -> str:
        return self.spec.eval_id

    @property
    def name(self) -> str:
        return f"{self.spec.eval_id}/{self.number}"

    @property
    def title(self) -> str:
        return f"{self.spec.attack} at {self.spec.eps:.4g}"

    def missing(self) -> bool:
        folder = self.target.folder.evaluation(self.spec)
        return not folder.has(self.number, images=self.target.keep_images)

    def make(self) -> None:
        target, spec = self.target, self.spec
        index = spec.chunks()[self.number]
        x, y = target.images.chunk(index, spec.split)
        notes = target.inspected((spec.split, *index), x, y, probe=self.number == 0)
        folder = target.folder.evaluation(spec)
        partial = folder.partial(self.number)
        outcome = attack_chunk(
            target.model,
            x,
            y,
            torch.tensor(index),
            Threat(spec.norm, spec.eps),
            spec.attack,
            seed=spec.seed,
            batch_size=target.batch_size,
            surrogate=tuple(target.surrogate(run_id) for run_id in spec.surrogates),
            keep_images=target.keep_images,
            unfinished=None if target.keep_images else read_unfinished(partial, len(index)),
            on_part=None if target.keep_images else lambda u: write_unfinished(partial, u),
        )
        if outcome.x_adv is not None:
            write_adversarials(
                folder.adversarials(self.number),
                outcome,
                index,
                y,
                {
                    "run_id": target.folder.run_id,
                    "dataset": target.images.dataset.name,
                    **spec.to_dict(),
                },
            )
        if not folder.has(self.number):
            folder.write_chunk(self.number, _record(index, y, outcome, notes, target.info))


@dataclass(frozen=True)
class _MeasureUnit:
    target: Target
    spec: MeasureSpec
    measuring: Measuring

    @property
    def asked(self) -> str:
        return self.spec.measure_id

    @property
    def name(self) -> str:
        return self.spec.measure_id

    @property
    def title(self) -> str:
        return self.spec.name

    def missing(self) -> bool:
        return not whole(self.target.folder.measure(self.spec))

    def make(self) -> None:
        spec, since = self.spec, time.monotonic()
        x, y = self.target.images.chunk(range(spec.n_examples), spec.split)
        measured = self.measuring.measure(spec, x, y)
        path = self.target.folder.measure(spec)
        write_measure(path, spec, measured, time.monotonic() - since, self.target.info)


def _record(
    index: Sequence[int],
    y: Tensor,
    outcome: Outcome,
    notes: Sequence[str],
    info: Mapping[str, Any],
) -> Chunk:
    return Chunk(
        index=np.asarray(index, dtype=np.int64),
        clean=outcome.clean.numpy(),
        survived=outcome.survived.numpy(),
        broken_by=outcome.broken_by.numpy(),
        parts=outcome.parts,
        seconds=outcome.seconds,
        warnings=(*notes, *outcome.warnings),
        info=info,
        label=y.cpu().numpy(),
        after=outcome.after.numpy() if outcome.after is not None else None,
        package_checks=tuple(check.to_dict() for check in outcome.package_checks),
    )
