"""Numbers as text. Inside the code a fraction stays a fraction; percent is made here."""

from collections.abc import Sequence

ALARM = " \u2020"
"""Ends the label of a model on which a masking check raises an alarm."""
MISSING = "\u2013"
MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans(
    "0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


def percent(fraction: float, digits: int = 1) -> str:
    """Return 0.5234 as `52.3`; negative numbers get a minus sign, and `-0.0` never appears."""
    text = f"{100 * fraction:.{digits}f}"
    if float(text) == 0:
        return text.removeprefix("-")
    return text.replace("-", MINUS)


def eps_text(eps: float) -> str:
    """Return a radius as `8/255` where it is a whole number of grey levels, else as `0.1`."""
    levels = eps * 255
    if eps > 0 and abs(levels - round(levels)) < 1e-4:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def eps_both(eps: float) -> str:
    """Return `8/255 (0.0314)`, or only `0.1`."""
    text = eps_text(eps)
    return f"{text} ({eps:.3g})" if "/" in text else text


def span(numbers: Sequence[int], dash: str = MISSING) -> str:
    """Return `360`, or the smallest and the largest number with a dash between them."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}{dash}{high}"


def superscript(numbers: Sequence[int]) -> str:
    """Return the numbers of footnotes as raised digits: `\u00b9 \u00b2`."""
    return " ".join(str(number).translate(_SUPERSCRIPTS) for number in numbers)


def counted(n: int, noun: str) -> str:
    """Return `1 run` or `2 runs`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(names: Sequence[str]) -> str:
    """Return `pgd-20, cw and autoattack`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
