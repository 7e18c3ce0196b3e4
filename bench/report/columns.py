"""The columns of Table 3. A new column is one entry of COLUMNS.

An entry gives the column's heading, its cells in table3.md and table3.tex, its columns in
table3.csv, and whether README's short table has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from bench.report.accuracy import AccuracyEstimate
from bench.report.cost import costs
from bench.report.export import Bold
from bench.report.formatting import MINUS, MISSING, percent, span
from bench.report.groups import Setting
from bench.report.published import REFERENCE, PublishedPaper, published_papers
from bench.report.rows import MASKING_GAP, Section, TableRow, status, usual_lowest
from bench.report.titles import AUTOATTACK, CLEAN, CORE, CW, PGD, TITLES, attack_title

ROBUST, LOWEST, MASKED = "Robust (worst case)", "Lowest seen", "Masking checks"
COST = f"Cost (passes, relative to {REFERENCE})"
ALL_IMAGES, FULL = "(all images)", "(full n)"
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
    """Whether it stands only in a method's first row, since it is not about the checkpoint."""
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


COLUMNS: list[Column] = [
    Column(key="n_runs", value=lambda row, _: len(row.group.runs)),
    Column(key="n_seeds", value=lambda row, _: row.n_seeds),
    Column(
        key="clean",
        title=TITLES[CLEAN],
        value=lambda row, _: row.clean,
        unit="accuracy",
        brief=True,
    ),
    Column(
        key="pgd20",
        title=TITLES[PGD],
        value=lambda row, _: row.attacks.get(PGD),
        unit="accuracy",
        brief=True,
    ),
    Column(
        key="cw",
        title=TITLES[CW],
        value=lambda row, _: row.attacks.get(CW),
        unit="accuracy",
        brief=True,
    ),
    Column(
        key="autoattack",
        title=TITLES[AUTOATTACK],
        value=lambda row, _: row.attacks.get(AUTOATTACK),
        unit="accuracy",
        brief=True,
    ),
    Column(
        key="worst_case",
        title=ROBUST,
        value=lambda row, _: row.worst,
        unit="accuracy",
        brief=True,
    ),
    Column(
        key="lowest_seen",
        title=LOWEST,
        value=lambda row, _: row.lowest,
        unit="accuracy",
        notes=lambda row, section: (
            [f"{LOWEST}: over {counted_attacks(row.lowest_over)}."]
            if row.lowest and row.lowest_over != usual_lowest(section)
            else []
        ),
        brief=True,
    ),
    Column(
        key="pgd20_minus_autoattack",
        title=f"PGD-20 {MINUS} AutoAttack",
        value=lambda row, _: row.gap,
        unit="accuracy",
        notes=lambda row, _: [MASKING_NOTE] if row.suspicious else [],
    ),
    Column(
        key="masking", title=MASKED, value=lambda row, _: masking_text(row), brief=True, csv=False
    ),
    Column(key="worst_case_over", value=lambda row, _: "; ".join(row.worst_over)),
    Column(key="lowest_seen_over", value=lambda row, _: "; ".join(row.lowest_over)),
    Column(key="suspicious", value=lambda row, _: int(row.suspicious)),
    Column(key="masking_checks_made", value=lambda row, _: len(row.masking.made)),
    Column(key="masking_alarms", value=lambda row, _: " ".join(row.masking.codes)),
    Column(
        key="n",
        title="n",
        value=lambda row, _: len(row.index) if row.clean else None,
        csv=False,
    ),
    Column(key="seeds", title="Seeds", value=lambda row, _: _seeds(row), csv=False),
    Column(
        key=f"passes_relative_to_{REFERENCE}",
        title=COST,
        value=lambda row, section: next(
            c.passes_relative for c in costs(section) if c.group.label == row.group.label
        ),
        unit="ratio",
        once=True,
        brief=True,
    ),
]


def paper_columns(setting: Setting) -> list[Column]:
    """Return the columns of the papers' own values beside those of one setting."""
    tables = [table for table in published_papers() if table.table3]
    prefixes = ["paper"] if len(tables) == 1 else [f"paper_{table.paper}" for table in tables]
    return [
        column
        for table, prefix in zip(tables, prefixes, strict=True)
        for column in _paper(table, prefix, setting)
    ]


def _paper(table: PublishedPaper, prefix: str, setting: Setting) -> list[Column]:
    unlike = table.differences(setting.dataset, setting.arch, setting.eps)
    where = ": ".join(
        [table.origin, *([f"{' and '.join(unlike)}, not comparable"] if unlike else [])]
    )

    def values(row: TableRow) -> list[float | None]:
        found = None if row.group.outside else table.table3.get(row.group.method)
        return [found.clean, found.pgd, found.cw] if found else []

    shown = Column(
        key=prefix,
        title=f"Paper: clean / PGD-20 / C&W ({where})",
        value=lambda row, _: " / ".join(percent_or_missing(v, 2) for v in values(row)),
        notes=lambda row, _: table.table3[row.group.method].notes if values(row) else (),
        once=True,
        csv=False,
    )
    numbers = [
        Column(
            key=f"{prefix}_{name}",
            value=partial(_paper_number, values=values, i=i),
        )
        for i, name in enumerate(("clean", "pgd", "cw"))
    ]
    differs = Column(
        key=f"{prefix}_differs", value=lambda row, _: ", ".join(unlike) if values(row) else ""
    )
    return [shown, *numbers, differs]


def _paper_number(
    row: TableRow, _: Section, values: Callable[[TableRow], list[float | None]], i: int
) -> str:
    return number((values(row) or [None] * 3)[i], "%.4f")


def _by_label(row: TableRow, _: Section, name: str, label: str) -> AccuracyEstimate | None:
    found: dict[str, AccuracyEstimate] = getattr(row, name)
    return found.get(label)


def attack_columns(section: Section) -> list[Column]:
    """Return the accuracies on every evaluated image: `clean_full`, and the other attacks'."""
    names = {CLEAN: "clean", PGD: "pgd20", CW: "cw", AUTOATTACK: "autoattack"}
    more = full_labels(section)
    return [
        Column(
            key=key,
            title=title,
            value=partial(_by_label, name="whole", label=label),
            unit="accuracy",
        )
        for label, key, title in [
            *(
                (label, f"{name}_full", f"{TITLES[label]} {FULL}" if label in more else "")
                for label, name in names.items()
            ),
            *((label, label, attack_title(label)) for label in section.attacks),
        ]
    ]


def transferred_columns(section: Section) -> list[Column]:
    """Return the accuracies under transferred attacks that count all images; not in the .csv."""
    return [
        Column(
            key=label,
            title=f"{label} {ALL_IMAGES}",
            value=partial(_by_label, name="after", label=label),
            unit="accuracy",
            csv=False,
        )
        for label in sorted({label for row in section.rows for label in row.after})
    ]


def full_labels(section: Section) -> tuple[str, ...]:
    """Return what was evaluated on more images than a row of the table is of."""
    pairs = {
        name: [
            (row.whole.get(name), row.clean if name == CLEAN else row.attacks.get(name))
            for row in section.rows
        ]
        for name in (CLEAN, *CORE)
    }
    return tuple(name for name, own in pairs.items() if any(a and b and a.n != b.n for a, b in own))


def accuracy_text(
    estimate: AccuracyEstimate | None, n_seeds: int = 1, n: tuple[int, ...] | None = None
) -> str:
    """Return `71.1 [66.2, 75.6]`, or `58.0 ± 1.2`, with a remark on missing images or seeds.

    n: the images that the table names for the row; None where it has no such column.
    """
    if estimate is None:
        return MISSING
    parts = []
    if estimate.value is not None:
        parts.append(percent(estimate.value))
    if estimate.std is not None:
        parts.append(f"\u00b1 {percent(estimate.std)}")
    elif estimate.low is not None and estimate.high is not None:
        parts.append(f"[{percent(estimate.low)}, {percent(estimate.high)}]")
    remark = _remark(estimate, n_seeds, n)
    return " ".join([*parts, *([f"({remark})"] if remark else [])])


def _remark(estimate: AccuracyEstimate, n_seeds: int, n: tuple[int, ...] | None) -> str:
    parts, counts = [], zip(estimate.n, estimate.n_expected, strict=True)
    short = [(have, of) for have, of in counts if have < of]
    if short:
        where = f" in {len(short)} of {len(estimate.n)} seeds" if len(estimate.n) > 1 else ""
        parts.append(f"{short[0][0]} of {short[0][1]} images{where}")
    elif n is None or set(estimate.n) != set(n):
        parts.append(f"n = {span(estimate.n)}")
    if len(estimate.n) < n_seeds:
        parts.append(f"{len(estimate.n)} of {n_seeds} seeds")
    return ", ".join(parts)


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
        "low": estimate.low,
        "high": estimate.high,
        "std": estimate.std,
        "n": min(estimate.n),
        "n_seeds": len(estimate.n),
    }


def percent_or_missing(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None else percent(value, digits)


def setting_cells(setting: Setting) -> dict[str, str]:
    """Return the first columns of every .csv."""
    return {
        "dataset": setting.dataset,
        "arch": setting.arch,
        "recipe": setting.recipe,
        "norm": setting.norm,
        "eps": f"{setting.eps:.9g}" if setting.eps >= 0 else "",
    }


def group_status(row: TableRow) -> str:
    """Return what kept the runs of a row from their end; of several seeds with their numbers."""
    runs = row.group.runs
    if len(runs) == 1:
        return status(runs[0])
    return "; ".join(f"seed {run.seed} {text}" for run in runs if (text := status(run)))


def counted_attacks(labels: Sequence[str]) -> str:
    """Return `2 attacks (pgd-20, cw)`."""
    return f"{len(labels)} attack{'s' * (len(labels) != 1)} ({', '.join(labels)})"


def masking_text(row: TableRow) -> str | None:
    """Return `14 passed`, or the checks that raise an alarm in bold: `C8, C14 of 14`."""
    made, codes = row.masking.made, row.masking.codes
    if not made:
        return None
    return Bold(f"{', '.join(codes)} of {len(made)}") if codes else f"{len(made)} passed"


def _seeds(row: TableRow) -> str | None:
    if row.group.outside:
        return None
    total = len(row.group.runs)
    return str(row.n_seeds) if row.n_seeds == total else f"{row.n_seeds} of {total}"


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value)
