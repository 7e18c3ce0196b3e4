"""The report: from the records of a results folder to the files of a reports folder."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import unknown_name
from bench.papers import papers
from bench.records import Records
from bench.report.accuracy_vs_eps import Curve, curve_csv, curves, draw_curves, drawn
from bench.report.artefact import Artefact, Output
from bench.report.artefact_files import output_files
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
    plain,
    render,
)
from bench.report.formatting import ALARM, MISSING, counted
from bench.report.missing import duration_text, missing_trainings, recorded_speeds
from bench.report.published import published_papers
from bench.report.rows import Section, sections
from bench.report.suite_runs import SuiteRuns, choose
from bench.report.table3 import (
    LEGEND,
    UNEQUAL,
    balanced,
    damage,
    facts,
    left_out,
    main_table,
    other_table,
    provenance,
    require,
    table3_csv,
    title,
    warnings,
)
from bench.report.tables.cost import COST_LEGEND, cost_csv, cost_facts, cost_table
from bench.report.tables.masking import alarm_lines, checked_rows, masking_csv, masking_table
from bench.report.tables.pairwise import (
    PairMatrix,
    pair_matrix,
    pairwise_csv,
    pairwise_legend,
    pairwise_table,
)
from bench.report.tables.per_class import PerClass, class_csv, class_facts, class_table, per_class
from bench.report.tables.published_results import (
    autoattack_results,
    results_csv,
    results_facts,
    results_table,
)
from bench.storage import write_atomic
from bench.suite import list_suites, load_suite

MAX_LACKS = 6
"""Lines on what one artefact lacks; more are counted."""
TABLES = {
    "Table 3, every setting on record": ("table3.md", "table3.csv", "table3.tex"),
    "Checks for masked gradients": ("masking.md", "masking.csv"),
    "Differences between methods": ("comparisons.csv", "comparisons.tex"),
    "Accuracy of each class": ("classes.md", "classes.csv"),
    "Cost of training": ("cost.md", "cost.csv", "cost.tex"),
    "Published AutoAttack results next to ours": ("context.csv",),
}
"""Title in index.md -> files of all settings."""


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """What a report wrote."""

    paths: tuple[Path, ...]
    """index.md links them."""
    text: str
    """For the terminal: the content of table3.md and the tables of cost.md, where they were made,
    else the names of the files."""


@dataclass(frozen=True, kw_only=True)
class MadeArtefact:
    """One artefact of a paper with its files: all, some, or none for lack of records."""

    paper: str
    """Title of the paper."""
    artefact: Artefact
    chosen: SuiteRuns | None = None
    output: Output = field(default_factory=Output)
    files: Mapping[str, bytes] = field(default_factory=dict)
    error: str = ""
    """Why it could not be made; empty where it could."""


def write_report(
    records: Records,
    reports: Path,
    *,
    command: str,
    results: str | Path = "results",
    suite: str | None = None,
    size: str | None = None,
) -> ReportResult:
    """Write the tables and figures of all records; the same records give the same bytes.

    `command` is named in every file as its origin; `results` where a record is missing. `suite`:
    only what is for a suite or artefact of that name; `size`: of the papers' artefacts, in place
    of the one with most records. Raises RecordError without records, or where a file cannot be
    written, and ConfigError for an unknown suite.
    """
    require(records, results)
    n_evaluations = sum(len(run.evaluations) for run in records)
    counts = f"{counted(len(records), 'run')} and {counted(n_evaluations, 'evaluation')}"
    note = f"Made by `{' '.join(command.split())}` from {counts}."
    wanted, with_tables = _wanted(suite)
    made = _made(wanted, records, note, size, suite)
    files, text = dict[str, bytes](), "\n".join(map(_told, made))
    if with_tables:
        files, text = _tables(records, note, results)
    tables = set(files)
    for one in made:
        files |= one.files
    if suite is None:
        files["index.md"] = _index(made, tables, records, note).encode()
    for file, content in files.items():
        write_atomic(reports / file, content)
    return ReportResult(paths=tuple(reports / file for file in files), text=text)


def _wanted(suite: str | None) -> tuple[list[tuple[str, Artefact]], bool]:
    """Return the artefacts that are named, each with its paper's title; and whether tables are."""
    everything = [
        (paper.title, artefact)
        for paper in papers()
        if paper.artefacts
        for artefact in importlib.import_module(paper.artefacts).ARTEFACTS
    ]
    if suite is None:
        return everything, True
    known = [name for name, _ in list_suites()]
    parts = {study.suite for study in load_suite(suite).studies} if suite in known else set()
    chosen = [(p, a) for p, a in everything if a.name == suite or a.suite in {suite, *parts} - {""}]
    tables = {name for paper in published_papers() for name in paper.suites}
    tables |= {name for name in known if not chosen and name == suite}
    if not chosen and suite not in tables:
        raise unknown_name("suite", suite, {*known, *(a.name for _, a in everything)})
    return chosen, suite in tables


def _made(
    wanted: Iterable[tuple[str, Artefact]],
    records: Records,
    note: str,
    size: str | None,
    named: str | None,
) -> list[MadeArtefact]:
    """Make each artefact from the records of its suite; one that fails does not stop the others."""
    by_suite: dict[str, SuiteRuns | None] = {}
    found = []
    for paper, artefact in wanted:
        chosen = None
        if artefact.suite:
            if artefact.suite not in by_suite:
                by_suite[artefact.suite] = choose(records, artefact.suite, size)
            chosen = by_suite[artefact.suite]
        make = artefact.whole if artefact.name == named and artefact.whole else artefact.make
        output, files, error = Output(), dict[str, bytes](), ""
        try:
            if artefact.make_of_all is not None:
                output = artefact.make_of_all(records)
            elif chosen is not None and make is not None:
                output = make(chosen)
            files = output_files(artefact, output, chosen, note)
        except Exception as problem:  # the report of everything else must not be lost
            error = f"{type(problem).__name__}: {problem}"
        found.append(
            MadeArtefact(
                paper=paper,
                artefact=artefact,
                chosen=chosen,
                output=output,
                files=files,
                error=error,
            )
        )
    return found


def _told(made: MadeArtefact) -> str:
    """Return what the terminal shows of an artefact."""
    name, suite = made.artefact.name, made.artefact.suite
    if made.error:
        return f"{name}: could not be made: {made.error}"
    if made.files or not suite:
        return f"{name}: {', '.join(sorted(made.files))}"
    return f"{name}: no records; make them: {missing_trainings(suite, made.chosen).command}"


def _index(made: Sequence[MadeArtefact], tables: Iterable[str], records: Records, note: str) -> str:
    tables = sorted(tables)
    links = [(heading, [f for f in files if f in tables]) for heading, files in TABLES.items()]
    figures = [name for name in tables if name.startswith("robust-accuracy-")]
    links.append(("Robust accuracy against eps, every setting on record", figures))
    done = [one for one in made if one.files]
    known = recorded_speeds(records)
    return render(
        "index.md.j2",
        origin=note,
        tables=_bullets([Markup(f"{heading}: {_links(f)}") for heading, f in links if f]),
        papers=[
            {
                "title": paper,
                "entries": _bullets([_line(one) for one in done if one.paper == paper]),
            }
            for paper in dict.fromkeys(one.paper for one in done)
        ],
        missing=_bullets([line for one in made for line in _lacking(one, known)]),
    )


def _line(made: MadeArtefact) -> str:
    said = [made.chosen.caption if made.chosen else "", made.output.remark]
    links = f"{made.artefact.title}: {_links(sorted(made.files))}."
    return Markup(" ".join([links, *(plain(text) for text in said if text)]))


def _links(files: Iterable[str]) -> str:
    return ", ".join(f"[{plain(name)}]({name})" for name in files)


def _lacking(made: MadeArtefact, known: Any) -> list[str]:
    name, suite, output = made.artefact.name, made.artefact.suite, made.output
    if made.error:
        return [f"{name} ({made.artefact.title}) could not be made: {made.error}"]
    if not suite:
        return []
    missing = missing_trainings(suite, made.chosen)
    if not made.files:
        took = duration_text(missing, known)
        return [f"{name} ({made.artefact.title}): `{missing.command}`, {took}"]
    if not output.lacks:
        return []
    more = len(output.lacks) - MAX_LACKS
    shown = "; ".join(output.lacks[:MAX_LACKS]) + (f"; and {more} more" if more > 0 else "")
    took = f", {duration_text(missing, known)}" if missing.trainings else ""
    return [f"{name} lacks {shown}: `{missing.command}`{took}"]


@dataclass(frozen=True, kw_only=True)
class SettingReport:
    """What the report says of one setting."""

    section: Section
    curves: list[Curve]
    matrix: PairMatrix | None
    classes: PerClass
    cost: tuple[Table, Sequence[str]] | None
    """The table and what is said below it; None without a training."""

    @property
    def title(self) -> str:
        return title(self.section.setting)

    @property
    def slug(self) -> str:
        return self.section.setting.slug

    @property
    def image(self) -> str:
        """Its figure's file name without suffix; empty without a figure."""
        return f"robust-accuracy-{self.slug}" if self.curves else ""


def _setting_report(section: Section, results: str | Path) -> SettingReport:
    trained = any(not group.outside for group in section.groups)
    return SettingReport(
        section=section,
        curves=curves(section),
        matrix=pair_matrix(section),
        classes=per_class(section),
        cost=(cost_table(section), cost_facts(section, results)) if trained else None,
    )


def _tables(records: Records, note: str, results: str | Path) -> tuple[dict[str, bytes], str]:
    """Return the files made of every setting on record, and the text for the terminal."""
    parts = sections(records)
    reports = [_setting_report(section, results) for section in parts]
    matrices = [one.matrix for one in reports if one.matrix]
    by_class = [one.classes for one in reports]
    blocks = [_blocks(one) for one in reports]
    labelled = any(found.methods for found in by_class)
    unlabelled = any(found.unlabelled for found in by_class)
    text = render(
        "table3.md.j2",
        origin=note,
        legend=LEGEND,
        link=lambda name: Markup(f"[{name}]({name})"),
        alarm=ALARM.strip(),
        alarmed=any(row.masking.alarms for part in parts for row in part.rows),
        classes="labelled" if labelled else "unlabelled" if unlabelled else "",
        unequal=f"{UNEQUAL:g}",
        parts=blocks,
        left_out=_bullets(left_out(parts, [one.curves for one in reports])),
        damage=_bullets(damage(records)),
    )
    costs: dict[str, Any] = {
        "legend": COST_LEGEND,
        "parts": [part for part in blocks if part["cost"]],
    }
    found: dict[str, str | bytes] = {
        "table3.md": text,
        "table3.csv": csv_text(table3_csv(parts), note),
        "table3.tex": latex_document(note, [t for one in reports for t in _latex_tables(one)]),
        "cost.md": render("cost.md.j2", origin=note, **costs),
        "cost.csv": csv_text(cost_csv(parts), note),
        "cost.tex": latex_document(note, [_latex_cost(one) for one in reports if one.cost]),
    }
    if matrices:
        found["comparisons.csv"] = csv_text(pairwise_csv(matrices), note)
        found["comparisons.tex"] = latex_document(note, map(_latex_pairs, matrices))
    if labelled:
        found["classes.md"] = render("classes.md.j2", origin=note, parts=blocks)
        found["classes.csv"] = csv_text(class_csv(by_class), note)
    if any(checked_rows(part) for part in parts):
        found["masking.md"] = render("masking.md.j2", origin=note, parts=blocks, missing=MISSING)
        found["masking.csv"] = csv_text(masking_csv(parts), note)
    if any(autoattack_results(part) for part in parts):
        found["context.csv"] = csv_text(results_csv(parts), note)
    for one in reports:
        found |= _curve_files(one, note)
    files = {n: body.encode() if isinstance(body, str) else body for n, body in found.items()}
    return files, f"{text}\n{render('cost.md.j2', origin='', **costs)}"


def _blocks(one: SettingReport) -> dict[str, Any]:
    """Return what the pages' templates show of a setting."""
    section, published = one.section, autoattack_results(one.section)
    other, rows = other_table(section), checked_rows(section)
    shown, attacked = drawn(section, one.curves), {curve.label for curve in one.curves}
    absent = [group.label for group in section.groups if group.label not in attacked]
    classes = one.classes
    return {
        "title": one.title,
        "table": _table(main_table(section), facts(section)),
        "other": _table(other) if other else "",
        "published": _table(results_table(published), results_facts()) if published else "",
        "pairwise": (
            _table(pairwise_table(one.matrix), [pairwise_legend(one.matrix)]) if one.matrix else ""
        ),
        "balanced": _bullets(balanced(section)),
        "image": one.image,
        "alternative": Markup(alternative(f"Robust accuracy against eps: {one.title}")),
        "absent": ", ".join(absent),
        "n_drawn": len({curve.label for curve in shown}),
        "n_curves": len(attacked),
        "provenance": _bullets([provenance(group) for group in section.groups]),
        "warnings": _bullets(warnings(section)),
        "cost": _table(*one.cost) if one.cost else "",
        "classes": (
            _table(class_table(classes), class_facts(classes))
            if classes.methods
            else _bullets(class_facts(classes))
        ),
        "masking": _table(masking_table(rows)) if rows else "",
        "alarms": _bullets(alarm_lines(rows)),
    }


def _table(table: Table, below: Sequence[str] = ()) -> Markup:
    return Markup(markdown(table, below))


def _bullets(lines: Sequence[str]) -> Markup:
    return Markup(bullets(lines))


def _latex_tables(one: SettingReport) -> list[str]:
    section, slug = one.section, one.slug
    below = (LEGEND, *facts(section))
    tables = [latex(main_table(section), f"Clean and robust accuracy: {one.title}.", slug, below)]
    if other := other_table(section):
        tables.append(latex(other, f"Other attacks: {one.title}.", f"{slug}-other", (LEGEND,)))
    return tables


def _latex_cost(one: SettingReport) -> str:
    assert one.cost is not None
    table, below = one.cost
    caption = f"Cost of training: {one.title}."
    return latex(table, caption, f"{one.slug}-cost", (COST_LEGEND, *below))


def _latex_pairs(found: PairMatrix) -> str:
    caption = f"Differences in robust accuracy: {title(found.setting)}."
    label = f"{found.setting.slug}-comparisons"
    return latex(pairwise_table(found), caption, label, (pairwise_legend(found),))


def _curve_files(one: SettingReport, note: str) -> dict[str, str | bytes]:
    if not one.curves:
        return {}
    shown, setting = drawn(one.section, one.curves), one.section.setting
    pictures = figure_files(lambda: draw_curves(shown, setting), note, "robust accuracy")
    numbers: pd.DataFrame = curve_csv(one.curves)
    return {
        **{f"{one.image}{suffix}": content for suffix, content in pictures.items()},
        f"{one.image}.csv": csv_text(numbers, note),
    }
