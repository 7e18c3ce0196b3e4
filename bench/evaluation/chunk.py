"""One attack on one chunk of images: the unit of evaluation.

A chunk holds the images whose dataset indices are in [256 c, 256 c + 256). Its outcome depends on
the model, the images, the attack, the seed and c only: not on the block size, the order of the
chunks, the number of processes, or interruptions.

Shapes: n images of the chunk, C H W image, K classes.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.attacks import Attack, AttackWarning, get_attack
from bench.attacks.networks import BatchedModel, fitted
from bench.attacks.pgd import Clean
from bench.evaluation.checks.context import Check
from bench.evaluation.model_checks import package_checks
from bench.evaluation.prediction import predictions, searching
from bench.machine import exact_arithmetic, sent
from bench.records.spec import CHUNK
from bench.seeding import generator_for
from bench.threat import Threat

TOLERANCE = 1e-6
"""Rounding by which a distance may exceed eps, in pixels."""
NOTES = (
    "{name} returned {n} images that are not finite: broken",
    "{name} left the ball on {n} images; they were projected",
    "{n} images under {name} have logits that are not finite: broken",
)
"""What a record says of images whose attack, distance or logits are not as they should be."""


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
    """AutoAttack's own checks of the model, if the attack is AutoAttack."""
    x_adv: Tensor | None = None
    """(n, C, H, W), with `keep_images`: the image that broke each, else the last one tried."""


@dataclass(frozen=True)
class PartialOutcome:
    """What the first parts of an attack did to a chunk: enough to continue with the next."""

    n_parts: int
    broken_by: Tensor
    """(n,) int8, as in Outcome, on the CPU."""
    after: Tensor
    """(n,) bool: correct under every part so far; used by transfer attacks."""
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
    unfinished: PartialOutcome | None = None,
    on_part: Callable[[PartialOutcome], None] | None = None,
    clean: Tensor | None = None,
) -> Outcome:
    """Attack the correct images in eval mode, and count what the evaluator itself sees.

    Attacks may search on a copy of the network (`Attack.search`) and, on CUDA, in TF32 (torch's
    default); counted is the prediction of the network itself, exact in its own dtype. Every
    adversarial image is projected into the threat, its distance checked, and predicted again before
    it counts. NaN counts as broken.

    x: (n, C, H, W) in [0, 1] on the model's device; y: (n,); index: (n,) dataset indices within
    one chunk, on the CPU. batch_size: most rows per call of a network, halved if the memory runs
    out; the outcome does not depend on it. surrogate: the networks that a transfer attack is
    crafted on; it is run on all images. unfinished: where an earlier call stopped; `on_part` is
    called after each part but the last. clean: (n,) bool, on the CPU: correct without an attack, if
    known.
    """
    reached = unfinished

    def note(part: PartialOutcome) -> None:
        nonlocal reached
        reached = None if keep_images else part  # which holds no images
        if on_part is not None:
            on_part(part)

    def attempt(rows: int) -> Outcome:
        networks = tuple(BatchedModel(network, rows) for network in surrogate)
        found = get_attack(attack, **({"surrogate": networks} if networks else {}))
        return _attack_chunk(
            *(BatchedModel(model, rows), x, y, index, threat, attack, found),
            seed=seed,
            keep_images=keep_images,
            unfinished=reached,
            on_part=note,
            clean=clean,
        )

    return fitted(model, batch_size, x.device, attempt)


def _attack_chunk(
    blocked: BatchedModel,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    threat: Threat,
    attack: str,
    found: Attack,
    *,
    seed: int,
    keep_images: bool,
    unfinished: PartialOutcome | None,
    on_part: Callable[[PartialOutcome], None],
    clean: Tensor | None,
) -> Outcome:
    since, number = time.monotonic(), int(index[0]) // CHUNK
    assert (index // CHUNK == number).all(), "the images of a call are of one chunk"
    rows = sent(index - number * CHUNK, x.device)
    parts = list(found.stages) or [(attack, found)]
    names = tuple(name for name, _ in parts)
    with searching(blocked):
        work = _Work(blocked, x, y, rows, threat, clean, unfinished)
        work.transfers = bool(found.sources)
        work.x_adv = x.clone() if keep_images else None
        since -= unfinished.seconds if unfinished else 0.0
        for part in range(unfinished.n_parts if unfinished else 0, len(parts)):
            work.run(part, *parts[part], generator_for(seed, attack, number, device=x.device))
            if part + 1 < len(parts):
                broken_by, after = work.broken_by.clone(), work.after.clone()
                seconds = time.monotonic() - since
                on_part(PartialOutcome(part + 1, broken_by, after, seconds, tuple(work.notes)))
        checks: tuple[Check, ...] = ()
        if found.is_autoattack:
            follows = "square" in names[1:]
            square = int((work.broken_by == names.index("square")).sum()) if follows else None
            with exact_arithmetic():
                checks = package_checks(blocked, x, y, square)
        return Outcome(
            clean=work.clean,
            survived=work.clean & (work.broken_by < 0),
            broken_by=work.broken_by,
            parts=names,
            seconds=time.monotonic() - since,
            warnings=tuple(work.notes),
            after=work.after if found.sources else None,
            package_checks=checks,
            x_adv=work.x_adv.cpu() if work.x_adv is not None else None,
        )


class _Work:
    """The state of one chunk under one attack, while it runs.

    What became of the images is kept on the CPU: each part is read back once, for a GPU is waited
    for at every read. rows: (n,) positions in the frame of 256 that noise is drawn for.
    """

    transfers = False
    x_adv: Tensor | None = None

    def __init__(
        self,
        model: BatchedModel,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        threat: Threat,
        clean: Tensor | None,
        unfinished: PartialOutcome | None,
    ) -> None:
        self.model, self.x, self.y, self.rows, self.threat = model, x, y, rows, threat
        self.notes = dict[str, None]()  # warnings for the record, each once
        if clean is None:
            clean, finite = torch.stack(predictions(model, x, y)).cpu()
            if not finite.all():
                missing = int((~finite).sum())
                self.notes[f"{missing} clean images have logits that are not finite"] = None
        self.clean = clean
        self.broken_by = torch.full((len(y),), -1, dtype=torch.int8)
        self.after = torch.ones_like(clean)
        if unfinished is not None:
            self.broken_by, self.after = unfinished.broken_by.clone(), unfinished.after.clone()
            self.notes |= dict.fromkeys(unfinished.warnings)

    def run(self, part: int, name: str, attack: Attack, generator: torch.Generator) -> None:
        """Run one part on the images that are left; a transfer attack, on every image."""
        left = self.clean & (self.broken_by < 0)
        tried = (left | self.transfers).nonzero().squeeze(1)
        if len(tried) == 0:
            return
        there = sent(tried, self.x.device)
        x, y, rows = (of[there] for of in (self.x, self.y, self.rows))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", AttackWarning)
            x_adv = attack(self.model, x, y, self.threat, generator=generator, rows=rows)
        self.notes |= dict.fromkeys(str(warning.message) for warning in caught)
        if isinstance(attack, Clean):  # these images were judged already
            right, projected = self.clean[tried], x
        else:
            right, projected = self._judged(x, y, x_adv, name)
            right = self.clean[tried] if right is None else right
        if self.transfers:
            self.after[tried] &= right
        if self.x_adv is not None:
            # a broken image keeps its breaker; an image that is wrong without an attack stays
            # unchanged, since a transferred image may be correct
            fresh = sent(left[tried].nonzero().squeeze(1), x.device)
            self.x_adv[there[fresh]] = projected[fresh]
        self.broken_by[tried[~right & left[tried]]] = part

    def _judged(
        self, x: Tensor, y: Tensor, x_adv: Tensor, name: str
    ) -> tuple[Tensor | None, Tensor]:
        """Return (n,) bool, on the CPU, still correct on the projected adversarial image, and those
        images; None if no pixel moved, since these images were judged already.
        """
        usable, moved = x_adv.isfinite().flatten(1).all(1), (x_adv != x).any().expand(len(x))
        x_adv = torch.where(usable.view(-1, 1, 1, 1), x_adv, x)
        inside = self.threat.distance(x_adv, x) <= self.threat.eps + TOLERANCE
        projected = self.threat.project(x_adv, x)
        near = self.threat.distance(projected, x) <= self.threat.eps + TOLERANCE
        right, finite = predictions(self.model, projected, y)
        flags = torch.stack([moved, near, right & usable, usable, inside, finite]).cpu()
        moved, near, right, *fine = flags
        if not moved.all():
            return None, projected
        assert near.all()
        for note, each in zip(NOTES, fine, strict=True):
            if n := len(each) - int(each.sum()):
                self.notes[note.format(name=name, n=n)] = None
        return right, projected
