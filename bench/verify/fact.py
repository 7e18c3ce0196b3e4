"""What is pinned of a method or an attack, and what moved, in words."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from bench.verify.arithmetic import FLOAT64, Tolerance

MOST_NAMED = 3
"""Settings that a line names."""


@dataclass(frozen=True, kw_only=True)
class Fact(ABC):
    """The outcome of a short run."""

    kind: ClassVar[str]
    """What it is a fact of: method or attack."""
    asked: Mapping[str, Any]
    """Every setting of the run, as plain JSON values."""

    @property
    @abstractmethod
    def numbers(self) -> Sequence[float]:
        """All that is compared as a number."""

    @abstractmethod
    def moved(self, was: Self, *, elsewhere: bool) -> str:
        """What is not as it was; empty if all is.

        elsewhere: whether `was` was found with other software or on another processor.
        """


def settings_moved(now: Mapping[str, Any], was: Mapping[str, Any]) -> list[str]:
    """Of what was asked for: `beta is 5.0 and was 6.0`, each value by its own name."""
    new, old = _flat(now), _flat(was)
    moved = [
        f"{key} is {new.get(key, 'gone')} and was {old.get(key, 'not there')}"
        for key in {**new, **old}
        if key not in new or key not in old or new[key] != old[key]
    ]
    more = len(moved) - MOST_NAMED
    return moved[:MOST_NAMED] + ([f"{more} more settings"] if more > 0 else [])


def first_moved(
    what: str, now: Sequence[float], was: Sequence[float], tolerance: Tolerance = FLOAT64
) -> list[str]:
    """The first of the numbers that is not what it was; nothing where all are."""
    if len(now) != len(was):
        return [f"there are {len(now)} of {what} and were {len(was)}"]
    pairs = enumerate(zip(now, was, strict=True))
    return [
        f"{what} {place} is {new:.12g} and was {old:.12g}"
        for place, (new, old) in pairs
        if not math.isclose(new, old, rel_tol=tolerance.relative, abs_tol=tolerance.absolute)
    ][:1]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings as one level: `recipe.lr`, `parts.0.part`."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {name: value}
    return {
        key: leaf
        for inner, below in items
        for key, leaf in _flat(below, f"{name}.{inner}" if name else str(inner)).items()
    }
