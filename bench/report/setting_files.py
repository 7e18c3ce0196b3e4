"""The files of every setting on record: Table 3, its figures, and the tables that belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.records import Records
from bench.report.accuracy_vs_eps import curve_csv, curves, draw_curves, drawn
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
    pair_matrix,
    pairwise_csv,
    pairwise_legend,
    pairwise_table,
)
from bench.report.tables.per_class import class_csv, class_facts, class_table, per_class
from bench.report.tables.published_results import (
    autoattack_results,
    results_csv,
    results_facts,
    results_table,
)

TABLES = {
    "main": ("Table 3, every setting on record", "table3.md", "table3.csv", "table3.tex"),
    "masking": ("Checks for masked gradients", "masking.md", "masking.csv"),
    "pairwise": ("Differences between methods", "comparisons.csv", "comparisons.tex"),
    "classes": ("Accuracy of each class", "classes.md", "classes.csv"),
    "cost": ("Cost of training", "cost.md", "cost.csv", "cost.tex"),
    "published": ("Published AutoAttack results next to ours", "context.csv"),
}
"""Name of a table -> its title in index.md, and its files of all settings."""
LATEX = {
    "table3.tex": [
        ("main", "Clean and robust accuracy", "", LEGEND),
        ("other", "Other attacks", "-other", LEGEND),
    ],
    "cost.tex": [("cost", "Cost of training", "-cost", COST_LEGEND)],
    "comparisons.tex": [("pairwise", "Differences in robust accuracy", "-comparisons", "")],
}
"""File -> its tables: name, caption, end of the label, first sentence below."""


def setting_files(
    parts: Sequence[Section], records: Records, note: str, results: str | Path
) -> tuple[dict[str, bytes], str]:
    """Return the files made of every setting on record, and the text for the terminal.

    note: where the numbers come from. results: the folder named where a record is missing.
    """
    found = [_setting(section, results) for section in parts]
    present = {name for one in found for name in one["tables"]}
    classes = [(p.setting, one["per_class"]) for p, one in zip(parts, found, strict=True)]
    matrices = [one["matrix"] for one in found]
    unlabelled = "unlabelled" if any(not m.clean for _, own in classes for m in own) else ""
    context: dict[str, Any] = {
        "origin": note,
        "parts": found,
        "legend": LEGEND,
        "cost_legend": COST_LEGEND,
        "link": lambda name: Markup(f"[{name}]({name})"),
        "alarm": ALARM.strip(),
        "alarmed": any(row.masking.alarms for part in parts for row in part.rows),
        "classes": "labelled" if "classes" in present else unlabelled,
        "left_out": bullets(left_out(parts, [one["curves"] for one in found])),
        "damage": bullets(damage(records)),
        "missing": MISSING,
    }
    numbers = {
        "main": table3_csv(parts),
        "cost": cost_csv(parts),
        "pairwise": pairwise_csv([one for one in matrices if one]),
        "classes": class_csv(classes),
        "masking": masking_csv(parts),
        "published": results_csv(parts),
    }
    files: dict[str, str | bytes] = {}
    for name, file in [(name, file) for name, (_, *own) in TABLES.items() for file in own]:
        if name in present and file.endswith(".csv"):
            files[file] = csv_text(numbers[name], note)
        elif name in present and file.endswith(".md"):
            files[file] = render(f"{file}.j2", **context)
    for file in LATEX:
        if tables := [text for one in found for text in _latex_tables(one, file)]:
            files[file] = latex_document(note, tables)
    for one in found:
        files |= _curve_files(one, note)
    text = str(files["table3.md"])
    if "cost" in present:
        text += "\n" + render("cost.md.j2", **context | {"origin": ""})
    return {n: body.encode() if isinstance(body, str) else body for n, body in files.items()}, text


def _setting(section: Section, results: str | Path) -> dict[str, Any]:
    """Return the tables and figures of a setting, and what the pages' templates show of it."""
    matrix, classes = pair_matrix(section), per_class(section)
    published, checked = autoattack_results(section), checked_rows(section)
    outside = all(group.outside for group in section.groups)
    made: dict[str, tuple[Table | None, Sequence[str]]] = {
        "main": (main_table(section), facts(section)),
        "other": (other_table(section), []),
        "published": (results_table(published) if published else None, results_facts()),
        "pairwise": (pairwise_table(matrix), [pairwise_legend(matrix)]) if matrix else (None, []),
        "cost": (None, []) if outside else (cost_table(section), cost_facts(section, results)),
        "classes": (
            class_table(classes) if any(m.clean for m in classes) else None,
            class_facts(classes),
        ),
        "masking": (masking_table(checked) if checked else None, []),
    }
    tables = {name: (table, below) for name, (table, below) in made.items() if table}
    heading, lines = title(section.setting), curves(section)
    shown, attacked = drawn(section, lines), {curve.label for curve in lines}
    absent = [group.label for group in section.groups if group.label not in attacked]
    text = {name: markdown(*tables[name]) if name in tables else Markup() for name in made}
    return {
        **text,
        "section": section,
        "tables": tables,
        "curves": lines,
        "matrix": matrix,
        "per_class": classes,
        "title": heading,
        "classes": text["classes"] or bullets(class_facts(classes)),
        "image": f"robust-accuracy-{section.setting.slug}" if lines else "",
        "alternative": Markup(alternative(f"Robust accuracy against eps: {heading}")),
        "absent": ", ".join(absent),
        "n_drawn": len({curve.label for curve in shown}),
        "n_curves": len(attacked),
        "provenance": bullets(provenance(group) for group in section.groups),
        "warnings": bullets(warnings(section)),
        "alarms": bullets(alarm_lines(checked)),
        "watched": bullets(alarm_lines(checked, watched=True)),
    }


def _latex_tables(one: Mapping[str, Any], file: str) -> list[str]:
    return [
        latex(
            one["tables"][name][0],
            f"{caption}: {one['title']}.",
            f"{one['section'].setting.slug}{suffix}",
            [*filter(None, [legend]), *one["tables"][name][1]],
        )
        for name, caption, suffix, legend in LATEX[file]
        if name in one["tables"]
    ]


def _curve_files(one: Mapping[str, Any], note: str) -> dict[str, str | bytes]:
    if not one["curves"]:
        return {}
    shown, setting = drawn(one["section"], one["curves"]), one["section"].setting
    pictures = figure_files(lambda: draw_curves(shown, setting), note, "robust accuracy")
    files: dict[str, str | bytes] = {**pictures, ".csv": csv_text(curve_csv(one["curves"]), note)}
    return {f"{one['image']}{suffix}": content for suffix, content in files.items()}
