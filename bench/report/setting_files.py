"""The files of every setting on record: Table 3, its figures, and the tables that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import Records
from bench.report.accuracy_vs_eps import Curve, curve_csv, curves, draw_curves, drawn
from bench.report.cost import COST_LEGEND, cost_csv, cost_facts, cost_table
from bench.report.export import (
    Markup,
    Table,
    alternative,
    bullets,
    csv_text,
    figure_files,
    latex,
    latex_document,
    markdown,
    render,
)
from bench.report.formatting import ALARM, MISSING
from bench.report.rows import Section
from bench.report.table3 import (
    LEGEND,
    damage,
    facts,
    left_out,
    main_table,
    other_table,
    provenance,
    table3_csv,
    title,
    warnings,
)
from bench.report.tables.masking import alarm_lines, checked_rows, masking_csv, masking_table
from bench.report.tables.pairwise import (
    PairMatrix,
    pair_matrix,
    pairwise_csv,
    pairwise_legend,
    pairwise_table,
)
from bench.report.tables.per_class import (
    PerClass,
    class_csv,
    class_facts,
    class_table,
    per_class,
)
from bench.report.tables.published_results import (
    autoattack_results,
    results_csv,
    results_facts,
    results_table,
)

TABLES = {
    "Table 3, every setting on record": ("table3.md", "table3.csv", "table3.tex"),
    "Checks for masked gradients": ("masking.md", "masking.csv"),
    "Differences between methods": ("comparisons.csv", "comparisons.tex"),
    "Accuracy of each class": ("classes.md", "classes.csv"),
    "Cost of training": ("cost.md", "cost.csv", "cost.tex"),
    "Published AutoAttack results next to ours": ("context.csv",),
}
"""Title in index.md -> files of all settings."""


LATEX = {
    "table3.tex": [
        ("main", "Clean and robust accuracy", "", LEGEND),
        ("other", "Other attacks", "-other", LEGEND),
    ],
    "cost.tex": [("cost", "Cost of training", "-cost", COST_LEGEND)],
    "comparisons.tex": [("pairwise", "Differences in robust accuracy", "-comparisons", "")],
}
"""File -> its tables: name, caption, end of the label, first sentence below."""


@dataclass(frozen=True, kw_only=True)
class SettingReport:
    """What the report says of one setting."""

    section: Section
    tables: Mapping[str, tuple[Table, Sequence[str]]]
    """Name -> a table and the sentences below it; absent where it would be empty."""
    curves: list[Curve]
    matrix: PairMatrix | None
    classes: PerClass

    @property
    def image(self) -> str:
        """Its figure's file name without suffix; empty without a figure."""
        return f"robust-accuracy-{self.section.setting.slug}" if self.curves else ""


def setting_files(
    parts: Sequence[Section], records: Records, note: str, results: str | Path
) -> tuple[dict[str, bytes], str]:
    """Return the files made of every setting on record, and the text for the terminal.

    note: where the numbers come from. results: the folder named where a record is missing.
    """
    reports = [_setting_report(section, results) for section in parts]
    present = {name for one in reports for name in one.tables}
    classes = [one.classes for one in reports]
    unlabelled = "unlabelled" if any(found.unlabelled for found in classes) else ""
    context: dict[str, Any] = {
        "origin": note,
        "parts": [_shown(one) for one in reports],
        "legend": LEGEND,
        "cost_legend": COST_LEGEND,
        "link": lambda name: Markup(f"[{name}]({name})"),
        "alarm": ALARM.strip(),
        "alarmed": any(row.masking.alarms for part in parts for row in part.rows),
        "classes": "labelled" if "classes" in present else unlabelled,
        "left_out": bullets(left_out(parts, [one.curves for one in reports])),
        "damage": bullets(damage(records)),
        "missing": MISSING,
    }
    pages = ("main", "table3.md"), ("cost", "cost.md"), ("classes", "classes.md")
    files: dict[str, str | bytes] = {
        file: render(f"{file}.j2", **context)
        for name, file in (*pages, ("masking", "masking.md"))
        if name in present
    }
    matrices = [one.matrix for one in reports if one.matrix]
    numbers: dict[str, tuple[str, Callable[[], pd.DataFrame]]] = {
        "table3.csv": ("main", lambda: table3_csv(parts)),
        "cost.csv": ("cost", lambda: cost_csv(parts)),
        "comparisons.csv": ("pairwise", lambda: pairwise_csv(matrices)),
        "classes.csv": ("classes", lambda: class_csv(classes)),
        "masking.csv": ("masking", lambda: masking_csv(parts)),
        "context.csv": ("published", lambda: results_csv(parts)),
    }
    files |= {f: csv_text(make(), note) for f, (name, make) in numbers.items() if name in present}
    for file in LATEX:
        if tables := [text for one in reports for text in _latex_tables(one, file)]:
            files[file] = latex_document(note, tables)
    for one in reports:
        files |= _curve_files(one, note)
    text = f"{files['table3.md']!s}\n{render('cost.md.j2', **context | {'origin': ''})}"
    return {n: body.encode() if isinstance(body, str) else body for n, body in files.items()}, text


def _setting_report(section: Section, results: str | Path) -> SettingReport:
    matrix, classes = pair_matrix(section), per_class(section)
    published, checked = autoattack_results(section), checked_rows(section)
    tables = {"main": (main_table(section), facts(section))}
    if other := other_table(section):
        tables["other"] = other, []
    if published:
        tables["published"] = results_table(published), results_facts()
    if matrix:
        tables["pairwise"] = pairwise_table(matrix), [pairwise_legend(matrix)]
    if any(not group.outside for group in section.groups):
        tables["cost"] = cost_table(section), cost_facts(section, results)
    if classes.methods:
        tables["classes"] = class_table(classes), class_facts(classes)
    if checked:
        tables["masking"] = masking_table(checked), []
    return SettingReport(
        section=section, tables=tables, curves=curves(section), matrix=matrix, classes=classes
    )


def _shown(one: SettingReport) -> dict[str, Any]:
    """Return what the pages' templates show of a setting."""
    section, heading = one.section, title(one.section.setting)
    shown, attacked = drawn(section, one.curves), {curve.label for curve in one.curves}
    absent = [group.label for group in section.groups if group.label not in attacked]
    names = ("main", "other", "published", "pairwise", "cost", "classes", "masking")
    tables = {n: markdown(*one.tables[n]) if n in one.tables else Markup() for n in names}
    return {
        **tables,
        "title": heading,
        "classes": tables["classes"] or bullets(class_facts(one.classes)),
        "image": one.image,
        "alternative": Markup(alternative(f"Robust accuracy against eps: {heading}")),
        "absent": ", ".join(absent),
        "n_drawn": len({curve.label for curve in shown}),
        "n_curves": len(attacked),
        "provenance": bullets(provenance(group) for group in section.groups),
        "warnings": bullets(warnings(section)),
        "alarms": bullets(alarm_lines(checked_rows(section))),
        "watched": bullets(alarm_lines(checked_rows(section), watched=True)),
    }


def _latex_tables(one: SettingReport, file: str) -> list[str]:
    setting = one.section.setting
    return [
        latex(
            one.tables[name][0],
            f"{caption}: {title(setting)}.",
            f"{setting.slug}{suffix}",
            [*filter(None, [legend]), *one.tables[name][1]],
        )
        for name, caption, suffix, legend in LATEX[file]
        if name in one.tables
    ]


def _curve_files(one: SettingReport, note: str) -> dict[str, str | bytes]:
    if not one.curves:
        return {}
    shown, setting = drawn(one.section, one.curves), one.section.setting
    pictures = figure_files(lambda: draw_curves(shown, setting), note, "robust accuracy")
    return {
        **{f"{one.image}{suffix}": content for suffix, content in pictures.items()},
        f"{one.image}.csv": csv_text(curve_csv(one.curves), note),
    }
