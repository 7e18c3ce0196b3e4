"""The interface of an attack, and runs of several attacks on the images that are left.

Shapes: B batch, n remaining images, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from bench.attacks.maximise import ModelMode, Start, attack_mode, start_at, start_noise
from bench.records.spec import CHUNK
from bench.threat import Threat

Search = Literal["network", "fp32", "bf16"]
"""What an attack searches on: the network itself, its inference copy, or that in bf16."""

COPIES: tuple[tuple[str, Search, str], ...] = (
    ("", "bf16", "a bf16 copy with folded BatchNorm"),
    ("-fp32", "fp32", "an fp32 copy with folded BatchNorm"),
)
"""Suffix of the names of attacks that search on a copy, which copy, and the same in words."""


class AttackWarning(UserWarning):
    """Something that an attack noticed about the model; the evaluator keeps it in the record."""


class Noise(NamedTuple):
    """Where the random draws of a call come from."""

    generator: torch.Generator | None = None
    rows: Tensor | None = None
    """(B,) positions of the images in a frame of 256. Noise is drawn for the whole frame, so that
    it does not depend on the rest of the batch; None draws for the images alone."""

    def start(self, kind: Start | Tensor, x: Tensor, threat: Threat) -> Tensor:
        """Return where a run within eps of x begins, (B, C, H, W); images are returned as is."""
        if isinstance(kind, Tensor):
            return kind
        if self.rows is None or kind == "zero":
            noise = start_noise(kind, x, threat, threat.eps, self.generator)
        else:
            frame = x.new_zeros(CHUNK, *x.shape[1:])
            noise = start_noise(kind, frame, threat, threat.eps, self.generator)[self.rows]
        return start_at(kind, x, noise)


class Attack:
    """Base class of attacks: called on a model and images, it returns adversarial images.

    An attack decides nothing about success: the evaluator projects, judges and counts. A subclass
    is a frozen dataclass whose fields are its parameters, which enter records; it writes `craft`
    and `passes`, and overrides what else differs.
    """

    is_autoattack: ClassVar[bool] = False
    """Whether it runs the AutoAttack package, which has its own checks of the model."""
    min_classes: ClassVar[int] = 1
    """The fewest classes that the data must have."""

    @property
    def search(self) -> Search:
        """What gradients and decisions come from when the model is an `Arch`.

        Only the search: the network itself judges every image. Of several stages, the first one's;
        a surrogate is attacked as the attack on it says.
        """
        return "network"

    @property
    def passes(self) -> tuple[int, int]:
        """Approximate gradients and plain forward passes per image that nothing breaks."""
        raise NotImplementedError

    @property
    def stages(self) -> Stages:
        """The attacks that a composed attack runs in order, with their names; else empty."""
        return ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The networks that images are crafted on, by method name; empty for the model itself."""
        return ()

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return x_adv (B, C, H, W), detached and inside the threat.

        x: (B, C, H, W) in [0, 1]. y: (B,). rows: (B,) positions of these images in a frame of 256.
        """
        return self.craft(model, x.detach(), y.detach(), threat, Noise(generator, rows))

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: Noise) -> Tensor:
        raise NotImplementedError


Stages: TypeAlias = "tuple[tuple[str, Attack], ...]"
Definitions: TypeAlias = "dict[str, tuple[Attack, str]]"
"""Name -> the attack, and a line that says what it does and whose definition it is.

A module of this folder that has a dict `DEFINITIONS` of this type adds its attacks.
"""


@cache
def definitions() -> Definitions:
    """Return the attacks on a model itself, by name: PGD's, then those of the other modules."""
    names = sorted(info.name for info in iter_modules([str(Path(__file__).parent)]))
    attacks: Definitions = {}
    for name in ["pgd", *names]:
        if name != "transfer":  # which is built on these
            attacks |= getattr(import_module(f"bench.attacks.{name}"), "DEFINITIONS", {})
    return attacks


def in_turn(
    runs: Iterable[Callable[[Tensor], Tensor]],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    model_mode: ModelMode = "eval",
) -> Tensor:
    """Return each image (B, C, H, W) as left by the first run that broke it, or by the last.

    A run takes (n,) positions in the batch and returns the x_adv of those images, (n, C, H, W).
    """
    x_adv = x.detach().clone()
    left = torch.arange(len(x), device=x.device)
    for number, run in enumerate(runs):
        if number > 0:
            left = left[is_correct(model, x_adv[left], y[left], model_mode)]
        if len(left) == 0:
            break
        x_adv[left] = run(left)
    return x_adv


def is_correct(model: nn.Module, x: Tensor, y: Tensor, model_mode: ModelMode = "eval") -> Tensor:
    """(n,) bool; logits that are not finite are incorrect, like in the evaluation."""
    with attack_mode(model, model_mode), torch.no_grad():
        logits = model(x)
    correct: Tensor = (logits.argmax(1) == y) & logits.isfinite().all(1)
    return correct
