"""The columns of Table 3. A new column is one entry of COLUMNS.

An entry gives the column's heading, its cells in table3.md and table3.tex, its columns in
table3.csv, and whether README's short table has it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pandas as pd

from bench.report.accuracy import AccuracyEstimate
from bench.report.cost import group_costs
from bench.report.export import Bold
from bench.report.formatting import MINUS, MISSING, percent, span
from bench.report.groups import Group
from bench.report.published import REFERENCE, PublishedPaper, published_papers
from bench.report.rows import MASKING_GAP, Section, TableRow, status
from bench.report.titles import AUTOATTACK, CLEAN, CORE, CW, PGD, TITLES, attack_title

ROBUST, LOWEST, MASKED = "Robust (worst case)", "Lowest seen", "Masking checks"
COST = f"Cost (passes, relative to {REFERENCE})"
FULL = "(full n)"
MASKING_NOTE = (
    f"PGD-20 is more than {percent(MASKING_GAP, 0)} points above AutoAttack on the same images. "
    "AutoAttack's README lists 1 to 6 points for most adversarially trained models, and 24 to 32 "
    "for models whose gradients mislead attacks. Read AutoAttack and the worst case of this row, "
    "not its PGD-20."
)
ACCURACY_PARTS = ("", "_low", "_high", "_std", "_n", "_n_expected", "_n_seeds")
"""Ends of the columns that a .csv has for each accuracy."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of Table 3."""

    key: str
    """Name in table3.csv; an accuracy has one column there for each of ACCURACY_PARTS."""
    title: str = ""
    """Heading; empty for a column that only table3.csv has."""
    value: Callable[[TableRow, Section], Any]
    """From a row and its table; None where it is not on record."""
    unit: Literal["accuracy", "ratio", "text"] = "text"
    """accuracy: an AccuracyEstimate. ratio: a float. text: anything that str() shows."""
    notes: Callable[[TableRow, Section], Sequence[str]] = lambda _row, _section: ()
    """Footnotes of the cell."""
    once: bool = False
    """Whether only a method's first row has it, since it is not about the checkpoint."""
    brief: bool = False
    """Whether README's table has it."""
    csv: bool = True
    """Whether table3.csv has it."""

    def cell(self, row: TableRow, section: Section) -> str:
        """Return the cell of a table for readers, without its notes."""
        value = self.value(row, section)
        if self.unit == "accuracy":
            return accuracy_text(value, row.n_seeds, (len(row.index),))
        if value is None:
            return MISSING
        return f"{value:.2f}" if self.unit == "ratio" else _text(value)

    def csv_cells(self, row: TableRow, section: Section) -> dict[str, str]:
        """Return the cells of table3.csv by the names of their columns."""
        value = self.value(row, section)
        if self.unit == "accuracy":
            return accuracy_cells(self.key, value)
        return {self.key: number(value) if self.unit == "ratio" else _text(value)}


def _accuracy(key: str, title: str, value: Callable[[TableRow], Any], **more: Any) -> Column:
    return Column(key=key, title=title, value=lambda row, _: value(row), unit="accuracy", **more)


def _lowest_notes(row: TableRow, section: Section) -> list[str]:
    if row.lowest is None or row.lowest_over == section.usual_lowest:
        return []
    return [f"{LOWEST}: over {counted_attacks(row.lowest_over)}."]


def _gap_notes(row: TableRow, _: Section) -> list[str]:
    return [MASKING_NOTE] if row.suspicious else []


def _cost(row: TableRow, section: Section) -> float | None:
    found: float | None = group_costs(section)["passes_relative"].get(row.group.label)
    return None if pd.isna(found) else found


def _seeds(row: TableRow, _: Section) -> str | None:
    total = len(row.group.runs)
    text = str(row.n_seeds) if row.n_seeds == total else f"{row.n_seeds} of {total}"
    return None if row.group.outside else text


def _masking(row: TableRow, _: Section) -> str | None:
    """Return `14 passed`, `14 made, watch C7`, or alarms in bold: `C8, C14 of 14`."""
    found = row.masking
    if not found.made:
        return None
    if found.codes:
        return Bold(f"{', '.join(found.codes)} of {len(found.made)}")
    return found.quiet


COLUMNS: list[Column] = [
    Column(key="n_runs", value=lambda row, _: len(row.group.runs)),
    Column(key="n_seeds", value=lambda row, _: row.n_seeds),
    _accuracy("clean", TITLES[CLEAN], lambda row: row.clean, brief=True),
    _accuracy("pgd20", TITLES[PGD], lambda row: row.attacks.get(PGD), brief=True, notes=_gap_notes),
    _accuracy("cw", TITLES[CW], lambda row: row.attacks.get(CW), brief=True),
    _accuracy(
        "autoattack", TITLES[AUTOATTACK], lambda row: row.attacks.get(AUTOATTACK), brief=True
    ),
    _accuracy("worst_case", ROBUST, lambda row: row.worst, brief=True),
    _accuracy("lowest_seen", LOWEST, lambda row: row.lowest, brief=True, notes=_lowest_notes),
    _accuracy(
        "pgd20_minus_autoattack",
        f"PGD-20 {MINUS} AutoAttack",
        lambda row: row.gap,
        notes=_gap_notes,
    ),
    Column(key="masking", title=MASKED, value=_masking, brief=True, csv=False),
    Column(key="worst_case_over", value=lambda row, _: "; ".join(row.worst_over)),
    Column(key="lowest_seen_over", value=lambda row, _: "; ".join(row.lowest_over)),
    Column(key="suspicious", value=lambda row, _: int(row.suspicious)),
    Column(key="masking_checks_made", value=lambda row, _: len(row.masking.made)),
    Column(key="masking_alarms", value=lambda row, _: " ".join(row.masking.codes)),
    Column(
        key="n",
        title="n",
        value=lambda row, _: len(row.index) if row.clean else None,
        brief=True,
        csv=False,
    ),
    Column(key="seeds", title="Seeds", value=_seeds, brief=True, csv=False),
    Column(
        key=f"passes_relative_to_{REFERENCE}",
        title=COST,
        value=_cost,
        unit="ratio",
        once=True,
        brief=True,
    ),
]


def paper_columns(section: Section) -> list[Column]:
    """Return the columns of the papers' own values, for one table of ours."""
    tables = [table for table in published_papers() if table.table3]
    prefixes = ["paper"] if len(tables) == 1 else [f"paper_{table.paper}" for table in tables]
    return [
        column
        for table, prefix in zip(tables, prefixes, strict=True)
        for column in _paper(table, prefix, section)
    ]


def _paper(table: PublishedPaper, prefix: str, section: Section) -> list[Column]:
    setting = section.setting
    differences = {
        group.label: table.differences(
            *(setting.dataset, setting.arch, setting.eps),
            *(group.method, group.runs[0].spec["recipe"]),
        )
        for group in section.groups
        if not group.outside and group.method in table.table3
    }
    unlike = list(dict.fromkeys(what for found in differences.values() for what in found))
    where = table.origin + (f": another {', '.join(unlike)}, not comparable" if unlike else "")

    def values(row: TableRow) -> tuple[float | None, ...]:
        found = None if row.group.outside else table.table3.get(row.group.method)
        return found.values if found else ()

    def one(i: int) -> Callable[[TableRow, Section], str]:
        return lambda row, _: number((values(row) or [None] * 3)[i], "%.4f")

    shown = Column(
        key=prefix,
        title=f"Paper: clean / PGD-20 / C&W ({where})",
        value=lambda row, _: " / ".join(percent_or_missing(v, 2) for v in values(row)),
        notes=lambda row, _: table.table3[row.group.method].notes if values(row) else (),
        once=True,
        csv=False,
    )
    names = enumerate(("clean", "pgd", "cw"))
    numbers = [Column(key=f"{prefix}_{name}", value=one(i)) for i, name in names]
    differs = Column(
        key=f"{prefix}_differs",
        value=lambda row, _: ", ".join(differences.get(row.group.label, ())),
    )
    return [shown, *numbers, differs]


def attack_columns(section: Section) -> list[Column]:
    """Return the accuracies on every evaluated image: `clean_full`, and the other attacks'."""
    names = {CLEAN: "clean", PGD: "pgd20", CW: "cw", AUTOATTACK: "autoattack"}
    more = full_labels(section)
    columns = {
        label: (f"{name}_full", f"{TITLES[label]} {FULL}" if label in more else "")
        for label, name in names.items()
    } | {label: (label, attack_title(label)) for label in section.attacks}
    return [
        _accuracy(key, title, partial(_get, "whole", label))
        for label, (key, title) in columns.items()
    ]


def _get(name: str, label: str, row: TableRow) -> Any:
    return getattr(row, name).get(label)


def transferred_columns(section: Section) -> list[Column]:
    """Return the accuracies under transferred attacks that count all images."""
    labels = sorted({label for row in section.rows for label in row.after})
    return [
        _accuracy(label, f"{label} (all images)", partial(_get, "after", label)) for label in labels
    ]


def full_labels(section: Section) -> tuple[str, ...]:
    """Return what was evaluated on more images than a row of the table is of."""

    def more(name: str, row: TableRow) -> bool:
        own, whole = row.clean if name == CLEAN else row.attacks.get(name), row.whole.get(name)
        return own is not None and whole is not None and own.n != whole.n

    return tuple(name for name in (CLEAN, *CORE) if any(more(name, row) for row in section.rows))


def accuracy_text(
    estimate: AccuracyEstimate | None, n_seeds: int = 1, n: tuple[int, ...] | None = None
) -> str:
    """Return `71.1 [66.2, 75.6]`, or `58.0 ± 1.2`, with a remark on missing images or seeds.

    n: the images that the table names for the row; None where it has no such column.
    """
    if estimate is None:
        return MISSING
    e, parts, remarks = estimate, [percent(estimate.value)], []
    if e.std is not None:
        parts.append(f"\u00b1 {percent(e.std)}")
    elif e.low is not None and e.high is not None:
        parts.append(f"[{percent(e.low)}, {percent(e.high)}]")
    short = [(have, of) for have, of in zip(e.n, e.n_expected, strict=True) if have < of]
    if short:
        where = f" in {len(short)} of {len(e.n)} seeds" if len(e.n) > 1 else ""
        remarks.append(f"{short[0][0]} of {short[0][1]} images{where}")
    elif n is None or set(e.n) != set(n):
        remarks.append(f"n = {span(e.n)}")
    if len(e.n) < n_seeds:
        remarks.append(f"{len(e.n)} of {n_seeds} seeds")
    return " ".join([*parts, *([f"({', '.join(remarks)})"] if remarks else [])])


def accuracy_cells(
    key: str, estimate: AccuracyEstimate | None, parts: Sequence[str] = ACCURACY_PARTS
) -> dict[str, str]:
    """Return the columns of an accuracy in a .csv; fractions, n over several seeds as a range."""
    if estimate is None:
        return {f"{key}{part}": "" for part in parts}
    e = estimate
    fractions = [number(value, "%.6f") for value in (e.value, e.low, e.high, e.std)]
    values = [*fractions, span(e.n, "-"), span(e.n_expected, "-"), str(len(e.n))]
    found = dict(zip(ACCURACY_PARTS, values, strict=True))
    return {f"{key}{part}": found[part] for part in parts}


def number(value: float | None, form: str = "%.6g") -> str:
    """Return a number of a .csv; empty for None."""
    return "" if value is None else form % value


def estimate_cells(estimate: AccuracyEstimate) -> dict[str, Any]:
    """Return the cells of a .csv for an accuracy, as fractions; over seeds the smallest n."""
    return {
        "accuracy": estimate.value,
        **{name: getattr(estimate, name) for name in ("low", "high", "std")},
        "n": min(estimate.n),
        "n_seeds": len(estimate.n),
    }


def percent_or_missing(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None else percent(value, digits)


def states(group: Group) -> list[str]:
    """Return what kept each run from its end, where something did; of several with their seeds."""
    several = len(group.runs) > 1
    found = ((run.seed, status(run)) for run in group.runs)
    return [f"seed {seed}: {text}" if several else text for seed, text in found if text]


def counted_attacks(labels: Sequence[str]) -> str:
    """Return `2 attacks (pgd-20, cw)`."""
    return f"{len(labels)} attack{'s' * (len(labels) != 1)} ({', '.join(labels)})"


def _text(value: object) -> str:
    """Return a value's text; text stays what it is, such as `Bold`."""
    if isinstance(value, str):
        return value
    return "" if value is None else str(value)
