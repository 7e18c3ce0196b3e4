"""What is made of every setting on record: Table 3, its figures, the tables that belong to it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.records import Records
from bench.report.accuracy_vs_eps import curve_csv, curves, draw_curves, drawn
from bench.report.artefact import Output
from bench.report.cost import COST_LEGEND, cost_csv, cost_facts, cost_table
from bench.report.export import (
    Markup,
    Table,
    alternative,
    bullets,
    latex,
    latex_document,
    markdown,
    plain,
    render,
)
from bench.report.formatting import MISSING
from bench.report.rows import Section
from bench.report.table3 import (
    damage,
    facts,
    last_table,
    left_out,
    main_table,
    other_table,
    provenance,
    reading,
    stated_facts,
    stated_table,
    table3_csv,
    unlike_papers,
    warnings,
)
from bench.report.tables.masking import alarm_lines, checked_rows, masking_csv, masking_table
from bench.report.tables.pairwise import (
    leaders,
    pair_matrix,
    pairwise_csv,
    pairwise_legend,
    pairwise_table,
)
from bench.report.tables.per_class import class_csv, class_facts, class_table, enough, per_class
from bench.report.tables.published_results import (
    autoattack_results,
    results_csv,
    results_facts,
    results_table,
)

TABLES = {
    "main": ("Table 3, every setting on record", "table3", (".md", ".csv", ".tex")),
    "narrow": ("Table 3 for one column of a page", "table3-narrow", (".tex",)),
    "more": ("Last checkpoints and other attacks", "table3-more", (".tex",)),
    "masking": ("Checks for masked gradients", "masking", (".md", ".csv")),
    "pairwise": ("Differences between methods", "comparisons", (".csv", ".tex")),
    "classes": ("Accuracy of each class", "classes", (".md", ".csv")),
    "cost": ("Cost of training", "cost", (".md", ".csv", ".tex")),
    "published": ("Published AutoAttack results next to ours", "context", (".csv",)),
}
"""Name of a table -> its title in index.md, the name of its files of all settings, their kinds."""
CURVES = "robust-accuracy-"
"""Begins the names of the files of robust accuracy against eps."""
LEAST_METHODS, LEAST_RADII = 2, 3
"""What a figure of them needs; eps 0 is one radius."""
LATEX = {
    "table3": [("main", "Clean and robust accuracy", "")],
    "table3-narrow": [("narrow", "Clean and robust accuracy", "-narrow")],
    "table3-more": [
        ("last", "Best and last checkpoints", "-last"),
        ("other", "Other attacks", "-other"),
        ("stated", "Accuracy that papers state", "-stated"),
    ],
    "cost": [("cost", "Cost of training", "-cost")],
    "comparisons": [("pairwise", "Differences in robust accuracy", "-comparisons")],
}
"""Name of a file -> its tables: name, caption, end of the label."""


def setting_output(parts: Sequence[Section], records: Records, results: str | Path) -> Output:
    """Return what is made of every setting; `results`: the folder to name for missing records."""
    found = [_setting(section, results) for section in parts]
    present = {name for one in found for name in one["tables"]}
    classes = [(p.setting, one["per_class"]) for p, one in zip(parts, found, strict=True)]
    matrices = [one["matrix"] for one in found]
    unlabelled = "unlabelled" if any(not m.clean for _, own in classes for m in own) else ""
    context: dict[str, Any] = {
        "parts": found,
        "cost_legend": COST_LEGEND,
        "link": lambda name: Markup(f"[{name}]({name})"),
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
    made = {file: (name, kinds) for name, (_, file, kinds) in TABLES.items() if name in present}
    curved = {one["image"]: one for one in found if one["curves"]}
    tables = {file: [text for one in found for text in _latex_tables(one, file)] for file in LATEX}
    return Output(
        numbers={file: numbers[name] for file, (name, kinds) in made.items() if ".csv" in kinds}
        | {image: curve_csv(one["curves"]) for image, one in curved.items()},
        pages={
            file: render(f"{file}.md.j2", **context)
            for file, (_, kinds) in made.items()
            if ".md" in kinds
        },
        latex={file: latex_document(own) for file, own in tables.items() if own},
        figures={
            image: partial(draw_curves, one["drawn"], one["section"].setting)
            for image, one in curved.items()
        },
    )


def _setting(section: Section, results: str | Path) -> dict[str, Any]:
    """Return the tables and figures of a setting, and what the pages' templates show of it."""
    matrix, classes = pair_matrix(section), per_class(section)
    published, checked = autoattack_results(section), checked_rows(section)
    outside, bold = all(group.outside for group in section.groups), leaders(section)
    more = ["Lowest seen: correct under every attack on record."]
    last = ["best: the epoch with the highest robust accuracy on the validation split."]
    made: dict[str, tuple[Table | None, Sequence[str]]] = {
        "main": (main_table(section, bold), reading(section, bold)),
        "narrow": (
            main_table(section, bold, narrow=True),
            reading(section, bold, narrow=True),
        ),
        "last": (last_table(section), last),
        "other": (other_table(section), more),
        "stated": (stated_table(section), stated_facts()),
        "published": (results_table(published) if published else None, results_facts()),
        "pairwise": (pairwise_table(matrix), [pairwise_legend(matrix)]) if matrix else (None, []),
        "cost": (None, []) if outside else (cost_table(section), cost_facts(section, results)),
        "classes": (
            class_table(classes) if enough(classes) else None,
            class_facts(classes),
        ),
        "masking": (masking_table(checked) if checked else None, []),
    }
    tables = {
        name: (table, below)
        for name, (table, below) in made.items()
        if table is not None and len(table.text)
    }
    heading, lines = section.setting.title, curves(section)
    radii = {eps for curve in lines for eps in curve.points}
    if len({curve.label for curve in lines}) < LEAST_METHODS or len(radii) < LEAST_RADII:
        lines = []
    shown, attacked = drawn(section, lines), {curve.label for curve in lines}
    absent = [group.label for group in section.groups if group.label not in attacked]
    text = {name: markdown(*tables[name]) if name in tables else Markup() for name in made}
    return {
        **text,
        "section": section,
        "tables": tables,
        "facts": bullets(facts(section)),
        "unlike": bullets(unlike_papers(section)),
        "no_pairs": plain(pairwise_legend(matrix)) if matrix and not text["pairwise"] else "",
        "curves": lines,
        "drawn": shown,
        "matrix": matrix,
        "per_class": classes,
        "title": heading,
        "classes": text["classes"] or bullets(class_facts(classes)),
        "image": f"{CURVES}{section.setting.slug}" if lines else "",
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
            one["tables"][name][1],
        )
        for name, caption, suffix in LATEX[file]
        if name in one["tables"]
    ]
