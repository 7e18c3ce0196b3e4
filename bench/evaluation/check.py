"""The verdict of one check: a figure, the largest value that raises no alarm, and their source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Check:
    """One quantity that tells whether an evaluation can be believed."""

    name: str
    """Its number and what the figure is: `C8: scaling the logits breaks more: by`."""
    value: float
    threshold: float
    """The largest value that raises no alarm."""
    alarm: bool
    source: str = ""
    """Of the threshold."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON: the other figures and curves behind the verdict."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    """Per-image outcomes, where the check has them."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, without the arrays; None where a figure is not a finite number."""
        found: dict[str, Any] = _plain(
            {
                "name": self.name,
                "value": self.value,
                "threshold": self.threshold,
                "alarm": self.alarm,
                "source": self.source,
                **({"detail": dict(self.detail)} if self.detail else {}),
            }
        )
        return found

    @property
    def number(self) -> str:
        """`C8`."""
        return self.name.split(":")[0]


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
