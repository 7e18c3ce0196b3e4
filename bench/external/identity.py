"""Which record belongs to a model: that of the same text and weights, if it computes the same.

A model's text, one file and a state dict do not say all: members in a list, plain attributes and
code in a second file change what it computes. So a record keeps the logits of a few images.
"""

from __future__ import annotations

import hashlib
import itertools
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.blocks import MIN_ROWS, Blocked
from bench.attacks.maximise import attack_mode
from bench.evaluation.chunk import exact_arithmetic
from bench.spec import ModelSpec
from bench.storage import npz_arrays, npz_bytes, write_atomic

FILE = "fingerprint.npz"
NOISE = 0.03
"""Largest change of a pixel in the noisy images, about 8 grey levels."""
SAME = 1e-3
"""Largest difference of logits, relative to their size, that another machine may make."""


@dataclass(frozen=True)
class Fingerprint:
    """What a model makes of the first images, k of them, at most MIN_ROWS, and of noisy ones."""

    images: np.ndarray
    """(k,) hex digests."""
    logits: np.ndarray
    """(k, 2 K) float32, of each image as it is and with noise; NaN where calls differ."""

    def same(self, other: Fingerprint) -> bool:
        """Whether both have images in common, and no other logits on any of them."""
        _, mine, theirs = np.intersect1d(self.images, other.images, return_indices=True)
        a, b = self.logits[mine], other.logits[theirs]
        if len(mine) == 0 or a.shape != b.shape:
            return False
        known = np.isfinite(a) & np.isfinite(b)
        size = np.abs(a[known]).max(initial=0.0)
        return bool((np.abs(a - b)[known] <= SAME * size).all())


def fingerprint(model: nn.Module, x: Tensor) -> Fingerprint:
    """Of a model on images x (n, C, H, W); whoever draws from torch's generator draws the same.

    Also on images with noise, as an attack makes them: what rounds grey levels, say, changes no
    image that has them already.
    """
    few = x[:MIN_ROWS]
    noise = torch.rand(few.shape, generator=torch.Generator().manual_seed(0), dtype=few.dtype)
    noisy = (few + NOISE * (2 * noise.to(few.device) - 1)).clamp(0, 1)
    blocked = Blocked(model, MIN_ROWS)
    with attack_mode(blocked, "eval"), exact_arithmetic(), torch.no_grad():
        first, second = (
            torch.cat([_seeded(blocked, few), _seeded(blocked, noisy)], 1) for _ in range(2)
        )
    size = first[first.isfinite()].abs().amax() if bool(first.isfinite().any()) else 0.0
    steady = torch.where((first - second).abs() <= SAME * size, first, torch.nan)
    digests = [hashlib.sha256(image.cpu().numpy().tobytes()).hexdigest() for image in few]
    return Fingerprint(np.array(digests), steady.float().cpu().numpy())


def _seeded(model: nn.Module, x: Tensor) -> Tensor:
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        logits: Tensor = model(x)
    return logits


def own_spec(spec: ModelSpec, found: Fingerprint, results: Path) -> ModelSpec:
    """The specification whose record in `results` is of this model, or is not there yet."""
    for variant in itertools.count():
        candidate = replace(spec, variant=variant)
        folder = results / candidate.run_id
        if not (folder / "spec.json").exists() or is_of(folder, found):
            return candidate
    raise AssertionError("unreachable")


def is_of(folder: Path, found: Fingerprint) -> bool:
    """Whether the record in `folder` is of a model with that fingerprint."""
    try:
        arrays = npz_arrays((folder / FILE).read_bytes())
        return Fingerprint(arrays["images"], arrays["logits"]).same(found)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def write_fingerprint(folder: Path, found: Fingerprint) -> None:
    """Keep it beside the record, unless one is there."""
    if not is_of(folder, found):
        write_atomic(folder / FILE, npz_bytes({"images": found.images, "logits": found.logits}))
