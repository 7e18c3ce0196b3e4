"""The tables as one .csv of plain numbers: fractions, limits and counts."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bench.report.aggregate import AUTOATTACK, CLEAN, CW, PGD, Row, Section, status
from bench.report.cost import costs
from bench.report.joins import Cell
from bench.report.published import REFERENCE, TABLE_3, differences
from bench.report.units import span

_HEAD = ("dataset", "arch", "recipe", "norm", "eps", "method", "label", "checkpoint", "status")
_PARTS = ("", "_low", "_high", "_std", "_n", "_n_expected", "_n_seeds")
_OVER = ("worst_case_over", "lowest_seen_over")
"""Labels of the attacks that those two columns join."""
_COST = f"passes_relative_to_{REFERENCE}"
_MASKING = ("masking_checks_made", "masking_alarms")
_PAPER = ("paper_clean", "paper_pgd", "paper_cw", "paper_differs")


def flat(sections: Sequence[Section], note: str) -> str:
    """A comment line with `note`, the header, and a line for each row of every table."""
    core = {CLEAN: "clean", PGD: "pgd20", CW: "cw", AUTOATTACK: "autoattack"}
    names = {**core, "worst": "worst_case", "lowest": "lowest_seen"}
    names |= {"gap": "pgd20_minus_autoattack"}
    others = {label: label for section in sections for label in section.attacks}
    whole = {**{label: f"{name}_full" for label, name in core.items()}, **others}
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    heads = [f"{name}{part}" for name in (*names.values(), *whole.values()) for part in _PARTS]
    ends = (*_OVER, "suspicious", *_MASKING, _COST, *_PAPER, "run_ids")
    rows.writerow([*_HEAD, "n_runs", "n_seeds", *heads, *ends])
    for section in sections:
        relative = {cost.group.label: cost.passes_relative for cost in costs(section)}
        for row in section.rows:
            joint = {"worst": row.worst, "lowest": row.lowest, "gap": row.gap}
            cells = {**row.attacks, CLEAN: row.clean, **joint}
            columns = [*map(cells.get, names), *map(row.whole.get, whole)]
            numbers = [part for cell in columns for part in _numbers(cell)]
            over = ["; ".join(row.worst_over), "; ".join(row.lowest_over)]
            ids = " ".join(run.run_id for run in row.group.runs)
            cost = relative[row.group.label]
            price = "" if cost is None else f"{cost:.6g}"
            checks = [len(row.masking.made), " ".join(row.masking.codes)]
            facts = [int(row.suspicious), *checks, price, *_paper(section, row), ids]
            rows.writerow([*_head(section, row), *numbers, *over, *facts])
    return buffer.getvalue()


def _head(section: Section, row: Row) -> list[object]:
    setting, group = section.setting, row.group
    eps = f"{setting.eps:.9g}" if setting.eps >= 0 else ""
    states = [(run.seed, status(run)) for run in group.runs if status(run)]
    state = states[0][1] if len(group.runs) == 1 and states else ""
    if len(group.runs) > 1:
        state = "; ".join(f"seed {seed} {text}" for seed, text in states)
    return [
        *(setting.dataset, setting.arch, setting.recipe, setting.norm, eps),
        *("" if group.outside else group.method, group.label, row.checkpoint, state or "done"),
        *(len(group.runs), row.n_seeds),
    ]


def _numbers(cell: Cell | None) -> list[str]:
    """The entries of `_PARTS`; n over several seeds as a range."""
    if cell is None:
        return [""] * len(_PARTS)
    fractions = (cell.value, cell.low, cell.high, cell.std)
    return [
        *("" if fraction is None else f"{fraction:.6f}" for fraction in fractions),
        *(span(cell.n, "-"), span(cell.n_expected, "-")),
        str(len(cell.n)),
    ]


def _paper(section: Section, row: Row) -> list[str]:
    published = None if row.group.outside else TABLE_3.get(row.group.method)
    if published is None:
        return ["", "", "", ""]
    setting = section.setting
    values = ["" if value is None else f"{value:.4f}" for value in published.values]
    return [*values, ", ".join(differences(setting.dataset, setting.arch, setting.eps))]
