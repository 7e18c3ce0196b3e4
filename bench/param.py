"""Parameters of methods, recipes and checks, declared with their range. Without torch."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from bench.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The values that a parameter may have; `str` puts them into words."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    optional: bool = False
    """Whether None is a value too."""

    def _bounds(self) -> list[tuple[Callable[[float, float], bool], str, float]]:
        bounds = (
            (operator.ge, "at least", self.ge),
            (operator.gt, "above", self.gt),
            (operator.le, "at most", self.le),
            (operator.lt, "below", self.lt),
        )
        return [(holds, word, bound) for holds, word, bound in bounds if bound is not None]

    def __contains__(self, value: float | tuple[float, ...] | None) -> bool:
        """Whether the value, or every value of several, is in the range."""
        if value is None:
            return self.optional
        values = value if isinstance(value, tuple) else (value,)
        return all(holds(one, bound) for one in values for holds, _, bound in self._bounds())

    def __str__(self) -> str:
        if self.ge is not None and self.le is not None:
            return f"{self.ge:g} to {self.le:g}"
        text = " and ".join(f"{word} {bound:g}" for _, word, bound in self._bounds())
        return f"{text}, or none" if self.optional else text


def param(default: T, **bounds: float) -> T:
    """Declare a parameter and its range, as in `beta: float = param(6.0, ge=0)`.

    bounds: ge, gt, le, lt; the value is at least, above, at most, below this. A default of None
    allows None as well.
    """
    allowed = Range(**bounds, optional=default is None)
    declared: T = field(default=default, metadata={"range": allowed})
    return declared


def check_ranges(made: Any) -> None:
    """Raise ConfigError for the first field of a dataclass that is outside its range."""
    for one in fields(made):
        allowed, value = one.metadata.get("range"), getattr(made, one.name)
        if allowed is not None and value not in allowed:
            raise ConfigError(f"{one.name} = {value} is out of range: {allowed}")
