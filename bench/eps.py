"""Parse radii as people write them. Without torch."""

import math

from bench.errors import ConfigError

REFERENCE_EPS = 8 / 255
"""The eps at which methods state their lengths, such as step sizes."""


def parse_number(text: str) -> float:
    """Return the value of `8/255`, `0.5 / 255` or `1e-3`: a number or a quotient of two.

    Raises ValueError for anything else, for values that are not finite, and for a divisor of 0.
    """
    above, slash, below = text.partition("/")
    part, whole = float(above), float(below) if slash else 1.0
    number = part / whole if whole else math.nan
    if not all(math.isfinite(value) for value in (part, whole, number)):
        raise ValueError(text)
    return number


def parse_eps(text: str) -> float:
    """Return a radius in pixels of [0, 1], from `8/255`, `0.5/255`, `8 / 255` or `0.03`.

    Raises ConfigError for anything else, and for a radius outside [0, 1].
    """
    try:
        eps = parse_number(text)
    except ValueError:
        raise ConfigError(f"eps '{text}' is not a number; write 8/255 or 0.03") from None
    if eps > 1:
        meant = f"; did you mean {eps:g}/255?" if eps <= 255 else ""
        raise ConfigError(f"eps {text}: pixels are in [0, 1]{meant}")
    if eps < 0:
        raise ConfigError(f"eps {text}: must not be negative")
    return eps + 0.0  # -0 becomes 0, since run ids hash the sign too
