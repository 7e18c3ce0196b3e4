"""Adversarial images on disk: written with a checksum, so that anybody can verify them.

A file holds one chunk: `x_adv` (n, C, H, W) float32, `index` and `label` (n,) int64, and `correct`
(n,) bool, the evaluator's judgement. Its header names the attack, eps, images and model, and holds
the SHA-256 of these facts and of the tensors. safetensors files are data, never code.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench.attacks.networks import BatchedModel, fitted
from bench.errors import DataError
from bench.evaluation.chunk import TOLERANCE, Outcome
from bench.evaluation.prediction import evaluating, predictions
from bench.storage import sha256
from bench.threat import Threat

KINDS = {
    "x_adv": (torch.float32, 4),
    "index": (torch.int64, 1),
    "label": (torch.int64, 1),
    "correct": (torch.bool, 1),
}
"""Type and number of dimensions of each tensor; the first is n in all."""


@dataclass(frozen=True, kw_only=True)
class Adversarials:
    """The content of a file whose checksum holds."""

    x_adv: Tensor
    """(n, C, H, W)."""
    index: Tensor
    """(n,) dataset indices."""
    label: Tensor
    """(n,)."""
    correct: Tensor
    """(n,) bool: the model's predictions, according to the file."""
    facts: Mapping[str, Any]
    """The evaluation: its specification, dataset and run_id."""


class VerifiedImages(NamedTuple):
    """The result of verifying every image again."""

    n: int
    n_wrong: int
    differs: dict[str, list[int]]
    """Dataset indices by what is not as it must be, or not as the file says."""

    @property
    def holds(self) -> bool:
        return not self.differs


def adversarials_bytes(
    outcome: Outcome, index: Sequence[int], y: Tensor, facts: Mapping[str, Any]
) -> bytes:
    assert outcome.x_adv is not None
    tensors = {
        "x_adv": outcome.x_adv.float().contiguous(),
        "index": torch.tensor(index),
        "label": y.cpu(),
        "correct": outcome.survived,
    }
    text = json.dumps(dict(facts))
    header = {"facts": text, "sha256": _checksum(text, tensors)}
    return save(tensors, metadata=header)


def read_adversarials(path: Path) -> Adversarials:
    """Read a file; raises DataError if it is missing, damaged, or something else."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in KINDS}
        text = header["facts"]
        facts = json.loads(text)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist; `bench evaluate --save-adversarials` writes such files"
        ) from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} does not hold adversarial images of this program: {error}"
        ) from None
    if header.get("sha256") != _checksum(text, tensors) or not _aligned(tensors):
        raise DataError(
            f"{path} is damaged: its content does not match its checksum; delete it, and the "
            "command that wrote it makes it again"
        )
    return Adversarials(facts=facts, **tensors)


def recheck(
    found: Adversarials, model: nn.Module, x: Tensor, y: Tensor, batch_size: int
) -> VerifiedImages:
    """Verify distance, range, label and prediction of each image against the originals x and y.

    x: (n, C, H, W) on the model's device, of the size of `found.x_adv`; y: (n,).
    """
    x_adv = found.x_adv.to(x.device)
    threat = Threat(found.facts["norm"], float(found.facts["eps"]))
    with evaluating(model):
        right, _ = fitted(
            *(model, batch_size, x.device),
            lambda rows: predictions(BatchedModel(model, rows), x_adv, y),
        )
    differs = {
        "outside the ball": ~(threat.distance(x_adv, x) <= threat.eps + TOLERANCE),
        "outside [0, 1]": ~((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1),
        "other label": found.label.to(y.device) != y,
        "other prediction": right.cpu() != found.correct,
    }
    indices = {what: found.index[flags.cpu()].tolist() for what, flags in differs.items()}
    return VerifiedImages(
        len(y), int((~right).sum()), {k: index for k, index in indices.items() if index}
    )


def _aligned(tensors: Mapping[str, Tensor]) -> bool:
    kinds = {name: (tensor.dtype, tensor.ndim) for name, tensor in tensors.items()}
    lengths = {len(tensor) for tensor in tensors.values() if tensor.ndim}
    return kinds == KINDS and len(lengths) == 1 and 0 not in lengths


def _checksum(facts: str, tensors: Mapping[str, Tensor]) -> str:
    content = [tensors[name].contiguous().numpy().tobytes() for name in KINDS]
    return sha256(b"".join([facts.encode(), *content]))
