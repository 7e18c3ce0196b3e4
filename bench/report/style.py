"""How a method is ordered and drawn: the same in every table and every figure.

Colours: Okabe and Ito's palette for colour-blind readers, without its yellow (too light on
paper) and with a grey. Marker and dash differ as well, so that a grey print can be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from bench.report.published import TABLE_3
from bench.report.units import ALARM

BLACK, GREY, ORANGE, SKY = "#000000", "#7f7f7f", "#e69f00", "#56b4e9"
GREEN, BLUE, VERMILLION, PURPLE = "#009e73", "#0072b2", "#d55e00", "#cc79a7"


@dataclass(frozen=True)
class Style:
    """Colour, marker and dash in matplotlib's terms."""

    colour: str
    marker: str
    dash: str = "-"


KNOWN = {
    "natural": Style(GREY, "o"),
    "madry": Style(BLACK, "s"),
    "mma": Style(SKY, "v"),
    "dynamic": Style(SKY, "D", "--"),
    "trades": Style(BLUE, "^"),
    "bilateral": Style(PURPLE, "P"),
    "mart": Style(GREEN, "X"),
    "iaat": Style(GREEN, "<", "--"),
    "cat-ce": Style(VERMILLION, "o"),
    "cat-mix": Style(ORANGE, "p"),
    "natural-ls": Style(GREY, "h", "--"),
    "adv-ls": Style(PURPLE, "H", "--"),
    "adp-adv": Style(VERMILLION, "d", "--"),
    "free": Style(ORANGE, ">", "--"),
    "fast": Style(PURPLE, "v", "-."),
    "yopo": Style(GREEN, "D", "-."),
    "awp-madry": Style(BLACK, "*", "--"),
    "awp-trades": Style(BLUE, "*", "--"),
}
_SPARE = [
    Style(colour, marker, "-.")
    for marker in ("o", "s", "^", "v", "<", ">", "D", "d", "P", "X", "p", "h", "*")
    for colour in (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
    if all((colour, marker) != (known.colour, known.marker) for known in KNOWN.values())
]


def order(method: str) -> tuple[int, str]:
    """Sort key: the paper's methods in the paper's order, then the others by name."""
    names = list(TABLE_3)
    return (names.index(method) if method in names else len(names), method)


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A style of its own for each label.

    An unknown label's style comes from a hash of its text, so it is the same in every figure,
    whatever else is drawn; only two labels that fall on one style are set apart.
    """
    chosen: dict[str, Style] = {}
    for label in sorted(set(labels)):
        name = label.removesuffix(ALARM)
        if name in KNOWN:
            chosen[label] = KNOWN[name]
            continue
        start = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
        spare = [_SPARE[(start + step) % len(_SPARE)] for step in range(len(_SPARE))]
        chosen[label] = next((s for s in spare if s not in chosen.values()), spare[0])
    return chosen
