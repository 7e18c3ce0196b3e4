"""What papers state in their tables, read from bench/papers/*/published.toml. Fractions."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from bench.eps import parse_eps
from bench.errors import ConfigError
from bench.papers import papers


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of the paper's table."""

    arch: str
    """The network of that row."""
    clean: float | None = None
    pgd: float | None = None
    """PGD; with how many steps, the caveat and the notes say."""
    cw: float | None = None
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing with it."""

    @property
    def values(self) -> tuple[float | None, float | None, float | None]:
        """Clean, PGD and C&W accuracy."""
        return self.clean, self.pgd, self.cw


@dataclass(frozen=True, kw_only=True)
class PublishedPaper:
    """The keys of a published.toml; what only the paper's own artefacts read is in `more`."""

    source: str
    dataset: str
    arch: str
    eps: float
    origin: str
    reference: str
    """The method that costs are relative to."""
    own: tuple[str, ...]
    """Registry names of the paper's own methods."""
    order: tuple[str, ...]
    """Methods in the paper's order."""
    cost_claim: str
    caveat: str
    table3: Mapping[str, Published]
    """By registry name."""
    more: Mapping[str, Any] = field(default_factory=dict)

    def differences(self, dataset: str, arch: str, eps: float | None) -> list[str]:
        """Return in which ways a setting of ours is not the paper's; empty if it is the same."""
        parts = []
        if dataset != self.dataset:
            parts.append("another data set")
        if arch != self.arch:
            parts.append("another network")
        if eps is None or abs(eps - self.eps) > 1e-6:
            parts.append("another eps")
        return parts


@cache
def published(paper: str = "cat") -> PublishedPaper:
    """Return what a paper states; raises ConfigError for an unknown paper."""
    folders = {known.name: known.folder for known in papers()}
    if paper not in folders:
        raise ConfigError(f"unknown paper '{paper}'. Known: {', '.join(folders)}")
    table = tomllib.loads((folders[paper] / "published.toml").read_text())
    rows = table.pop("table3")
    return PublishedPaper(
        source=table.pop("source"),
        dataset=table.pop("dataset"),
        arch=table.pop("arch"),
        eps=parse_eps(table.pop("eps")),
        origin=table.pop("origin"),
        reference=table.pop("reference"),
        own=tuple(table.pop("own")),
        order=tuple(table.pop("order")),
        cost_claim=table.pop("cost_claim"),
        caveat=table.pop("caveat"),
        table3={
            method: Published(**{**row, "notes": tuple(row.get("notes", ()))})
            for method, row in rows.items()
        },
        more=table,
    )


# Names of before, for modules that are being rewritten.
_CAT = published()
SOURCE, CAT, REFERENCE, COST_CLAIM = _CAT.source, _CAT.own, _CAT.reference, _CAT.cost_claim
DATASET, ARCH, EPS, CAVEAT = _CAT.dataset, _CAT.arch, _CAT.eps, _CAT.caveat
TABLE_3 = dict(_CAT.table3)
TABLE_1 = tuple((row["eps"], row["test"], row["train"]) for row in _CAT.more["table1"]["rows"])
TABLE_2_NOTES = _CAT.more["table2"]
TABLE_4 = tuple(
    (arch, {"CAT" if name == "cat" else name: value for name, value in row.items()})
    for arch, row in _CAT.more["table4"].items()
    if arch != "note"
)
differences = _CAT.differences
