"""The columns of Table 3. A new column is one entry of COLUMNS.

An entry gives the column's heading and its cells in the tables for readers, and its columns in
table3.csv, which also holds what the tables leave out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pandas as pd

from bench.report.accuracy import AccuracyEstimate, PairedComparison
from bench.report.cost import group_costs
from bench.report.formatting import MISSING, percent, span
from bench.report.published import REFERENCE, PublishedPaper, published_papers
from bench.report.rows import Section, TableRow
from bench.report.titles import AUTOATTACK, CLEAN, CORE, CW, PGD, TITLES, attack_title

WORST, LOWEST = "Worst case", "Lowest seen"
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
    interval: bool = False
    """Whether the tables show an accuracy's interval or deviation; table3.csv has all."""
    narrow: bool = False
    """Whether the table of one column of a page has it."""

    def cell(self, row: TableRow, section: Section) -> str:
        """Return the cell of a table for readers."""
        value = self.value(row, section)
        if value is None:
            return MISSING
        if self.unit == "accuracy":
            return interval_text(value) if self.interval else percent(value.value)
        return f"{value:.2f}" if self.unit == "ratio" else _text(value)

    def csv_cells(self, row: TableRow, section: Section) -> dict[str, str]:
        """Return the cells of table3.csv by the names of their columns."""
        value = self.value(row, section)
        if self.unit == "accuracy":
            return accuracy_cells(self.key, value)
        return {self.key: number(value) if self.unit == "ratio" else _text(value)}


def _accuracy(key: str, title: str, value: Callable[[TableRow], Any], **more: Any) -> Column:
    return Column(key=key, title=title, value=lambda row, _: value(row), unit="accuracy", **more)


def _cost(row: TableRow, section: Section) -> float | None:
    found: float | None = group_costs(section)["passes_relative"].get(row.group.label)
    return None if pd.isna(found) else found


COLUMNS: list[Column] = [
    Column(key="n_runs", value=lambda row, _: len(row.group.runs)),
    Column(key="n_seeds", value=lambda row, _: row.n_seeds),
    _accuracy("clean", TITLES[CLEAN], lambda row: row.clean, narrow=True),
    _accuracy("pgd20", TITLES[PGD], lambda row: row.attacks.get(PGD)),
    _accuracy("cw", TITLES[CW], lambda row: row.attacks.get(CW)),
    _accuracy(
        "autoattack", TITLES[AUTOATTACK], lambda row: row.attacks.get(AUTOATTACK), narrow=True
    ),
    _accuracy("worst_case", WORST, lambda row: row.worst, interval=True, narrow=True),
    _accuracy("lowest_seen", "", lambda row: row.lowest),
    _accuracy("pgd20_minus_autoattack", "", lambda row: row.gap),
    Column(key="worst_case_over", value=lambda row, _: "; ".join(row.worst_over)),
    Column(key="lowest_seen_over", value=lambda row, _: "; ".join(row.lowest_over)),
    Column(key="suspicious", value=lambda row, _: int(row.suspicious)),
    Column(key="masking_checks_made", value=lambda row, _: len(row.masking.made)),
    Column(key="masking_alarms", value=lambda row, _: " ".join(row.masking.codes)),
    Column(key=f"passes_relative_to_{REFERENCE}", title="Cost", value=_cost, unit="ratio"),
]


def paper_columns(section: Section) -> list[Column]:
    """Return the papers' own values, which only table3.csv has next to ours."""
    tables = [table for table in published_papers() if table.table3]
    prefixes = ["paper"] if len(tables) == 1 else [f"paper_{table.paper}" for table in tables]
    return [
        column
        for table, prefix in zip(tables, prefixes, strict=True)
        for column in _paper(table, prefix)
    ]


def _paper(table: PublishedPaper, prefix: str) -> list[Column]:
    def one(name: str) -> Callable[[TableRow, Section], str]:
        found = {method: getattr(row, name) for method, row in table.table3.items()}
        return lambda row, _: (
            "" if row.group.outside else number(found.get(row.group.method), "%.4f")
        )

    def differs(row: TableRow, section: Section) -> str:
        group, setting = row.group, section.setting
        if group.outside or group.method not in table.table3:
            return ""
        place = setting.dataset, setting.arch, setting.eps
        return ", ".join(table.differences(*place, group.method, group.runs[0].spec["recipe"]))

    names = ("clean", "pgd", "cw")
    numbers = [Column(key=f"{prefix}_{name}", value=one(name)) for name in names]
    return [*numbers, Column(key=f"{prefix}_differs", value=differs)]


def attack_columns(section: Section) -> list[Column]:
    """Return the accuracies on every evaluated image: `clean_full`, and the other attacks'."""
    names = {CLEAN: "clean", PGD: "pgd20", CW: "cw", AUTOATTACK: "autoattack"}
    more = full_labels(section)
    columns = {
        label: (f"{name}_full", TITLES[label] if label in more else "")
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
        _accuracy(label, f"{label}, all images", partial(_get, "after", label)) for label in labels
    ]


def full_labels(section: Section) -> tuple[str, ...]:
    """Return what was evaluated on more images than a row of the table is of."""

    def more(name: str, row: TableRow) -> bool:
        own, whole = row.clean if name == CLEAN else row.attacks.get(name), row.whole.get(name)
        return own is not None and whole is not None and own.n != whole.n

    return tuple(name for name in (CLEAN, *CORE) if any(more(name, row) for row in section.rows))


def interval_text(estimate: AccuracyEstimate) -> str:
    """Return `71.1 [66.2, 75.6]`, or `58.0 \u00b1 1.2` over seeds."""
    e, value = estimate, percent(estimate.value)
    if e.std is not None:
        return f"{value} \u00b1 {percent(e.std)}"
    if e.low is None or e.high is None:
        return value
    return f"{value} [{percent(e.low)}, {percent(e.high)}]"


def accuracy_text(
    estimate: AccuracyEstimate | None, n_seeds: int = 1, n: tuple[int, ...] | None = None
) -> str:
    """Return the accuracy with its interval, and a remark on missing images or seeds.

    n: the images that the table names for the row; None where it has no such column.
    """
    if estimate is None:
        return MISSING
    said = ", ".join(remarks(estimate, n_seeds, n))
    return interval_text(estimate) + (f" ({said})" if said else "")


def remarks(
    estimate: AccuracyEstimate, n_seeds: int, n: tuple[int, ...] | None = None
) -> list[str]:
    """Return `256 of 360 images` or `n = 100`, and `2 of 3 seeds`, where they say something."""
    e, found = estimate, []
    short = [(have, of) for have, of in zip(e.n, e.n_expected, strict=True) if have < of]
    if short:
        where = f" in {len(short)} of {len(e.n)} seeds" if len(e.n) > 1 else ""
        found.append(f"{short[0][0]} of {short[0][1]} images{where}")
    elif n is None or set(e.n) != set(n):
        found.append(f"n = {span(e.n)}")
    if len(e.n) < n_seeds:
        found.append(f"{len(e.n)} of {n_seeds} seeds")
    return found


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


def difference_cells(
    key: str, estimate: AccuracyEstimate | PairedComparison | None
) -> dict[str, float | None]:
    """Return the cells of a .csv for a difference of accuracies, as fractions."""
    value = "difference" if isinstance(estimate, PairedComparison) else "value"
    names = {"": value, "_low": "low", "_high": "high"}
    return {f"{key}{end}": getattr(estimate, name, None) for end, name in names.items()}


def percent_or_missing(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None else percent(value, digits)


def _text(value: object) -> str:
    """Return a value's text; text stays what it is, such as `Bold`."""
    if isinstance(value, str):
        return value
    return "" if value is None else str(value)
