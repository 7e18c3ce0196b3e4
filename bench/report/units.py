"""How a number is written for a reader. Inside the code a fraction stays a fraction."""

from __future__ import annotations

ALARM = " \u2020"
"""Ends the label of a model on which a masking check raises an alarm."""
MISSING = "\u2013"
MINUS = "\u2212"


def percent(fraction: float, digits: int = 1) -> str:
    """0.5234 as `52.3`; a negative one with a minus sign, and never `-0.0`."""
    text = f"{100 * fraction:.{digits}f}"
    if float(text) == 0:
        return text.removeprefix("-")
    return text.replace("-", MINUS)


def eps_text(eps: float) -> str:
    """A radius as `8/255` where it is a whole number of grey levels, else as `0.1`."""
    levels = eps * 255
    if eps > 0 and abs(levels - round(levels)) < 1e-4:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def eps_both(eps: float) -> str:
    """`8/255 (0.0314)`, or `0.1` alone."""
    text = eps_text(eps)
    return f"{text} ({eps:.3g})" if "/" in text else text


def span(numbers: tuple[int, ...], dash: str = MISSING) -> str:
    """`360`, or the smallest and the largest with a dash between where the seeds differ."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}{dash}{high}"
