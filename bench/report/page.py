"""The report: from the records of a results folder to the files of a reports folder."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

from bench.errors import unknown_name
from bench.experiments.suite import list_suites, load_suite
from bench.listing import aligned
from bench.papers import papers
from bench.records import Records
from bench.report.artefact import Artefact, Output, output_files
from bench.report.export import Bold, Markup, bullets, markdown, plain, render
from bench.report.formatting import counted
from bench.report.html.page import index_page
from bench.report.published import published_papers
from bench.report.rows import Section, sections
from bench.report.setting_files import CURVES, TABLES, setting_output
from bench.report.suite_runs import SuiteRuns, choose, command_for_missing
from bench.report.table3 import absent, require, short_table, single_seeds, unlike_papers
from bench.storage import write_atomic

PAGE = "index.html"
"""The page to open."""
MAX_LACKS = 6
"""Lines on what one artefact lacks; more are counted."""
MAX_LINKS = 24
"""Files of one artefact that index.md links; of more in a folder only that."""


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """What a report wrote."""

    paths: tuple[Path, ...]
    """index.md links them."""
    text: str
    """For the terminal: Table 3 of the largest setting and where the rest is; else the files."""


@dataclass(kw_only=True)
class MadeArtefact:
    """One artefact of a paper with its files: all, some, or none for lack of records."""

    paper: str
    """Title of the paper."""
    artefact: Artefact
    chosen: SuiteRuns | None
    output: Output = field(default_factory=Output)
    files: dict[str, bytes] = field(default_factory=dict)
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
    parts = sections(records)
    note = " ".join([f"Made by `{' '.join(command.split())}` from {counts}.", *single_seeds(parts)])
    wanted, with_tables = _wanted(suite)
    chosen = {a.suite: choose(records, a.suite, size) for _, a in wanted if a.suite}
    made = [_made(p, a, records, chosen.get(a.suite), note, a.name == suite) for p, a in wanted]
    files, said = dict[str, bytes](), [_told(one) for one in made if suite or one.error]
    if with_tables:
        output = setting_output(parts, records, results)
        files = output_files(output, note)
        said.insert(0, _terminal(parts))
    tables = sorted(files)
    for one in made:
        files |= one.files
    if suite is None:
        files["index.md"] = _index(made, tables, parts, note).encode()
        claims = {one.paper: one.output.claims for one in made if one.output.claims}
        downloads = _listed(tables)
        downloads += [(one.artefact.title, sorted(one.files)) for one in made if one.files]
        files[PAGE] = index_page(parts, records, claims, downloads, note, results).encode()
        said.append(f"The report: {reports / PAGE}")
    elif with_tables:
        said.append(f"More: {reports / 'table3.md'}")
    for file, content in files.items():
        write_atomic(reports / file, content)
    return ReportResult(paths=tuple(reports / file for file in files), text="\n\n".join(said))


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
    paper: str,
    artefact: Artefact,
    records: Records,
    chosen: SuiteRuns | None,
    note: str,
    named: bool,
) -> MadeArtefact:
    made = MadeArtefact(paper=paper, artefact=artefact, chosen=chosen)
    make = artefact.whole if named and artefact.whole else artefact.make
    try:
        if artefact.make_of_all is not None:
            made.output = artefact.make_of_all(records)
        elif chosen is not None and make is not None:
            made.output = make(chosen)
        caption = chosen.caption if chosen else ""
        made.files = output_files(made.output, note, title=artefact.title, caption=caption)
    except Exception as problem:  # the report of everything else must not be lost
        made.error = f"{type(problem).__name__}: {problem}"
    return made


def _told(made: MadeArtefact) -> str:
    """Return what the terminal shows of an artefact."""
    name, suite = made.artefact.name, made.artefact.suite
    if made.error:
        return f"{name}: could not be made: {made.error}"
    if made.files or not suite:
        return f"{name}: {', '.join(sorted(made.files))}"
    return f"{name}: no records; make them: {command_for_missing(suite, made.chosen)}"


def _terminal(parts: Sequence[Section]) -> str:
    """Return Table 3 of the setting with most methods, at most about 80 characters wide."""
    section, table, said = short_table(parts)
    marked = table.text.map(lambda cell: f"{cell} *" if isinstance(cell, Bold) else cell)
    rows = [list(marked.columns), *marked.to_numpy().tolist()]
    more = f"{counted(len(parts) - 1, 'other setting')}: see table3.md." if len(parts) > 1 else ""
    said = [line.replace("Bold:", "*:") for line in said]
    notes = [*said, *unlike_papers(section), *single_seeds([section]), *absent(section), more]
    below = "\n".join(fill(line, 100) for line in notes if line)
    return f"{section.setting.title}\n\n{aligned(rows)}\n\n{below}"


def _index(
    made: Sequence[MadeArtefact], tables: Sequence[str], parts: Sequence[Section], note: str
) -> str:
    section, table, said = short_table(parts)
    picture = f"{CURVES}{section.setting.slug}.png"
    entries: dict[str, list[str]] = {}
    for one in made:
        if one.files:
            entries.setdefault(one.paper, []).append(_line(one))
    absent = [one.artefact.name for one in made if not one.files and not one.error]
    return render(
        "index.md.j2",
        origin=note,
        title=section.setting.title,
        banner=[*unlike_papers(section), *single_seeds([section])],
        table=markdown(table, said),
        more=counted(len(parts) - 1, "other setting") if len(parts) > 1 else "",
        picture=Markup(picture) if picture in tables else "",
        summaries=[Markup(one.output.summary) for one in made if one.output.summary],
        tables=bullets(Markup(f"{heading}: {_links(own)}") for heading, own in _listed(tables)),
        papers={paper: bullets(lines) for paper, lines in entries.items()},
        absent=", ".join(absent),
        missing=bullets(line for one in made for line in _lacking(one)),
    )


def _listed(tables: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the files of the tables of every setting, by heading."""
    found = [
        (heading, [f"{file}{kind}" for kind in kinds if f"{file}{kind}" in tables])
        for heading, file, kinds in TABLES.values()
    ]
    figures = [name for name in tables if name.startswith(CURVES)]
    found.append(("Robust accuracy against eps", figures))
    return [(heading, files) for heading, files in found if files]


def _line(made: MadeArtefact) -> str:
    said = [made.chosen.caption if made.chosen else "", made.output.remark]
    links = f"{plain(made.artefact.title)}: {_links(sorted(made.files))}."
    return Markup(" ".join([links, *(plain(text) for text in said if text)]))


def _links(files: Sequence[str]) -> str:
    """Return links to files, of the same name together; only their folder where it has many."""
    if len(files) > MAX_LINKS and "/" in files[0]:
        folder = files[0].partition("/")[0]
        return f"[{plain(folder)}/]({folder}/)"
    kinds: dict[str, list[str]] = {}
    for file in files:
        kinds.setdefault(file.rpartition(".")[0], []).append(file)
    return "; ".join(
        f"{plain(stem)} " + " ".join(f"[{file.rpartition('.')[2]}]({file})" for file in own)
        for stem, own in kinds.items()
    )


def _lacking(made: MadeArtefact) -> list[str]:
    name, suite, lacks = made.artefact.name, made.artefact.suite, made.output.lacks
    if made.error:
        return [f"{name} ({made.artefact.title}) could not be made: {made.error}"]
    if not suite or not made.files or not lacks:
        return []
    more = len(lacks) - MAX_LACKS
    what = f"{name} lacks {'; '.join(lacks[:MAX_LACKS])}"
    what += f"; and {more} more" if more > 0 else ""
    return [f"{what}: `{command_for_missing(suite, made.chosen)}`"]
