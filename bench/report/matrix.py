"""Every pair of the methods of one setting, compared on the images that the two share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from bench.errors import RecordError
from bench.report.aggregate import Section, labels_of
from bench.report.comparison import Comparison, Scored, corrected, paired, scored
from bench.report.groups import Setting


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Every pair of the methods of one setting that were attacked."""

    setting: Setting
    labels: tuple[str, ...]
    """The most robust one first."""
    pairs: Mapping[tuple[str, str], Comparison | None]
    """By the labels in that order; None where the two share no attack or no image."""

    @property
    def compared(self) -> list[Comparison]:
        """The pairs that have a difference."""
        return [comparison for comparison in self.pairs.values() if comparison is not None]

    @property
    def usual(self) -> tuple[tuple[str, ...], int]:
        """Attacks and number of images of most pairs."""
        counts = Counter((c.attacks, c.n) for c in self.compared)
        return max(counts, key=lambda key: (counts[key], len(key[0]), key[1], key[0]))


def matrix(section: Section) -> Matrix | None:
    """Best checkpoints, each pair once, corrected over all pairs; None below two methods."""
    labels = labels_of(section.groups, section.setting)
    everyone = [scored(group, section.setting, labels) for group in section.groups]
    worst = {
        row.group.label: row.worst.value or 0.0
        for row in section.rows
        if row.worst is not None and row.checkpoint != "last"
    }
    methods = sorted(
        (method for method in everyone if method.attacks),
        key=lambda method: -worst.get(method.label, -1.0),
    )
    pairs = {(a.label, b.label): _paired(a, b) for a, b in combinations(methods, 2)}
    found = {names: pair for names, pair in pairs.items() if pair is not None}
    if not found:
        return None
    tested = dict(zip(found, corrected(list(found.values())), strict=True))
    return Matrix(
        setting=section.setting,
        labels=tuple(method.label for method in methods),
        pairs={names: tested.get(names) for names in pairs},
    )


def _paired(first: Scored, second: Scored) -> Comparison | None:
    try:
        return paired(first, second)
    except RecordError:
        return None
