"""The accuracy of each class in words: a table, what is said below it, and a .csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from bench.report.classes import Classes
from bench.report.joins import Cell
from bench.report.layout import Line, Table, Text, title
from bench.report.markdown import bullets, markdown, plain
from bench.report.units import MISSING, percent, span

_HEAD = ("dataset", "arch", "recipe", "norm", "eps", "label", "checkpoint", "class")
_PARTS = ("", "_low", "_high", "_std", "_n", "_n_seeds")
_LEGEND = (
    "Percent of the test images of each class: clean / robust, of best checkpoints, means over "
    "seeds. n: images of the class, in brackets those that the robust figures are of. lowest: each "
    "method's weakest class, the more by chance the fewer images a class has. Intervals: "
    "classes.csv."
)


def class_markdown(parts: Sequence[Classes], note: str) -> str:
    """classes.md: a table for each setting whose images have labels on record."""
    blocks = [note, "# Accuracy of each class", _LEGEND]
    for found in parts:
        if found.rows or found.unlabelled:
            blocks.append(f"## {plain(title(found.setting))}")
            facts = class_facts(found)
            blocks.append(markdown(class_table(found), facts) if found.rows else bullets(facts))
    return "\n\n".join(blocks) + "\n"


def class_link(parts: Sequence[Classes]) -> str:
    """The line of Table 3 that says where the classes are, or why nowhere; may be empty."""
    if any(found.rows for found in parts):
        return "Accuracy of each class: [classes.md](classes.md)."
    if any(found.unlabelled for found in parts):
        return "Accuracy of each class: unknown, since the records hold no labels."
    return ""


def class_table(found: Classes) -> Table:
    """A line a class, a column a method: `clean / robust`."""
    lines = [
        Line(
            head=(Text(main=str(k)), Text(main=_n(found, k))),
            cells=tuple(
                Text(main=_pair(row.clean.get(k), row.robust.get(k))) for row in found.rows
            ),
        )
        for k in found.classes
    ]
    lowest = tuple(Text(main=_pair(_lowest(row.clean), _lowest(row.robust))) for row in found.rows)
    lines.append(Line(head=(Text(main="lowest"), Text(main="")), cells=lowest))
    headings = ("Class", "n (robust)", *(row.label for row in found.rows))
    return Table(headings=headings, lines=tuple(lines), notes=())


def class_facts(found: Classes) -> list[str]:
    """What the robust figures join, and who is left out."""
    usual: dict[tuple[str, ...], list[str]] = {}
    for row in found.rows:
        usual.setdefault(row.attacks, []).append(row.label)
    lines = []
    for attacks, labels in usual.items():
        whose = f" ({', '.join(labels)})" if len(usual) > 1 else ""
        if attacks:
            lines.append(f"Robust: images that survive all of {', '.join(attacks)}{whose}.")
    if found.unlabelled:
        names = ", ".join(found.unlabelled)
        lines.append(f"Left out, since their records hold no labels: {names}.")
    return lines


def class_csv(parts: Sequence[Classes], note: str) -> str:
    """A comment line with `note`, the header, and a line for each method and class; fractions."""
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    columns = [f"{name}{part}" for name in ("clean", "robust") for part in _PARTS]
    rows.writerow([*_HEAD, *columns, "attacks", "run_ids"])
    for found in parts:
        rows.writerows(_csv_rows(found))
    return buffer.getvalue()


def _pair(clean: Cell | None, robust: Cell | None) -> str:
    values = [None if cell is None else cell.value for cell in (clean, robust)]
    return " / ".join(MISSING if value is None else percent(value) for value in values)


def _lowest(cells: Mapping[int, Cell]) -> Cell | None:
    return min(cells.values(), key=lambda cell: cell.value or 0.0, default=None)


def _n(found: Classes, k: int) -> str:
    """Images of a class: `36`, with those of the robust figures behind where they are fewer."""
    clean = [n for row in found.rows if k in row.clean for n in row.clean[k].n]
    robust = [n for row in found.rows if k in row.robust for n in row.robust[k].n]
    counts = span(tuple(clean))
    joint = span(tuple(robust)) if robust else MISSING
    return counts if counts == joint else f"{counts} ({joint})"


def _csv_rows(found: Classes) -> Iterator[list[object]]:
    setting = found.setting
    eps = f"{setting.eps:.9g}" if setting.eps >= 0 else ""
    for row in found.rows:
        for k in sorted(row.clean):
            yield [
                *(setting.dataset, setting.arch, setting.recipe, setting.norm, eps),
                *(row.label, row.checkpoint, k),
                *(*_numbers(row.clean.get(k)), *_numbers(row.robust.get(k))),
                *(" ".join(row.attacks), " ".join(run.run_id for run in row.runs)),
            ]


def _numbers(cell: Cell | None) -> list[str]:
    """The entries of `_PARTS`."""
    if cell is None:
        return [""] * len(_PARTS)
    fractions = (cell.value, cell.low, cell.high, cell.std)
    texts = ["" if fraction is None else f"{fraction:.6f}" for fraction in fractions]
    return [*texts, span(cell.n, "-"), str(len(cell.n))]
