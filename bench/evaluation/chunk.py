"""One attack on one chunk of images: the unit of evaluation.

A chunk holds the images whose dataset indices are in [256 c, 256 c + 256). Its outcome is a
function of the model, the images, the attack, the seed and c, whatever the block size, the order
of the chunks, the number of processes, or what was interrupted before.

Shapes: n images of the chunk, C H W image, K classes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.attacks import Attack, AttackWarning, Cascade, get_attack
from bench.attacks.blocks import Blocked
from bench.attacks.maximise import attack_mode
from bench.seeding import generator_for
from bench.spec import CHUNK
from bench.threat import Threat

TOLERANCE = 1e-6
"""Rounding that a distance may exceed eps by, in pixels."""


@dataclass(frozen=True)
class Outcome:
    """What became of each image, on the CPU."""

    clean: Tensor
    """(n,) bool: correct without an attack."""
    survived: Tensor
    """(n,) bool: correct without and under the attack."""
    broken_by: Tensor
    """(n,) int8: index into `parts`; -1 where none broke it."""
    parts: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...]


def attack_chunk(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    threat: Threat,
    attack: str,
    *,
    seed: int = 0,
    batch_size: int = 256,
) -> Outcome:
    """Attack the clean-correct images, in eval mode, and count what the evaluator itself sees.

    x: (n, C, H, W) in [0, 1] on the model's device; y: (n,); index: (n,) dataset indices within
    one chunk, on the CPU. Every adversarial image is projected into the threat, its distance is
    checked, and the prediction is made again before it counts. NaN counts as broken.
    """
    number = int(index[0]) // CHUNK
    assert (index // CHUNK == number).all(), "the images of a call are of one chunk"
    blocked, notes, since = Blocked(model, batch_size), dict[str, None](), time.monotonic()
    rows = (index - number * CHUNK).to(x.device)
    with attack_mode(blocked, "eval"), exact_arithmetic():
        clean, missing = predictions(blocked, x, y)
        if missing:
            notes[f"{missing} clean images have logits that are not finite"] = None
        left = clean.nonzero().squeeze(1)
        broken_by = torch.full((len(y),), -1, dtype=torch.int8, device=y.device)
        parts = attack_parts(attack)
        for part, (name, run) in enumerate(parts):
            if len(left) == 0:
                break
            generator = generator_for(seed, attack, number, device=x.device)
            with _collected(notes):
                x_adv = run(blocked, x[left], y[left], threat, generator=generator, rows=rows[left])
            right = _verified(blocked, x[left], y[left], x_adv, threat, name, notes)
            broken_by[left[~right]] = part
            left = left[right]
    return Outcome(
        clean=clean.cpu(),
        survived=(clean & (broken_by < 0)).cpu(),
        broken_by=broken_by.cpu(),
        parts=tuple(name for name, _ in parts),
        seconds=time.monotonic() - since,
        warnings=tuple(notes),
    )


def attack_parts(attack: str) -> list[tuple[str, Attack]]:
    """The attack's parts in order: one, but for a cascade."""
    found = get_attack(attack)
    if isinstance(found, Cascade):
        return [(part.part, part) for part in found.parts]
    return [(attack, found)]


def predictions(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """(n,) bool whether each prediction is right, and how many rows of logits are not finite.

    A row that is not finite is not right, whatever its arg-max.
    """
    with torch.no_grad():
        logits = model(x)
    finite = logits.isfinite().all(1)
    return (logits.argmax(1) == y) & finite, int((~finite).sum())


def _verified(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    threat: Threat,
    name: str,
    notes: dict[str, None],
) -> Tensor:
    """(n,) bool: still right on the projected adversarial image."""
    unusable = ~x_adv.isfinite().flatten(1).all(1)
    if unusable.any():
        notes[f"{name} returned {int(unusable.sum())} images that are not finite: broken"] = None
    x_adv = torch.where(unusable.view(-1, 1, 1, 1), x, x_adv)
    outside = threat.distance(x_adv, x) > threat.eps + TOLERANCE
    if outside.any():
        notes[f"{name} left the ball on {int(outside.sum())} images; they were projected"] = None
    projected = threat.project(x_adv, x)
    assert bool((threat.distance(projected, x) <= threat.eps + TOLERANCE).all())
    right, missing = predictions(model, projected, y)
    if missing:
        notes[f"{missing} images under {name} have logits that are not finite: broken"] = None
    return right & ~unusable


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """No TF32 and no autocast inside: fp32 means fp32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def _collected(notes: dict[str, None]) -> Iterator[None]:
    """What an attack noticed about the model becomes a note of the record, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", AttackWarning)
        yield
    for warning in caught:
        notes[str(warning.message)] = None
