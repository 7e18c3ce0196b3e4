"""The result of a check: one or more indicators, each with its alarm threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Check:
    """One quantity that tells whether an evaluation can be trusted."""

    name: str
    """Its number and its worst indicator: `C8: scaling the logits breaks more: by`."""
    value: float
    threshold: float
    """The largest value that raises no alarm."""
    alarm: bool
    source: str = ""
    """Where the threshold comes from."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON: all indicators, and the curves behind them."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    """Per-image outcomes, where the check has them."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON without the arrays; numbers that are not finite become None."""
        names = ("name", "value", "threshold", "alarm", "source", "detail")
        content = {name: getattr(self, name) for name in names}
        if not self.detail:
            del content["detail"]
        return {name: _finite(value) for name, value in content.items()}

    @property
    def number(self) -> str:
        """`C8`."""
        return self.name.split(":")[0]


@dataclass(frozen=True)
class Indicator:
    """A number that a check computes, with the largest value that raises no alarm."""

    what: str
    value: float
    threshold: float

    @property
    def excess(self) -> float:
        """Distance above the threshold; infinite for NaN."""
        excess = self.value - self.threshold
        return excess if excess == excess else float("inf")

    @property
    def alarm(self) -> bool:
        """Whether it exceeds the threshold by more than rounding of a difference of shares."""
        return self.excess > 1e-9


def verdict(
    number: str, indicators: Sequence[Indicator], source: str, detail: Mapping[str, Any]
) -> Check:
    """Return the check of these indicators: named after the worst, all of them in its detail."""
    worst = max(indicators, key=lambda indicator: indicator.excess)
    listed = [asdict(indicator) | {"alarm": indicator.alarm} for indicator in indicators]
    return Check(
        name=f"{number}: {worst.what}",
        value=worst.value,
        threshold=worst.threshold,
        alarm=worst.alarm,
        source=source,
        detail={"figures": listed, **detail},
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
