"""What a measure is given, and what it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from bench.measured import Measured
from bench.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a measure looks at: a network in eval mode, and the images of one data set."""

    model: nn.Module
    """Logits, on the images' device."""
    x: Tensor
    """(n, C, H, W) in [0, 1]."""
    y: Tensor
    """(n,)."""
    threat: Threat
    seed: int = 0
    batch_size: int = 256
    """Rows of one call."""


def plain(number: float) -> float | None:
    """A number that JSON can hold; None for NaN and the infinities."""
    return float(number) if math.isfinite(number) else None


__all__ = ["Measured", "Subject", "plain"]
