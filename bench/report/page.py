"""The report: from the records of a results folder to the files of a reports folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import unknown_name
from bench.records import Records
from bench.report.aggregate import Section, sections
from bench.report.artefacts import ARTEFACTS, Artefact
from bench.report.balanced import BALANCED, balanced
from bench.report.class_table import class_csv, class_link, class_markdown
from bench.report.classes import classes
from bench.report.comparison_table import (
    COMPARISONS,
    comparison_csv,
    comparison_latex,
    comparison_legend,
    comparison_table,
)
from bench.report.context import CONTEXT, context_csv, context_facts, context_table
from bench.report.cost_table import COST_LEGEND, cost_csv, cost_facts, cost_table
from bench.report.curves import Curve, curves, drawn
from bench.report.export import csv_text
from bench.report.facts import damage, facts, left_out, provenance, require, warnings
from bench.report.figure import figure_files
from bench.report.flat import flat
from bench.report.index import Entry, entries, index_markdown
from bench.report.latex import latex
from bench.report.layout import main_table, other_table, title
from bench.report.markdown import alternative, bullets, markdown, plain
from bench.report.masking_table import MASKING_LINK, masking_csv, masking_markdown
from bench.report.matrix import Matrix, matrix
from bench.report.units import MISSING
from bench.storage import write_atomic

_LEGEND = (
    "Percent of the first n test images. [a, b]: 95% interval over the images (Wilson's; for the "
    "difference Newcombe's for paired images). \u00b1: standard deviation over seeds, beside "
    "their mean. All numbers of a row are of the same images. (full n): of every image that was "
    "evaluated. best: the "
    "epoch with the highest robust accuracy on the validation split (clean accuracy, for a method "
    "without an adversary); last: the final epoch. "
    "A transferred attack is also scored on all images, with those that are wrong without an "
    "attack and may be right under it. "
    f"Cost: forward and backward passes of the training. {MISSING}: not on record."
)


TABLE_SUITES = ("table3", "digits", "cifar10")
"""Suites that Table 3 is the report of."""
OTHERS = (
    ("Table 3, every setting on record", ("table3.md", "table3.csv", "table3.tex")),
    ("Claims of the paper, with verdicts", ("claims.md", "claims.csv")),
    ("Checks for masked gradients", ("masking.md", "masking.csv")),
    ("Differences between methods", ("comparisons.csv", "comparisons.tex")),
    ("Accuracy of each class", ("classes.md", "classes.csv")),
    ("Cost of training", ("cost.md", "cost.csv", "cost.tex")),
    ("Published AutoAttack results beside ours", ("context.csv",)),
)


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """What a report wrote."""

    paths: tuple[Path, ...]
    """index.md links them."""
    text: str
    """For the terminal: the content of table3.md and the tables of cost.md, where they were made,
    else the names of the files."""


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
    only what a suite or artefact of that name is for; `size`: of the paper's artefacts, in place
    of the one of which most is there. Raises RecordError without records, or where a file cannot
    be written, and ConfigError for an unknown suite.
    """
    require(records, results)
    note = origin(records, command)
    wanted = _wanted(suite)
    found = entries(wanted, records, note, size, suite)
    files, text = dict[str, bytes](), "\n".join(_told(entry) for entry in found)
    if suite is None or suite in TABLE_SUITES:
        files, text = _tables(records, note, results)
    files |= {name: content for entry in found for name, content in entry.made.files.items()}
    if suite is None:
        from bench.papers.cat.claim_page import make_claims  # it imports this package

        claims = make_claims(records)
        files["claims.md"] = f"{note}\n\n{claims.pages['claims']}".encode()
        files["claims.csv"] = csv_text(claims.numbers["claims"], note).encode()
        own = {name for entry in found for name in entry.made.files}
        others = [(title, [n for n in names if n in files]) for title, names in OTHERS]
        curves_ = [n for n in files if n.startswith("robust-accuracy-") and n not in own]
        others.append(("Robust accuracy against eps, every setting on record", sorted(curves_)))
        files["index.md"] = index_markdown(found, others, records, note).encode()
    for file, content in files.items():
        write_atomic(reports / file, content)
    return ReportResult(paths=tuple(reports / file for file in files), text=text)


def _wanted(suite: str | None) -> list[Artefact]:
    """The artefacts that are named, or all."""
    if suite is None or suite == "paper":
        return list(ARTEFACTS)
    chosen = [artefact for artefact in ARTEFACTS if suite in (artefact.suite, artefact.name)]
    if not chosen and suite not in TABLE_SUITES:
        known = {name for artefact in ARTEFACTS for name in (artefact.suite, artefact.name)}
        raise unknown_name("suite", suite, {*known, *TABLE_SUITES, "paper"})
    return chosen


def _told(entry: Entry) -> str:
    """What the terminal shows of an artefact."""
    names = ", ".join(sorted(entry.made.files)) or f"no records; make them: {entry.missing.command}"
    return f"{entry.artefact.name}: {names}"


def _tables(records: Records, note: str, results: str | Path) -> tuple[dict[str, bytes], str]:
    """What is made of every setting on record, and the tables for the terminal."""
    parts = sections(records)
    figures = [curves(section) for section in parts]
    matrices, by_class = [matrix(section) for section in parts], [classes(s) for s in parts]
    checked = any(row.masking.findings for part in parts for row in part.rows)
    alarmed = any(row.masking.alarms for part in parts for row in part.rows)
    links = [*([MASKING_LINK] if alarmed else []), class_link(by_class)]
    text = _markdown(records, parts, figures, matrices, links, note)
    cost = _cost_markdown(parts, results)
    files = {
        "table3.md": text.encode(),
        "table3.csv": flat(parts, note).encode(),
        "table3.tex": _latex(parts, note).encode(),
        "cost.md": f"{note}\n\n{cost}".encode(),
        "cost.csv": cost_csv(parts, note).encode(),
        "cost.tex": _cost_latex(parts, note, results).encode(),
    }
    if compared := [found for found in matrices if found]:
        files["comparisons.csv"] = comparison_csv(compared, note).encode()
        files["comparisons.tex"] = _document(note, map(comparison_latex, compared)).encode()
    if any(found.rows for found in by_class):
        files["classes.md"] = class_markdown(by_class, note).encode()
        files["classes.csv"] = class_csv(by_class, note).encode()
    if checked:
        files["masking.md"] = masking_markdown(parts, note).encode()
        files["masking.csv"] = masking_csv(parts, note).encode()
    if any(context_table(part) for part in parts):
        files["context.csv"] = context_csv(parts, note).encode()
    for section, figure in zip(parts, figures, strict=True):
        if figure:
            contents = figure_files(figure, section.setting, note, drawn(section, figure))
            files |= {f"{_image(section)}{suffix}": c for suffix, c in contents.items()}
    return files, f"{text}\n{cost}"


def _image(section: Section) -> str:
    return f"robust-accuracy-{section.setting.slug}"


def origin(records: Records, command: str) -> str:
    """The sentence that says where a file comes from."""
    n_evaluations = sum(len(run.evaluations) for run in records)
    counts = f"{_count(len(records), 'run')} and {_count(n_evaluations, 'evaluation')}"
    return f"Made by `{' '.join(command.split())}` from {counts}."


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _markdown(
    records: Records,
    parts: Sequence[Section],
    figures: Sequence[Sequence[Curve]],
    matrices: Sequence[Matrix | None],
    links: Sequence[str],
    note: str,
) -> str:
    blocks = [note, "# Table 3: clean and robust accuracy", _LEGEND, *filter(None, links)]
    for section, figure, compared in zip(parts, figures, matrices, strict=True):
        blocks += _section(section, figure, compared)
    blocks += _list("## Not in the tables and figures", left_out(parts, figures))
    blocks += _list("## Damaged files", damage(records))
    return "\n\n".join(blocks) + "\n"


def _section(section: Section, figure: Sequence[Curve], compared: Matrix | None) -> list[str]:
    heading = title(section.setting)
    blocks = [f"## {plain(heading)}", markdown(main_table(section), facts(section))]
    if table := other_table(section):
        blocks += ["Other attacks:", markdown(table)]
    if known := context_table(section):
        blocks += [CONTEXT, markdown(known, context_facts())]
    if compared:
        below = (comparison_legend(compared),)
        blocks += [COMPARISONS, markdown(comparison_table(compared), below)]
    blocks += _list(BALANCED, balanced(section))
    if figure:
        seen = alternative(f"Robust accuracy against eps: {heading}")
        blocks.append(f"![{seen}]({_image(section)}.png)")
        attacked = {curve.label for curve in figure}
        absent = [group.label for group in section.groups if group.label not in attacked]
        if absent:
            why = "since none of its attacks was run on them"
            blocks.append(plain(f"Not in the figure, {why}: {', '.join(absent)}."))
        shown = {curve.label for curve in drawn(section, figure)}
        if len(shown) < len(attacked):
            many = f"The {len(shown)} most robust of {len(attacked)} are drawn"
            blocks.append(f"{many}; [the numbers of all]({_image(section)}.csv).")
    blocks += _list("Methods, parameters, runs:", provenance(section))
    return blocks + _list("Warnings:", warnings(section))


def _list(heading: str, lines: Sequence[str]) -> list[str]:
    return [heading, bullets(lines)] if lines else []


def trained(parts: Sequence[Section]) -> list[Section]:
    """The sections that hold more than models from outside, whose training nobody saw."""
    return [part for part in parts if any(not group.outside for group in part.groups)]


def _cost_markdown(parts: Sequence[Section], results: str | Path) -> str:
    blocks = ["# Cost of training", COST_LEGEND]
    for section in trained(parts):
        table = markdown(cost_table(section), cost_facts(section, results))
        blocks += [f"## {plain(title(section.setting))}", table]
    return "\n\n".join(blocks) + "\n"


def _cost_latex(parts: Sequence[Section], note: str, results: str | Path) -> str:
    blocks = []
    for section in trained(parts):
        caption, label = title(section.setting), section.setting.slug
        below = (COST_LEGEND, *cost_facts(section, results))
        table = cost_table(section)
        blocks.append(latex(table, f"Cost of training: {caption}.", f"{label}-cost", below))
    return _document(note, blocks)


def _document(note: str, tables: Iterable[str]) -> str:
    """A file of LaTeX tables."""
    preamble = f"% {note}\n% Needs the packages booktabs and graphicx."
    return "\n\n".join([preamble, *tables]) + "\n"


def _latex(parts: Sequence[Section], note: str) -> str:
    blocks = []
    for section in parts:
        heading, label = title(section.setting), section.setting.slug
        caption, below = f"Clean and robust accuracy: {heading}.", (_LEGEND, *facts(section))
        blocks.append(latex(main_table(section), caption, label, below))
        if table := other_table(section):
            blocks.append(latex(table, f"Other attacks: {heading}.", f"{label}-other", (_LEGEND,)))
    return _document(note, blocks)
