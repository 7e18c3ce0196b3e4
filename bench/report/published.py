"""What papers print beside our numbers: read from the published.toml of each paper's folder."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.eps import parse_eps
from bench.errors import ConfigError
from bench.papers import papers

REFERENCE = "madry"
"""The method that costs are relative to: plain adversarial training by PGD."""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """The accuracies that a paper prints for one method; fractions, None where it prints none."""

    arch: str
    """The network of that row."""
    clean: float | None = None
    pgd: float | None = None
    """PGD; with how many steps, `caveat` and the notes say."""
    cw: float | None = None
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing with it."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One paper's published.toml."""

    paper: str
    """Name of the plug-in."""
    source: str
    dataset: str
    arch: str
    eps: float
    origin: str
    """Data set and network, as a heading says them: `CIFAR-10, WRN-34-10`."""
    rows: Mapping[str, PublishedRow]
    """Method -> row, in the paper's order."""
    order: tuple[str, ...]
    """Methods in the order of every table and figure."""
    own: tuple[str, ...] = ()
    """The paper's own methods."""
    caveat: str = ""
    """What to know before comparing with any row."""
    cost_claim: str = ""
    """A sentence on what the own methods cost relative to REFERENCE."""
    leaderboards: str = ""
    """A sentence on the paper's models in public leaderboards."""
    suites: tuple[str, ...] = ()
    """Suites that Table 3 reports."""
    styles: Mapping[str, tuple[str, str, str]]
    """Method -> name of a colour, marker, dash."""

    def differences(self, dataset: str, arch: str, eps: float | None) -> list[str]:
        """Return in which ways a setting is not the paper's; empty where it is the same."""
        pairs = {
            "another data set": dataset != self.dataset,
            "another network": arch != self.arch,
            "another eps": eps is None or abs(eps - self.eps) > 1e-6,
        }
        return [text for text, differs in pairs.items() if differs]


def published_tables() -> tuple[PublishedTable, ...]:
    """Return the published.toml of every paper that has one, by the paper's name."""
    found = [(paper.name, paper.folder / "published.toml") for paper in papers()]
    return tuple(_read(name, path) for name, path in found if path.is_file())


def method_order(method: str) -> tuple[int, str]:
    """Return the sort key of a method: the papers' order first, then by name."""
    names = [name for table in published_tables() for name in table.order]
    return (names.index(method) if method in names else len(names), method)


@cache
def _read(paper: str, path: Path) -> PublishedTable:
    content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    table = content.pop("table3", {})
    content.pop("reference", None)
    order = tuple(content.pop("order", table))
    rows = {name: PublishedRow(**_tuples(row)) for name, row in table.items()}
    try:
        return PublishedTable(
            paper=paper,
            rows={name: rows[name] for name in (*order, *rows) if name in rows},
            order=order,
            eps=parse_eps(str(content.pop("eps"))),
            styles={name: tuple(style) for name, style in content.pop("styles", {}).items()},
            **_tuples(content),
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: missing or unknown key: {error}") from None


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


# What follows is the old form of the CAT paper's values, for modules that are not moved yet.
SOURCE = "arXiv 2002.06789, Table 3"
DATASET = "cifar10"
ARCH = "wrn-34-10"
EPS = 8 / 255
ORIGIN = "CIFAR-10, WRN-34-10, eps 8/255"
CAT = ("cat-ce", "cat-mix")
"""Registry names of the paper's own methods."""
COST_CLAIM = "The CAT paper (arXiv 2002.06789) claims that CAT costs what Madry AT costs."


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of the paper's table."""

    arch: str
    """The network of that row."""
    clean: float | None = None
    pgd: float | None = None
    """PGD; with how many steps, CAVEAT and the notes say."""
    cw: float | None = None
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing with it."""

    @property
    def values(self) -> tuple[float | None, float | None, float | None]:
        """Clean, PGD and C&W accuracy."""
        return self.clean, self.pgd, self.cw


_QUOTED_OTHERWISE = (
    "The README of Friendly Adversarial Training, citing the paper on Dynamic AT, has other "
    "values for this row, {values}: not a target."
)
_RESTARTS = (
    "The paper took the worst of several random restarts, their number unstated; "
    "no version of the authors' released code follows the paper's own rule."
)
_STEPS = "The paper's table does not state the number of PGD steps of this row."

TABLE_3 = {
    "natural": Published(arch="WRN", clean=0.9593, pgd=0.0, cw=0.0),
    "madry": Published(
        arch="WRN",
        clean=0.8730,
        pgd=0.5268,
        cw=0.5073,
        notes=(_QUOTED_OTHERWISE.format(values="87.30 / 45.80 / 46.80"), _STEPS),
    ),
    "dynamic": Published(
        arch="WRN",
        clean=0.8451,
        pgd=0.5503,
        cw=0.5198,
        notes=(_QUOTED_OTHERWISE.format(values="85.03 / 48.70 / 47.27"), _STEPS),
    ),
    "trades": Published(
        arch="WRN",
        clean=0.8422,
        pgd=0.5640,
        cw=0.5198,
        notes=(
            "The paper's C&W value for TRADES equals its value for Dynamic: probably a slip in "
            "copying (the README of Friendly Adversarial Training lists 54.47). The authors of "
            "TRADES report 84.92 clean and 56.61 under PGD-20, at eps 0.031.",
        ),
    ),
    "bilateral": Published(
        arch="WRN-28-10",
        clean=0.9100,
        pgd=0.575,
        cw=0.562,
        notes=(
            "The paper's values for this row are under 20 steps of both attacks with random "
            "restarts, their number unstated.",
        ),
    ),
    "mma": Published(
        arch="WRN-28-4",
        clean=0.8436,
        pgd=0.4718,
        notes=("The paper's table has no C&W value for this row.", _STEPS),
    ),
    "mart": Published(arch="WRN", clean=0.8417, pgd=0.5856, cw=0.5458),
    "iaat": Published(
        arch="modified WRN-32-10",
        clean=0.9134,
        pgd=0.4853,
        cw=0.5680,
        notes=(
            "The paper's values for IAAT are on a modified WRN-32-10 and under PGD-10 with "
            "restarts, not PGD-20. C&W above PGD there points to a weak C&W optimiser.",
        ),
    ),
    "cat-ce": Published(arch=ARCH, clean=0.9348, pgd=0.7338, cw=0.6188, notes=(_RESTARTS,)),
    "cat-mix": Published(arch=ARCH, clean=0.8961, pgd=0.7316, cw=0.7167, notes=(_RESTARTS,)),
}
"""By registry name, in the paper's order."""

TABLE_1 = ((0.01, 0.6979, 0.9996), (0.02, 0.6906, 0.9999), (0.03, 0.6604, 0.9916))
"""Training radius, test and train accuracy under attack at 0.01, of VGG-16. The paper heads these
columns "error"."""
TABLE_2_NOTES = {
    "trades": "The paper's Table 2 has no beta and swaps the arguments of the divergence.",
    "bilateral": "The paper's Table 2 is schematic here: no maximum over labels is solved, neither "
    "by the method's own code nor here.",
    "mart": "The paper's Table 2 has no beta, swaps the arguments of the divergence, and has the "
    "BCE inside the maximum; the attack here maximises cross entropy, as the method's authors do.",
    "mma": "The paper's Table 2 has no weights of the terms, and its maximum is over the ball of "
    "the fixed eps; here an image that is right is trained on at its own margin.",
    "cat-mix": "The paper's Table 2 has no bound on the margin; its equation 6 has, as here.",
}
"""Where its table of losses differs from what is trained here."""
TABLE_4 = (
    ("vgg-16", {"madry": 0.7913, "trades": 0.8353, "CAT": 0.8658}),
    ("wrn-34-10", {"madry": 0.8584, "trades": 0.8390, "CAT": 0.8866}),
)
"""Accuracy under transferred attacks at 0.03; the paper does not say which CAT."""

CAVEAT = (
    "The paper quotes the best values of each method's own paper, so that its rows differ in "
    "network and in attack. It states 20 steps of PGD for TRADES, Bilateral, MART and CAT, 10 for "
    "IAAT, and no number for the others; random restarts for Bilateral, IAAT and CAT; and eps "
    "8/255 for all. It has no AutoAttack column."
)


def differences(dataset: str, arch: str, eps: float | None) -> list[str]:
    """In which ways a setting of ours is not the paper's; empty where it is the same."""
    parts = []
    if dataset != DATASET:
        parts.append("another data set")
    if arch != ARCH:
        parts.append("another network")
    if eps is None or abs(eps - EPS) > 1e-6:
        parts.append("another eps")
    return parts
