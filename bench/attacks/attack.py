"""What every attack offers, whatever its name."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from bench.threat import Threat


class Attack(Protocol):
    """Called on a model and images, it returns images; it decides nothing about success."""

    @property
    def passes(self) -> tuple[int, int]:
        """Gradients and plain forwards, about, of an image that nothing breaks."""

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
        """(B, C, H, W) in [0, 1], (B,) -> x_adv (B, C, H, W), detached."""


Stages = tuple[tuple[str, Attack], ...]
"""The attacks that a composed attack runs one after the other, each with its name."""
