"""Run the missing attacks and measures of a checkpoint, and store them in its run's folder.

The unit of work is one chunk under one attack, or one measure. Any number of processes may share
the units of a model: each is claimed while it runs, and its outcome does not depend on the process
or the order. A kill costs at most one part of an attack on one chunk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.dataset import Dataset
from bench.data.loader import Loader, loader
from bench.errors import ModelError, RecordError
from bench.evaluation.adversarials import write_adversarials
from bench.evaluation.chunk import PartialOutcome, attack_chunk
from bench.evaluation.inputs import blamed
from bench.evaluation.measuring import Measuring
from bench.evaluation.model_checks import expects_normalised, inspect_model
from bench.machine import free_memory
from bench.measure_record import write_measure
from bench.progress import Reporter
from bench.provenance import UNKNOWN, canonical, evaluation_code
from bench.records import Chunk
from bench.run_store import RunFolder
from bench.spec import CHUNK, GIVEN, EvalSpec, MeasureSpec
from bench.storage import npz_arrays, npz_bytes, sha256, write_atomic
from bench.threat import Threat

CHECKSUM = 64
"""Length of the hex digest that a file of a partial outcome begins with."""


@dataclass(frozen=True)
class Images:
    """The images of a data set, loaded as floats on the device on first use."""

    dataset: Dataset
    device: torch.device
    _loaders: dict[str, Loader] = field(default_factory=dict, repr=False)

    def split(self, name: str) -> Loader:
        if name not in self._loaders:
            images = getattr(self.dataset, name)
            self._loaders[name] = loader(images, self.dataset.scale, self.device)
        return self._loaders[name]

    def chunk(self, index: Sequence[int], split: str = "test") -> tuple[Tensor, Tensor]:
        """x (n, C, H, W) in [0, 1] and y (n,)."""
        images = self.split(split)
        rows = torch.tensor(index, device=images.y.device)
        return images.images(rows), images.labels(rows)


@dataclass(frozen=True, kw_only=True)
class AttackedCheckpoint:
    """A checkpoint under attack, and what the attacks need."""

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
    batch_size: int = CHUNK
    """Most rows per call of the model; fewer if the memory runs out."""

    _notes: dict[Hashable, list[str]] = field(default_factory=dict, repr=False)

    def inspected(self, key: Hashable, x: Tensor, y: Tensor, *, probe: bool) -> list[str]:
        """Return warnings about the output on these images, computed once per `key`.

        probe: also test whether an external model expects normalised images.
        """
        if key not in self._notes:
            found = inspect_model(self.model, x, y, self.batch_size)
            if probe and self.checkpoint == GIVEN:
                found += expects_normalised(self.model, x, y, self.batch_size)
            self._notes[key] = found
        return self._notes[key]


@dataclass(frozen=True, kw_only=True)
class _WorkItem:
    """A chunk under an attack, or a measure."""

    spec_id: str
    name: str
    """Its place in the run's folder, for the claim."""
    title: str
    missing: Callable[[], bool]
    make: Callable[[], None]


def evaluate_missing(
    target: AttackedCheckpoint,
    specs: Sequence[EvalSpec],
    measures: Sequence[MeasureSpec],
    reporter: Reporter,
    after_each: Callable[[], object],
) -> bool:
    """Run what is missing of `specs` and `measures`; False if another process is still at some.

    after_each: called after each evaluation and each measure. A failed one is reported, and the
    others still run.
    """
    measuring = Measuring(target.model, target.batch_size, target.surrogate)
    items = [
        _chunk_item(target, spec, number)
        for spec in specs
        for number in target.folder.evaluation(spec).missing(images=target.keep_images)
    ]
    items += [
        _measure_item(target, spec, measuring)
        for spec in measures
        if not target.folder.has_measure(spec)
    ]
    if not items:
        return True
    held, run_id = 0, target.folder.run_id
    with reporter.task(f"{run_id} ({target.checkpoint}): attacks", len(items)) as task:
        for _, group in groupby(items, key=lambda item: item.spec_id):
            for item in group:
                task.advance(0, item.title)
                if f"{run_id}/{item.spec_id}" not in reporter.failures:
                    with target.folder.claimed_unit(item.name) as mine:
                        if mine and item.missing():
                            _make(target, item, reporter)
                    held += not mine
                task.advance(1)
            after_each()
    return held == 0


def _make(target: AttackedCheckpoint, item: _WorkItem, reporter: Reporter) -> None:
    """Run an item and report a failure; raises RecordError if nothing can be written."""
    try:
        with blamed(target.model, item.title):
            item.make()
        return
    except RecordError:
        raise
    except (Exception, SystemExit) as error:  # a user's model, no memory, a mistake here
        run_id, reason = target.folder.run_id, target.folder.failure(error)
        head, why = f"{run_id} ({target.checkpoint}): ", reason.partition(": ")[2]
        told = reason if isinstance(error, ModelError) else f"{item.title} was not made: {reason}"
        if why and any(t.startswith(head) and why in t for t in reporter.failures.values()):
            told = f"{item.title}: the same"  # one line explains all fourteen checks
        reporter.failed(f"{run_id}/{item.spec_id}", head + told, error)
    free_memory(target.images.device)


def _chunk_item(target: AttackedCheckpoint, spec: EvalSpec, number: int) -> _WorkItem:
    folder, resumes = target.folder.evaluation(spec), not target.keep_images
    partial = folder.partial(number)

    def make() -> None:
        index = spec.chunks()[number]
        x, y = target.images.chunk(index, spec.split)
        notes = target.inspected((spec.split, *index), x, y, probe=number == 0)
        outcome = attack_chunk(
            *(target.model, x, y, torch.tensor(index), Threat(spec.norm, spec.eps), spec.attack),
            seed=spec.seed,
            batch_size=target.batch_size,
            surrogate=tuple(target.surrogate(run_id) for run_id in spec.surrogates),
            keep_images=target.keep_images,
            unfinished=read_unfinished(partial, len(index)) if resumes else None,
            on_part=(lambda outcome: write_unfinished(partial, outcome)) if resumes else None,
        )
        if outcome.x_adv is not None:
            facts = {"run_id": target.folder.run_id, "dataset": target.images.dataset.name}
            path = folder.adversarials(number)
            write_adversarials(path, outcome, index, y, facts | spec.to_dict())
        if folder.has(number):
            return
        chunk = Chunk(
            index=np.asarray(index, dtype=np.int64),
            clean=outcome.clean.numpy(),
            survived=outcome.survived.numpy(),
            broken_by=outcome.broken_by.numpy(),
            parts=outcome.parts,
            seconds=outcome.seconds,
            warnings=(*notes, *outcome.warnings),
            info=target.info,
            label=y.cpu().numpy(),
            after=outcome.after.numpy() if outcome.after is not None else None,
            package_checks=tuple(check.to_dict() for check in outcome.package_checks),
        )
        folder.write_chunk(number, chunk)

    return _WorkItem(
        spec_id=spec.eval_id,
        name=f"{spec.eval_id}/{number}",
        title=f"{spec.attack} at {spec.eps:.4g}",
        missing=lambda: not folder.has(number, images=target.keep_images),
        make=make,
    )


def _measure_item(target: AttackedCheckpoint, spec: MeasureSpec, measuring: Measuring) -> _WorkItem:
    path = target.folder.measure(spec)

    def make() -> None:
        since = time.monotonic()
        x, y = target.images.chunk(range(spec.n_examples), spec.split)
        measured = measuring.measure(spec, x, y)
        write_measure(path, spec, measured, time.monotonic() - since, target.info)

    return _WorkItem(
        spec_id=spec.measure_id,
        name=spec.measure_id,
        title=spec.name,
        missing=lambda: not target.folder.has_measure(spec),
        make=make,
    )


def write_unfinished(path: Path, unfinished: PartialOutcome) -> None:
    """Write the parts of an attack that are done, in one file with its checksum."""
    facts = {
        "n_parts": unfinished.n_parts,
        "seconds": unfinished.seconds,
        "warnings": list(unfinished.warnings),
        "evaluation_sha256": evaluation_code()["evaluation_sha256"],
    }
    flags = {"broken_by": unfinished.broken_by.numpy(), "after": unfinished.after.numpy()}
    content = npz_bytes(flags | {"facts": np.array(json.dumps(facts))})
    write_atomic(path, sha256(content).encode() + content)


def read_unfinished(path: Path, n: int) -> PartialOutcome | None:
    """Read the partial outcome of a chunk of n images; None if missing, damaged or unusable."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    content = stored[CHECKSUM:]
    if stored[:CHECKSUM] != sha256(content).encode():
        return None
    arrays = npz_arrays(content)
    facts = json.loads(str(arrays["facts"]))
    broken_by, after = (torch.from_numpy(arrays[name]) for name in ("broken_by", "after"))
    began = canonical(facts.get("evaluation_sha256", UNKNOWN))
    if len(broken_by) != n or began != canonical(evaluation_code()["evaluation_sha256"]):
        return None  # of other images, or by other code, whose outcome the chunk would carry
    warnings, seconds = tuple(facts["warnings"]), float(facts["seconds"])
    return PartialOutcome(int(facts["n_parts"]), broken_by, after, seconds, warnings)
