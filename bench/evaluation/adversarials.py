"""Adversarial images on disk: written with their checksum, and checked again by anybody.

A file holds one chunk: `x_adv` (n, C, H, W) float32, `index` and `label` (n,) int64, `correct`
(n,) bool, what the evaluator found. Its header says which attack, eps, images and model, and the
SHA-256 of the tensors. safetensors: data, never code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench.attacks.blocks import Blocked
from bench.attacks.maximise import attack_mode
from bench.errors import DataError
from bench.evaluation.chunk import TOLERANCE, Outcome, exact_arithmetic, predictions
from bench.storage import sha256, write_atomic
from bench.threat import Threat

NAMES = ("x_adv", "index", "label", "correct")


@dataclass(frozen=True, kw_only=True)
class Adversarials:
    """The content of such a file, its checksum found right."""

    x_adv: Tensor
    """(n, C, H, W)."""
    index: Tensor
    """(n,) dataset indices."""
    label: Tensor
    """(n,)."""
    correct: Tensor
    """(n,) bool: what the file says of the model's predictions."""
    facts: Mapping[str, Any]
    """Of the evaluation: attack, eps, norm, split, n_examples, data_sha256, dataset, run_id."""


@dataclass(frozen=True, kw_only=True)
class Recheck:
    """What another look at each image found."""

    n: int
    n_correct: int
    """Predicted right now."""
    outside_ball: list[int]
    """Indices whose image is farther than eps from the test image."""
    outside_range: list[int]
    """Indices whose image leaves [0, 1] or is not finite."""
    other_label: list[int]
    """Indices whose label is not the data set's."""
    other_prediction: list[int]
    """Indices where right or wrong is not what the file says."""

    @property
    def holds(self) -> bool:
        """Nothing differs."""
        return not (
            self.outside_ball or self.outside_range or self.other_label or self.other_prediction
        )


def write_adversarials(
    path: Path, outcome: Outcome, index: Sequence[int], y: Tensor, facts: Mapping[str, Any]
) -> None:
    """The images of one chunk."""
    assert outcome.x_adv is not None
    tensors = {
        "x_adv": outcome.x_adv.float().contiguous(),
        "index": torch.tensor(index),
        "label": y.cpu(),
        "correct": outcome.survived,
    }
    header = {"facts": json.dumps(dict(facts)), "sha256": _checksum(tensors)}
    write_atomic(path, save(tensors, metadata=header))


def read_adversarials(path: Path) -> Adversarials:
    """Raises DataError where the file is missing, damaged, or something else."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in NAMES}
        facts = json.loads(header["facts"])
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist; `bench evaluate --save-adversarials` writes such files"
        ) from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} does not hold adversarial images of this program: {error}"
        ) from None
    if header.get("sha256") != _checksum(tensors):
        raise DataError(f"{path} is damaged: its images do not match their checksum")
    return Adversarials(facts=facts, **tensors)


def recheck(
    found: Adversarials, model: nn.Module, x: Tensor, y: Tensor, batch_size: int
) -> Recheck:
    """Distance, range, label and prediction of each image; x, y are the test images themselves.

    x: (n, C, H, W) on the model's device; y: (n,).
    """
    x_adv, label = found.x_adv.to(x.device), found.label.to(y.device)
    threat = Threat(found.facts["norm"], float(found.facts["eps"]))
    blocked = Blocked(model, batch_size)
    with attack_mode(blocked, "eval"), exact_arithmetic():
        right, _ = predictions(blocked, x_adv, label)
    # what the evaluator counts: an image that is wrong without an attack never survives
    far = ~(threat.distance(x_adv, x) <= threat.eps + TOLERANCE)
    out = ~((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    differs = right.cpu() != found.correct
    return Recheck(
        n=len(y),
        n_correct=int(right.sum()),
        outside_ball=_at(found, far),
        outside_range=_at(found, out),
        other_label=_at(found, label != y),
        other_prediction=_at(found, differs),
    )


def _at(found: Adversarials, flags: Tensor) -> list[int]:
    return [int(i) for i in found.index[flags.cpu()]]


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return sha256(b"".join(tensors[name].contiguous().numpy().tobytes() for name in NAMES))
