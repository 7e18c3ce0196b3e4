"""Find the record of a model: same code, same weights, and same logits on a few images.

Code and state dict do not determine a model: members in a list, plain attributes and a second file
change what it computes. So a record keeps the logits of a few images.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.networks import MIN_ROWS, BatchedModel
from bench.errors import ModelError
from bench.evaluation.prediction import evaluating
from bench.records.spec import ModelSpec
from bench.storage import npz_arrays, npz_bytes, write_atomic

FILE = "fingerprint.npz"
NOISE = 0.03
"""Largest pixel change of the noisy images, about 8 grey levels."""
SAME = 1e-3
"""Largest difference of logits between machines, relative to their size."""


@dataclass(frozen=True)
class Fingerprint:
    """Logits on the first k images, at most MIN_ROWS, and on noisy copies."""

    images: np.ndarray
    """(k,) hex digests."""
    logits: np.ndarray
    """(k, 2 K) float32, of each image without and with noise; NaN where calls differ."""

    def same(self, other: Fingerprint) -> bool:
        """Whether both have images in common, with the same logits on all of them."""
        _, mine, theirs = np.intersect1d(self.images, other.images, return_indices=True)
        a, b = self.logits[mine], other.logits[theirs]
        if len(mine) == 0 or a.shape != b.shape:
            return False
        known = np.isfinite(a) & np.isfinite(b)
        size = np.abs(a[known]).max(initial=0.0)
        return bool((np.abs(a - b)[known] <= SAME * size).all())


def fingerprint(model: nn.Module, x: Tensor) -> Fingerprint:
    """Compute the fingerprint on images x (n, C, H, W), under a fixed seed of torch's generator.

    The noisy images, like those of an attack, reveal what clean ones hide: a model that rounds
    grey levels, for example, changes no image that has them already.
    """
    few = x[:MIN_ROWS]
    noise = torch.rand(few.shape, generator=torch.Generator().manual_seed(0), dtype=few.dtype)
    noisy = (few + NOISE * (2 * noise.to(few.device) - 1)).clamp(0, 1)
    blocked = BatchedModel(model, MIN_ROWS)
    devices = [x.device] if x.device.type == "cuda" else []

    def seeded(x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            logits: Tensor = blocked(x)
        return logits

    with evaluating(blocked), torch.no_grad():
        first, second = (torch.cat([seeded(few), seeded(noisy)], 1) for _ in range(2))
    size = first[first.isfinite()].abs().amax() if bool(first.isfinite().any()) else 0.0
    steady = torch.where((first - second).abs() <= SAME * size, first, torch.nan)
    digests = [hashlib.sha256(image.cpu().numpy().tobytes()).hexdigest() for image in few]
    return Fingerprint(np.array(digests), steady.float().cpu().numpy())


def own_spec(spec: ModelSpec, current: Fingerprint, results: Path) -> ModelSpec:
    """Return the variant of `spec` whose record in `results` is this model's, or does not exist."""
    folder = results / spec.run_id
    if not (folder / "spec.json").exists() or _is_of(folder, current):
        return spec
    return own_spec(replace(spec, variant=spec.variant + 1), current, results)


def _is_of(folder: Path, current: Fingerprint) -> bool:
    """Whether the record in `folder` has this fingerprint."""
    try:
        arrays = npz_arrays((folder / FILE).read_bytes())
        return Fingerprint(arrays["images"], arrays["logits"]).same(current)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def write_fingerprint(folder: Path, current: Fingerprint) -> None:
    """Write it to the record's folder, unless it is there."""
    if not _is_of(folder, current):
        write_atomic(folder / FILE, npz_bytes(asdict(current)))


def refuse_another(folder: Path, current: Fingerprint) -> None:
    """Raise ModelError if the record in `folder` is of a model with other outputs."""
    if not _is_of(folder, current):
        raise ModelError(
            f"the model of {folder.name} has other outputs when it is loaded again: attack it with "
            "--workers 1"
        )
