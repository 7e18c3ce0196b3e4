"""Every pair of the methods of one setting, compared on the images that the two share.

Of a setting with very many methods the pairs of the most robust ones: the others' number grows with
the square of the methods', and nobody reads them. `bench compare` makes any one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb

from bench.errors import RecordError
from bench.report.aggregate import MOST, Section, by_robustness, labels_of
from bench.report.comparison import Comparison, corrected, paired
from bench.report.groups import Setting
from bench.report.scored import Scored, scored


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Every pair of the methods of one setting that were attacked."""

    setting: Setting
    labels: tuple[str, ...]
    """The most robust one first."""
    pairs: Mapping[tuple[str, str], Comparison | None]
    """By the labels in that order; None where the two share no attack or no image."""
    n_methods: int
    """That were attacked; more than the labels where only the most robust are compared."""

    @cached_property
    def compared(self) -> list[Comparison]:
        """The pairs that have a difference."""
        return [comparison for comparison in self.pairs.values() if comparison is not None]

    @cached_property
    def usual(self) -> tuple[tuple[str, ...], int]:
        """Attacks and number of images of most pairs."""
        counts = Counter((c.attacks, c.n) for c in self.compared)
        return max(counts, key=lambda key: (counts[key], len(key[0]), key[1], key[0]))


def matrix(section: Section) -> Matrix | None:
    """Best checkpoints, each pair once, corrected over all pairs; None below two methods.

    The pairs of the MOST most robust alone count as all pairs in the correction: which ones those
    are is read off the same images.
    """
    labels = labels_of(section.groups, section.setting)
    everyone = [scored(group, section.setting, labels) for group in section.groups]
    place = {label: number for number, label in enumerate(by_robustness(section))}
    attacked = (method for method in everyone if method.attacks)
    methods = sorted(attacked, key=lambda method: place[method.label])
    shown = methods[:MOST]
    pairs = {(a.label, b.label): _paired(a, b) for a, b in combinations(shown, 2)}
    found = {names: pair for names, pair in pairs.items() if pair is not None}
    if not found:
        return None
    left_out = comb(len(methods), 2) - comb(len(shown), 2)
    tested = dict(zip(found, corrected(list(found.values()), left_out), strict=True))
    return Matrix(
        setting=section.setting,
        labels=tuple(method.label for method in shown),
        pairs={names: tested.get(names) for names in pairs},
        n_methods=len(methods),
    )


def _paired(first: Scored, second: Scored) -> Comparison | None:
    try:
        return paired(first, second)
    except RecordError:
        return None
