"""What every attack offers, whatever its name."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from bench.threat import Threat

Search = Literal["network", "fp32", "bf16"]
"""What images are looked for on: the network itself, its FastCopy, or its FastCopy in bf16."""


class AttackWarning(UserWarning):
    """Something that an attack noticed about the model; the evaluator keeps it in the record."""


class Attack(Protocol):
    """Called on a model and images, it returns images; it decides nothing about success."""

    @property
    def search(self) -> Search:
        """What it takes its gradients and decisions from, where it is given an `Arch`.

        Only the search: the evaluator asks the network itself whether an image is broken. Of an
        attack of several parts, the first one's.
        """

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
