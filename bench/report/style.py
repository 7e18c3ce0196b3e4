"""Colours, markers and dashes of methods: the same in every figure.

Colours: Okabe and Ito's palette for colour-blind readers, without its yellow (too light on
paper) and with a grey. Marker and dash differ as well, so that a grey print can be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.report.formatting import ALARM
from bench.report.published import method_order, published_papers

BLACK, GREY, ORANGE, SKY = "#000000", "#7f7f7f", "#e69f00", "#56b4e9"
GREEN, BLUE, VERMILLION, PURPLE = "#009e73", "#0072b2", "#d55e00", "#cc79a7"


@dataclass(frozen=True)
class Style:
    """Colour, marker and dash in matplotlib's terms."""

    colour: str
    marker: str
    dash: str = "-"

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of `Axes.plot`."""
        white = {"markeredgecolor": "white", "markeredgewidth": 0.5}
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash, **white}


COLOURS = {
    "black": BLACK,
    "grey": GREY,
    "orange": ORANGE,
    "sky": SKY,
    "green": GREEN,
    "blue": BLUE,
    "vermillion": VERMILLION,
    "purple": PURPLE,
}
_HASHED = [
    Style(colour, marker, "-.")
    for marker in ("o", "s", "^", "v", "<", ">", "D", "d", "P", "X", "p", "h", "*")
    for colour in (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
]
order = method_order


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """Return a style of its own for each label: a paper's, else one by the hash of its text.

    So a label looks the same in every figure; only two labels with the same hash are set apart.
    """
    known = {
        method: Style(COLOURS[colour], marker, dash)
        for table in published_papers()
        for method, (colour, marker, dash) in table.styles.items()
    }
    taken = {(style.colour, style.marker) for style in known.values()}
    free = [style for style in _HASHED if (style.colour, style.marker) not in taken]
    chosen: dict[str, Style] = {}
    for label in sorted(set(labels)):
        name = label.removesuffix(ALARM)
        if name in known:
            chosen[label] = known[name]
            continue
        start = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
        spare = [free[(start + step) % len(free)] for step in range(len(free))]
        chosen[label] = next((s for s in spare if s not in chosen.values()), spare[0])
    return chosen
