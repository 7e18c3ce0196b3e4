"""What a measure receives."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from bench.threat import Threat


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """A network in eval mode, and images of one data set to measure it on."""

    model: nn.Module
    """Returns logits, on the images' device."""
    x: Tensor
    """(n, C, H, W) in [0, 1]."""
    y: Tensor
    """(n,)."""
    threat: Threat
    seed: int = 0
    batch_size: int = 256
    """Rows of one call."""


def finite_or_none(number: float) -> float | None:
    """Return a number that JSON can hold; None for NaN and the infinities."""
    return float(number) if math.isfinite(number) else None
