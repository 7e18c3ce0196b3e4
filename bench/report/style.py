"""Colours, markers and dashes of methods: the same in every figure.

Colours: Okabe and Ito's palette for colour-blind readers, without its yellow (too light on paper)
and with a light grey. Two methods have the same or similar markers only if their colours differ for
every reader and in grey print, and none have the same marker and dash.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from bench.report.formatting import ALARM
from bench.report.published import method_order, published_papers

COLOURS = {
    "black": "#000000",
    "grey": "#b0b0b0",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "green": "#009e73",
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "purple": "#cc79a7",
}
MUTED = "#9a9a9a"
"""Of methods that stand back."""
FEW = 6
"""Labels that a figure shows in colours of their own."""
ALIKE = (
    *({"blue", "vermillion"}, {"vermillion", "green", "purple"}),
    *({"grey", "orange", "sky", "purple"}, {"o", "p", "h"}, {"D", "d"}),
)
"""Colours that grey print or a colour-blind reader may not tell apart; markers of similar shape."""
_MARKERS = ("o", "s", "^", "v", "<", ">", "D", "d", "P", "X", "p", "h", "*")
_OWN_DASH = (0, (5, 1.2, 1, 1.2, 1, 1.2))
"""Of methods without a style in a paper's published.toml: no paper's."""


@dataclass(frozen=True)
class Style:
    """Colour, marker and dash in matplotlib's terms."""

    colour: str
    marker: str
    dash: str | tuple[float, tuple[float, ...]] = "-"
    muted: bool = False
    """Whether it stands back in a figure of many lines."""

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of `Axes.plot`."""
        white = {"markeredgecolor": "white", "markeredgewidth": 0.5}
        line = {"color": self.colour, "marker": self.marker, "linestyle": self.dash, **white}
        return line | ({"linewidth": 0.8, "zorder": 1.5} if self.muted else {})


order = method_order


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """Return a style of its own for each label: a paper's, else one by the hash of its text.

    So a label looks the same in every figure; only labels that would share a marker are set apart.
    """
    papers = {name: style for table in published_papers() for name, style in table.styles.items()}
    known = {m: Style(COLOURS[own[0]], own[1], own[2]) for m, own in papers.items()}
    used = {pair for style in papers.values() for pair in product(*map(_alike, style[:2]))}
    pairs = sorted(product(COLOURS, _MARKERS), key=used.__contains__)
    free = [Style(COLOURS[colour], marker, _OWN_DASH) for colour, marker in pairs]
    n_best = sum(pair not in used for pair in pairs)
    chosen: dict[str, Style] = {}
    for label in sorted(set(labels)):
        name = label.removesuffix(ALARM)
        if name not in known:
            start = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % n_best
            turned = free[start:n_best] + free[:start] + free[n_best:]
            spare = [style for style in turned if style not in chosen.values()]
            own = (style.marker for style in chosen.values() if style.dash == _OWN_DASH)
            markers = set[str]().union(*map(_alike, own))
            known[name] = next((s for s in spare if s.marker not in markers), (spare or free)[0])
        chosen[label] = known[name]
    return chosen


def figure_styles(labels: Iterable[str]) -> dict[str, Style]:
    """Return the styles of one figure: of many labels only the papers' own choice in colour."""
    found = styles(labels)
    chosen = {name for table in published_papers() for name in table.highlight}
    if len(found) <= FEW:
        return found
    return {
        label: style
        if label.removesuffix(ALARM) in chosen
        else replace(style, colour=MUTED, muted=True)
        for label, style in found.items()
    }


def _alike(name: str) -> set[str]:
    """Return a colour or marker with those that resemble it."""
    return {name}.union(*(group for group in ALIKE if name in group))
