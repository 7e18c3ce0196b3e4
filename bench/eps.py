"""The radius of an attack as people write it. Without torch."""

from __future__ import annotations

from fractions import Fraction

from bench.errors import ConfigError

REFERENCE_EPS = 8 / 255
"""The eps at which every length among a method's parameters is stated."""


def parse_eps(text: str) -> float:
    """`8/255` or `0.03` as pixels of [0, 1]; raises ConfigError for anything else."""
    try:
        eps = float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"eps '{text}' is not a number; write 8/255 or 0.03") from None
    if eps > 1:
        raise ConfigError(f"eps {text}: pixels are in [0, 1]; did you mean {text}/255?")
    if eps < 0:
        raise ConfigError(f"eps {text}: must not be negative")
    return eps


def show_eps(eps: float) -> str:
    """`8/255` where it is one, else a short decimal."""
    levels = eps * 255
    if eps and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"
