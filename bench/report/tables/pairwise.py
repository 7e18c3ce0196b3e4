"""Every pair of the methods of one setting, compared on the images that the two share.

Of a setting with very many methods only the pairs of the most robust ones: the number of pairs
grows with the square of the methods. `bench compare` makes any one of them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from math import comb

import pandas as pd

from bench.errors import RecordError
from bench.report.columns import number
from bench.report.compare import MethodComparison, corrected, paired
from bench.report.export import Bold, Notes, Table
from bench.report.formatting import MISSING, listed, percent
from bench.report.groups import Setting
from bench.report.rows import MOST, Section, by_robustness
from bench.report.titles import attack_title

_TEST = "McNemar's exact test on the images"
_TEST_OF_SEEDS = "a t test over seeds and images"
_FIXED = "A method of one seed is one network: a training from another seed may differ by more. "


@dataclass(frozen=True, kw_only=True)
class PairMatrix:
    """Every pair of the methods of one setting that were attacked."""

    setting: Setting
    labels: tuple[str, ...]
    """The most robust one first."""
    names: tuple[str, ...]
    """Of the labels, for readers."""
    pairs: Mapping[tuple[str, str], MethodComparison]
    """By the labels in that order, of those that share an attack and an image."""
    n_methods: int
    """Attacked methods; more than the labels where only the most robust are compared."""

    @cached_property
    def usual(self) -> tuple[tuple[str, ...], int]:
        """Attacks and number of images of most pairs."""
        counts = Counter((c.attacks, c.numbers.n) for c in self.pairs.values())
        return max(counts, key=lambda key: (counts[key], len(key[0]), key[1], key[0]))


@lru_cache(maxsize=64)
def pair_matrix(section: Section, most: int = MOST) -> PairMatrix | None:
    """Return each pair of main rows, corrected over all pairs; None without a pair.

    The pairs of the `most` most robust methods count as all pairs in the correction: which ones
    those are is read off the same images.
    """
    place = {label: i for i, label in enumerate(by_robustness(section))}
    attacked = [row for row in section.main_rows if row.labels]
    methods = sorted(attacked, key=lambda row: place[row.group.label])
    shown, found = methods[:most], {}
    for a, b in combinations(shown, 2):
        with suppress(RecordError):
            found[a.group.label, b.group.label] = paired(section.setting, a, b)
    if not found:
        return None
    tested = corrected(list(found.values()), comb(len(methods), 2) - comb(len(shown), 2))
    return PairMatrix(
        setting=section.setting,
        labels=tuple(method.group.label for method in shown),
        names=tuple(method.group.title for method in shown),
        pairs=dict(zip(found, tested, strict=True)),
        n_methods=len(methods),
    )


def worst_case_pairs(section: Section) -> dict[tuple[str, str], MethodComparison]:
    """Return the comparisons of methods with a worst case, under all of its attacks or more.

    By their labels. Others of comparisons.csv are under a weaker adversary.
    """
    matrix = pair_matrix(section)
    scored = {row.group.label for row in section.main_rows if row.worst}
    return {
        pair: comparison
        for pair, comparison in (matrix.pairs.items() if matrix else ())
        if scored.issuperset(pair) and set(section.worst_over) <= set(comparison.attacks)
    }


def leaders(section: Section) -> frozenset[str]:
    """Return the labels of the highest worst case and of those not significantly below it.

    None where no worst cases differ significantly, or the highest one is compared with none.
    """
    pairs, top = worst_case_pairs(section), by_robustness(section)[0]
    own = {b: pair for (a, b), pair in pairs.items() if a == top}
    if not own or not any(pair.significant for pair in pairs.values()):
        return frozenset()
    below = {b for b, pair in own.items() if pair.significant and pair.numbers.difference > 0}
    return frozenset({top, *own} - below)


def pairwise_table(found: PairMatrix) -> Table | None:
    """Return row minus column, in points, above the diagonal; None where nothing is significant.

    Columns have the numbers of the rows, so that many methods fit a page.
    """
    if not any(pair.significant for pair in found.pairs.values()):
        return None
    notes, numbers = Notes(), range(1, len(found.labels))
    lines = [
        [f"{i} {found.names[i - 1]}"]
        + [_cell(found, row, found.labels[j], notes) if i <= j else "" for j in numbers]
        for i, row in enumerate(found.labels, 1)
    ]
    heads = ["Points above number", *(str(number + 1) for number in numbers)]
    return Table(text=pd.DataFrame(lines, columns=heads, dtype=object), notes=tuple(notes.texts))


def _cell(found: PairMatrix, row: str, column: str, notes: Notes) -> str:
    c = found.pairs.get((row, column))
    if c is None:
        return MISSING
    where = (
        f"Under {listed(list(map(attack_title, c.attacks)))}, on"
        if c.attacks != found.usual[0]
        else "On"
    )
    unlike = (c.attacks, c.numbers.n) != found.usual
    marks = notes.mark(f"{where} {c.numbers.n} images.") if unlike else ""
    text = f"{percent(c.numbers.difference)}{marks}"
    return Bold(text) if c.significant else text


def pairwise_legend(found: PairMatrix) -> str:
    """Return what the table's numbers are, on which images, and by which test."""
    (attacks, n), compared, shown = found.usual, list(found.pairs.values()), len(found.labels)
    one = [c.one_seed for c in compared]
    test = _TEST if all(one) else _TEST_OF_SEEDS
    if any(one) and not all(one):
        test = f"{test}, of two networks {_TEST}"
    fixed = any(min(map(len, c.runs)) == 1 for c in compared)
    n_significant = sum(comparison.significant for comparison in compared)
    verdict = f"after Holm's correction: {n_significant} of {compared[0].n_pairs} pairs"
    if len(compared) == 1:
        verdict = f"{n_significant} of 1 pair"
    few = "" if shown == found.n_methods else f"The {shown} most robust of {found.n_methods}. "
    attacked = listed([attack_title(label) for label in attacks])
    if not n_significant:
        return f"{few}No difference is significant at 5% by {test}, {verdict} (n = {n})."
    return (
        f"{few}Points of the lowest accuracy seen, over {attacked}, on the same {n} images; row "
        f"minus column. Bold: significant at 5% by {test}{', ' if len(compared) > 1 else ': '}"
        f"{verdict}. {_FIXED if fixed else ''}comparisons.csv has each pair's interval, p and the "
        "corrected p_holm."
    )


def pairwise_csv(matrices: Sequence[PairMatrix]) -> pd.DataFrame:
    """Return a row per pair; fractions. One that was not compared has only its names."""
    rows = [
        {**found.setting.cells, "first": first, "second": second}
        | (_csv_cells(found.pairs[first, second]) if (first, second) in found.pairs else {})
        for found in matrices
        for first, second in combinations(found.labels, 2)
    ]
    return pd.DataFrame(rows, dtype=object).fillna("")


def _csv_cells(c: MethodComparison) -> dict[str, object]:
    n, runs = c.numbers, [" ".join(run.run_id for run in own) for own in c.runs]
    seeds = [text.replace(",", "") for text in c.seeds]
    return {
        "checkpoints": " ".join(dict.fromkeys(side.checkpoint for side in c.sides)),
        "attacks": " ".join(c.attacks),
        "n": n.n,
        **{name: f"{value:.6f}" for name, value in n.fractions.items()},
        "first_only": n.first_only,
        "second_only": n.second_only,
        "seeds_first": seeds[0],
        "seeds_second": seeds[1],
        "test": "mcnemar" if c.one_seed else "t",
        "p": number(n.p),
        "p_holm": number(c.p_holm),
        "n_pairs": c.n_pairs,
        "significant": int(c.significant),
        "run_ids_first": runs[0],
        "run_ids_second": runs[1],
    }
