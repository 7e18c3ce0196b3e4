"""The pairs of a setting in words: a matrix of differences, its legend, a .csv of every pair."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from bench.report.latex import latex
from bench.report.layout import Line, Notes, Table, Text, title
from bench.report.matrix import Matrix
from bench.report.units import MISSING, percent
from bench.report.verdict import listed, seeds_text

COMPARISONS = "Which differences are significant:"
_MANY_SEEDS = " (for several seeds its extension, the sign-flip test of each image's sum)"
_HEAD = (
    *("dataset", "arch", "recipe", "norm", "eps", "first", "second", "checkpoints", "attacks", "n"),
    *("robust_first", "robust_second", "difference", "difference_low", "difference_high"),
    *("first_only", "second_only", "seeds_first", "seeds_second", "test"),
    *("p", "p_holm", "n_pairs", "significant", "run_ids_first", "run_ids_second"),
)


def comparison_table(found: Matrix) -> Table:
    """Row minus column, in points; above the diagonal alone, since the rest is its mirror."""
    notes = Notes()
    lines = [
        Line(
            head=(Text(main=row),),
            cells=tuple(
                _cell(found, row, column, notes) if place <= other else Text(main="")
                for other, column in enumerate(found.labels[1:])
            ),
        )
        for place, row in enumerate(found.labels[:-1])
    ]
    headings = ("More robust, in points, than", *found.labels[1:])
    return Table(headings=headings, lines=tuple(lines), notes=tuple(notes.texts))


def comparison_legend(found: Matrix) -> str:
    """What the table's numbers are, on which images, and by which test."""
    attacks, n = found.usual
    compared = found.compared
    many = "" if all(c.one_seed for c in compared) else _MANY_SEEDS
    n_significant = sum(comparison.significant for comparison in compared)
    verdict = f"after Holm's correction over {compared[0].n_pairs} pairs, as {n_significant} are"
    if len(compared) == 1:
        verdict = "as it is" if n_significant else "as it is not"
    shown = len(found.labels)
    few = "" if shown == found.n_methods else f"The {shown} most robust of {found.n_methods}. "
    return (
        f"{few}"
        f"Row minus column: points of robust accuracy, the worst case over {listed(attacks)}, on "
        f"the same {n} images where no note says otherwise; best checkpoints. Bold: significant at "
        f"5% by McNemar's exact test{many}, {verdict}. The images are the sample: a training from "
        f"another seed may differ by more. {MISSING}: no attack or no image in common. Intervals "
        "and p-values: comparisons.csv, or bench compare."
    )


def comparison_latex(found: Matrix) -> str:
    """The matrix with its legend."""
    caption = f"Differences in robust accuracy: {title(found.setting)}."
    label = f"{found.setting.slug}-comparisons"
    return latex(comparison_table(found), caption, label, (comparison_legend(found),))


def comparison_csv(matrices: Sequence[Matrix], note: str) -> str:
    """A comment line with `note`, the header, and a line for each pair; fractions."""
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(_HEAD)
    for found in matrices:
        rows.writerows(_csv_rows(found))
    return buffer.getvalue()


def _cell(found: Matrix, row: str, column: str, notes: Notes) -> Text:
    comparison = found.pairs[row, column]
    if comparison is None:
        return Text(main=MISSING)
    marks: tuple[int, ...] = ()
    attacks, n = found.usual
    if (comparison.attacks, comparison.n) != (attacks, n):
        other = comparison.attacks != attacks
        where = f"Under {listed(comparison.attacks)}, on" if other else "On"
        marks = (notes.mark(f"{where} {comparison.n} images."),)
    return Text(main=percent(comparison.difference), marks=marks, strong=comparison.significant)


def _csv_rows(found: Matrix) -> Iterator[list[object]]:
    setting = found.setting
    eps = f"{setting.eps:.9g}" if setting.eps >= 0 else ""
    place = [setting.dataset, setting.arch, setting.recipe, setting.norm, eps]
    for (first, second), c in found.pairs.items():
        if c is None:
            yield [*place, first, second, *[""] * (len(_HEAD) - len(place) - 2)]
            continue
        sides = (c.first, c.second)
        fractions = (c.first.accuracy, c.second.accuracy, c.difference, c.low, c.high)
        yield [
            *(*place, first, second, " ".join(dict.fromkeys(s.checkpoint for s in sides))),
            *(" ".join(c.attacks), c.n, *(f"{value:.6f}" for value in fractions)),
            *("" if only is None else only for only in (c.first_only, c.second_only)),
            *(seeds_text(side).replace(",", "") for side in sides),
            "mcnemar" if c.one_seed else "sign-flip",
            *(f"{c.p:.6g}", f"{c.p_holm:.6g}", c.n_pairs, int(c.significant)),
            *(" ".join(run.run_id for run in side.runs) for side in sides),
        ]
