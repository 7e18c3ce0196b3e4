"""Evaluations of a run, kept in its folder chunk by chunk: what is there is not made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.dataset import Dataset
from bench.data.loader import Loader, loader
from bench.evaluation.chunk import Outcome, attack_chunk
from bench.evaluation.evaluate import inspect_model
from bench.evaluation.normalised import expects_normalised
from bench.folder import RunFolder
from bench.progress import Reporter
from bench.records import Chunk
from bench.spec import CHUNK, GIVEN, EvalSpec
from bench.threat import Threat


@dataclass(frozen=True)
class Images:
    """The test images of a data set, as floats on the device when they are needed."""

    split: Loader

    @classmethod
    def of(cls, dataset: Dataset, device: torch.device) -> Images:
        """All test images."""
        return cls(loader(dataset.test, dataset.scale, device))

    def chunk(self, index: Sequence[int]) -> tuple[Tensor, Tensor]:
        """x (n, C, H, W) in [0, 1] and y (n,)."""
        rows = torch.tensor(index, device=self.split.y.device)
        return self.split.images(rows), self.split.labels(rows)


SMALL = 1_000_000
"""Parameters of a network whose activations for 256 images fit any machine."""


def default_batch(device: torch.device, model: nn.Module) -> int:
    """Rows of one call of a model: what fits the memory; no result depends on it."""
    small = sum(p.numel() for p in model.parameters()) < SMALL
    return CHUNK if small or device.type == "cuda" else 64


def evaluate_missing(
    folder: RunFolder,
    checkpoint: str,
    model: nn.Module,
    specs: Sequence[EvalSpec],
    images: Images,
    info: Mapping[str, Any],
    reporter: Reporter,
) -> None:
    """Run the chunks of `specs` that have no outcome yet, and store each as it ends."""
    device = images.split.y.device
    batch_size = default_batch(device, model)
    todo = [(spec, c) for spec in specs for c in folder.evaluation(spec).missing()]
    if not todo:
        return
    x, y = images.chunk(range(min(CHUNK, len(images.split))))
    notes = inspect_model(model, x, y, batch_size)
    if checkpoint == GIVEN:
        notes += expects_normalised(model, x, y, batch_size)
    title = f"{folder.run_id} ({checkpoint})"
    with reporter.task(f"{title}: attacks", len(todo)) as task:
        for spec, number in todo:
            task.advance(0, f"{spec.attack} at {spec.eps:.4g}")
            index = spec.chunks()[number]
            x, y = images.chunk(index)
            outcome = attack_chunk(
                model,
                x,
                y,
                torch.tensor(index),
                Threat(spec.norm, spec.eps),
                spec.attack,
                seed=spec.seed,
                batch_size=batch_size,
            )
            folder.evaluation(spec).write_chunk(number, _record(index, y, outcome, notes, info))
            task.advance(1)


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
    )
