"""The interface of an attack."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from bench.threat import Threat

Search = Literal["network", "fp32", "bf16"]
"""What an attack searches on: the network itself, its FastCopy, or its FastCopy in bf16."""

COPIES: tuple[tuple[str, Search, str], ...] = (
    ("", "bf16", "a bf16 copy with folded BatchNorm"),
    ("-fp32", "fp32", "an fp32 copy with folded BatchNorm"),
)
"""Suffix of the names of attacks that search on a copy, which copy, and the same in words."""


class AttackWarning(UserWarning):
    """Something that an attack noticed about the model; the evaluator keeps it in the record."""


class Attack:
    """Base class of attacks: called on a model and images, it returns adversarial images.

    An attack decides nothing about success: the evaluator projects, judges and counts. A subclass
    is a frozen dataclass whose fields are its parameters, which enter records; it writes `__call__`
    and `passes`, and overrides what else differs.
    """

    is_autoattack: ClassVar[bool] = False
    """Whether it runs the AutoAttack package, which has its own checks of the model."""
    min_classes: ClassVar[int] = 2
    """The fewest classes that a model must have."""
    refines: ClassVar[bool] = False
    """Whether `refine` continues on the network with images that only its copy misclassifies.

    The evaluator then calls the attack on the copy, judges the images, and calls `refine`.
    """

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

    def refine(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, start: Tensor
    ) -> Tensor:
        """Return x_adv (n, C, H, W): attack `model` itself from the images `start`."""
        raise NotImplementedError

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
        Noise is drawn for the whole frame, so that it does not depend on the rest of the batch.
        """
        raise NotImplementedError


Stages: TypeAlias = "tuple[tuple[str, Attack], ...]"
Definitions: TypeAlias = "dict[str, tuple[Attack, str]]"
"""Name -> the attack, and a line that says what it does and whose definition it is.

A module of this folder that has a dict `DEFINITIONS` of this type adds its attacks.
"""
