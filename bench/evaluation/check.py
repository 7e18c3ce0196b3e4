"""The verdict of one check: a figure, the largest value that raises no alarm, and their source."""

from __future__ import annotations

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
        """Plain JSON, without the arrays."""
        return {
            "name": self.name,
            "value": self.value if self.value == self.value else None,
            "threshold": self.threshold,
            "alarm": self.alarm,
            "source": self.source,
            **({"detail": dict(self.detail)} if self.detail else {}),
        }

    @property
    def number(self) -> str:
        """`C8`."""
        return self.name.split(":")[0]
