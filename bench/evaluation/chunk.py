"""One attack on one chunk of images: the unit of evaluation.

A chunk holds the images whose dataset indices are in [256 c, 256 c + 256). Its outcome is a
function of the model, the images, the attack, the seed and c, whatever the block size, the order
of the chunks, the number of processes, or what was interrupted before.

Shapes: n images of the chunk, C H W image, K classes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.archs.rows import filled
from bench.attacks import Attack, AttackWarning, get_attack
from bench.attacks.blocks import MIN_ROWS, Blocked, searched
from bench.attacks.maximise import attack_mode
from bench.attacks.pgd import only_copy_fooled
from bench.evaluation.check import Check
from bench.evaluation.package_checks import is_autoattack, package_checks
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
    after: Tensor | None = None
    """(n,) bool: correct under the attack, whether or not correct without; transfer only."""
    package_checks: tuple[Check, ...] = ()
    """AutoAttack's own checks of the model, where it was AutoAttack."""
    x_adv: Tensor | None = None
    """(n, C, H, W), where it was asked for: the image that broke each, else the last tried."""


@dataclass(frozen=True)
class Unfinished:
    """What the first parts of an attack did to a chunk: enough to go on with the next."""

    n_parts: int
    broken_by: Tensor
    """(n,) int8, as in Outcome, on the CPU."""
    after: Tensor
    """(n,) bool: correct under every part so far; of use where the attack is a transfer."""
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
    surrogate: Sequence[nn.Module] = (),
    keep_images: bool = False,
    unfinished: Unfinished | None = None,
    on_part: Callable[[Unfinished], None] | None = None,
    clean: Tensor | None = None,
) -> Outcome:
    """Attack the clean-correct images, in eval mode, and count what the evaluator itself sees.

    Attacks may search on a copy of the network (`Attack.search`); what is counted here is what the
    network does, as it is, in its own dtype.

    x: (n, C, H, W) in [0, 1] on the model's device; y: (n,); index: (n,) dataset indices within
    one chunk, on the CPU. Every adversarial image is projected into the threat, its distance is
    checked, and the prediction is made again before it counts. NaN counts as broken.

    surrogate: the networks that a transfer attack is crafted on; it is run on all images.
    unfinished: where an earlier call was stopped; `on_part` is told after each part but the last.
    clean: (n,) bool, on the CPU: which images are correct without an attack, where it is known.
    """
    work = _Work(
        model, x, y, index, threat, attack, seed, batch_size, surrogate, keep_images, clean
    )
    with attack_mode(work.blocked, "eval"), exact_arithmetic():
        if unfinished is not None:
            work.resume(unfinished)
        for part in range(0 if unfinished is None else unfinished.n_parts, len(work.parts)):
            work.run(part)
            if on_part is not None and part + 1 < len(work.parts):
                on_part(work.so_far(part + 1))
        return work.outcome()


class _Work:
    """One chunk under one attack, while it runs."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        index: Tensor,
        threat: Threat,
        attack: str,
        seed: int,
        batch_size: int,
        surrogate: Sequence[nn.Module],
        keep_images: bool,
        clean: Tensor | None,
    ) -> None:
        number = int(index[0]) // CHUNK
        assert (index // CHUNK == number).all(), "the images of a call are of one chunk"
        self.blocked = Blocked(model, batch_size)
        self.x, self.y, self.threat, self.attack = x, y, threat, attack
        self.rows = (index - number * CHUNK).to(x.device)
        self.seed, self.number = seed, number
        found = get_attack(
            attack, **({"surrogate": _blocked(surrogate, batch_size)} if surrogate else {})
        )
        self.parts = attack_parts(found, attack)
        self.transfers = bool(found.sources)
        self.notes, self.since, self.earlier = dict[str, None](), time.monotonic(), 0.0
        if clean is None:
            with attack_mode(self.blocked, "eval"), exact_arithmetic():
                self.clean, missing = predictions(self.blocked, x, y)
            if missing:
                self._note(f"{missing} clean images have logits that are not finite")
        else:
            self.clean = clean.to(y.device)
        self.broken_by = torch.full((len(y),), -1, dtype=torch.int8, device=y.device)
        self.after = torch.ones_like(self.clean)
        self.x_adv = x.clone() if keep_images else None

    def resume(self, unfinished: Unfinished) -> None:
        """Go on where an earlier call was stopped."""
        self.broken_by = unfinished.broken_by.clone().to(self.y.device)
        self.after = unfinished.after.clone().to(self.y.device)
        self.notes |= dict.fromkeys(unfinished.warnings)
        self.earlier = unfinished.seconds

    def run(self, part: int) -> None:
        """One part, on the images that are left; a transferred image is tried on every image."""
        name, attack = self.parts[part]
        left = (self.clean & (self.broken_by < 0)).nonzero().squeeze(1)
        tried = torch.arange(len(self.y), device=self.y.device) if self.transfers else left
        if len(tried) == 0:
            return
        x, y = self.x[tried], self.y[tried]
        generator = generator_for(self.seed, self.attack, self.number, device=x.device)
        with _collected(self.notes):
            # who judges the images anyhow need not have the attack ask the network about each
            on = searched(self.blocked, attack.search) if attack.refines else self.blocked
            x_adv = attack(on, x, y, self.threat, generator=generator, rows=self.rows[tried])
        if torch.equal(x_adv, x):  # nothing moved, and these images were judged already
            right, projected = self.clean[tried], x.clone()  # written to below
        else:
            right, projected = self._verified(x, y, x_adv, name)
        if on is not self.blocked:
            again = only_copy_fooled(on, projected, y, right)
            if len(again) > 0:
                start = projected[again]
                x_adv = attack.refine(self.blocked, x[again], y[again], self.threat, start)
                right[again], projected[again] = self._verified(x[again], y[again], x_adv, name)
        if self.transfers:
            self.after[tried] &= right
        if self.x_adv is not None:
            # an image that is broken already keeps its breaker; one that is wrong without an
            # attack stays as it is, for a transferred image may well be right
            fresh = (self.broken_by[tried] < 0) & self.clean[tried]
            self.x_adv[tried[fresh]] = projected[fresh]
        broken = tried[~right & self.clean[tried] & (self.broken_by[tried] < 0)]
        self.broken_by[broken] = part

    def _verified(self, x: Tensor, y: Tensor, x_adv: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """(n,) bool: still right on the projected adversarial image; and those images."""
        unusable = ~x_adv.isfinite().flatten(1).all(1)
        if unusable.any():
            self._note(f"{name} returned {int(unusable.sum())} images that are not finite: broken")
        x_adv = torch.where(unusable.view(-1, 1, 1, 1), x, x_adv)
        outside = self.threat.distance(x_adv, x) > self.threat.eps + TOLERANCE
        if outside.any():
            self._note(f"{name} left the ball on {int(outside.sum())} images; they were projected")
        projected = self.threat.project(x_adv, x)
        assert bool((self.threat.distance(projected, x) <= self.threat.eps + TOLERANCE).all())
        right, missing = predictions(self.blocked, projected, y)
        if missing:
            self._note(f"{missing} images under {name} have logits that are not finite: broken")
        return right & ~unusable, projected

    def _note(self, text: str) -> None:
        """For the record, each once."""
        self.notes[text] = None

    def so_far(self, n_parts: int) -> Unfinished:
        """What a later call needs to go on."""
        return Unfinished(
            n_parts=n_parts,
            broken_by=self.broken_by.cpu().clone(),
            after=self.after.cpu().clone(),
            seconds=self._seconds(),
            warnings=tuple(self.notes),
        )

    def outcome(self) -> Outcome:
        """Everything, on the CPU."""
        names = tuple(name for name, _ in self.parts)
        survived = (self.clean & (self.broken_by < 0)).cpu()
        checks: tuple[Check, ...] = ()
        if is_autoattack(self.attack):
            follows = "square" in names[1:]
            square = int((self.broken_by == names.index("square")).sum()) if follows else None
            checks = package_checks(self.blocked, self.x, self.y, square)
        return Outcome(
            clean=self.clean.cpu(),
            survived=survived,
            broken_by=self.broken_by.cpu(),
            parts=names,
            seconds=self._seconds(),
            warnings=tuple(self.notes),
            after=self.after.cpu() if self.transfers else None,
            package_checks=checks,
            x_adv=self.x_adv.cpu() if self.x_adv is not None else None,
        )

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.since


def _blocked(networks: Sequence[nn.Module], batch_size: int) -> tuple[nn.Module, ...]:
    return tuple(Blocked(network, batch_size) for network in networks)


def attack_parts(found: Attack, name: str) -> list[tuple[str, Attack]]:
    """The attack's parts in order: one, but for a cascade or a transfer."""
    return list(found.stages) or [(name, found)]


def predictions(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """(n,) bool whether each prediction is right, and how many rows of logits are not finite.

    A row that is not finite is not right, whatever its arg-max. An image is judged alike, to the
    last bit, whichever others are judged beside it.
    """
    with torch.no_grad():
        logits = model(filled(x, MIN_ROWS))[: len(x)]
    finite = logits.isfinite().all(1)
    return (logits.argmax(1) == y) & finite, int((~finite).sum())


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
