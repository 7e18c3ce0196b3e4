"""Our AutoAttack figures beside those that others published for the same network and data."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.aggregate import AUTOATTACK, CLEAN, Row, Section
from bench.report.groups import same_eps
from bench.report.joins import Cell
from bench.report.layout import Line, Table, Text
from bench.report.leaderboard import (
    AA,
    DATASET,
    EIGHT,
    ENTRIES,
    N_IMAGES,
    NO_CAT,
    NORM,
    RB,
    Entry,
)
from bench.report.units import MISSING, eps_text, percent, span

CONTEXT = "Published AutoAttack results on the same data set, network and eps:"
SIMILAR = (EIGHT, 0.031)
"""Radii that this literature calls the same; an entry of the other one says so."""
CONTEXT_LEGEND = (
    f"Percent. Published: carried over from {RB} and {AA}, on all {N_IMAGES:,} test images. "
    "Another training (recipe, epochs, selection) is behind each row, which this table cannot "
    "show: read it as context, not as a ranking."
)
_HEAD = ("dataset", "arch", "eps", "origin", "name", "venue", "clean", "autoattack", "n", "differs")


@dataclass(frozen=True, kw_only=True)
class Comparable:
    """One line: a row of ours, or a published entry. Fractions."""

    name: str
    origin: str
    """`here`, or the source of a published figure."""
    venue: str = ""
    clean: float | None
    autoattack: float
    n: tuple[int, ...]
    """Images of the AutoAttack figure; a number for each seed."""
    differs: tuple[str, ...] = ()
    """In what a published one is unlike ours."""


def comparables(section: Section) -> list[Comparable]:
    """Our rows with an AutoAttack figure, then the published ones; empty without either."""
    setting = section.setting
    usual = any(same_eps(setting.eps, eps) for eps in SIMILAR)
    if setting.dataset != DATASET or setting.norm != NORM or not usual:
        return []
    ours = [found for row in section.rows if (found := _ours(row))]
    known = ENTRIES.get(setting.arch.removesuffix("-raw"), ())
    return [*ours, *(_published(entry, setting.eps) for entry in known)] if ours and known else []


def _ours(row: Row) -> Comparable | None:
    cell = row.whole.get(AUTOATTACK)  # the published ones are of all test images
    # A model from outside has a network of its own, which nobody recorded.
    if row.group.outside or cell is None or cell.value is None:
        return None
    return Comparable(
        name=f"{row.group.label} ({row.checkpoint})",
        origin="here",
        clean=_value(row.whole.get(CLEAN)),
        autoattack=cell.value,
        n=cell.n,
    )


def _published(entry: Entry, eps: float) -> Comparable:
    differs = [entry.extra] * bool(entry.extra)
    differs += [] if same_eps(entry.eps, eps) else [f"eps {eps_text(entry.eps)}"]
    differs += [f"network: {entry.network}"] * bool(entry.network)
    return Comparable(
        name=entry.name,
        origin=entry.source,
        venue=entry.venue,
        clean=entry.clean,
        autoattack=entry.autoattack,
        n=(N_IMAGES,),
        differs=tuple(differs),
    )


def _value(cell: Cell | None) -> float | None:
    return None if cell is None else cell.value


def context_table(section: Section) -> Table | None:
    """The block of table3.md; None where there is nothing to compare."""
    found = comparables(section)
    lines = [
        Line(
            head=(Text(main=f"{one.name}, {one.venue}" if one.venue else one.name),),
            cells=(
                Text(main=MISSING if one.clean is None else percent(one.clean, 2)),
                Text(main=percent(one.autoattack, 2)),
                Text(main=_remark(one)),
            ),
        )
        for one in found
    ]
    headings = ("Entry", "Clean", "AutoAttack", "What differs")
    return Table(headings=headings, lines=tuple(lines), notes=()) if found else None


def _remark(one: Comparable) -> str:
    parts = list(one.differs)
    if one.origin == "here":
        few = f"; AutoAttack on the first {span(one.n)} images" if max(one.n) < N_IMAGES else ""
        parts.append(f"here{few}")
    return ", ".join(parts)


def context_facts() -> list[str]:
    """Sentences below the block."""
    return [CONTEXT_LEGEND, NO_CAT]


def context_csv(sections: Sequence[Section], note: str) -> str:
    """A comment line with `note`, the header, and the lines of all blocks; fractions."""
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(_HEAD)
    for section in sections:
        setting = section.setting
        for one in comparables(section):
            clean = "" if one.clean is None else f"{one.clean:.6g}"
            head = [setting.dataset, setting.arch, f"{setting.eps:.9g}", one.origin, one.name]
            numbers = [clean, f"{one.autoattack:.6g}", span(one.n, "-")]
            rows.writerow([*head, one.venue, *numbers, "; ".join(one.differs)])
    return buffer.getvalue()
