"""index.md: everything that the report wrote, and what it could not write for lack of records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.records import Records
from bench.report.artefacts import Artefact, Made
from bench.report.markdown import Markup, bullets, plain
from bench.report.remaining import Missing, Speeds, duration_text, everything_of, missing_of, speeds
from bench.report.suite_runs import SuiteRuns, choose

MAX_LACKS = 6
"""Lines on what one artefact lacks; more are counted."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One artefact: made, in part, or not for lack of records."""

    artefact: Artefact
    chosen: SuiteRuns | None
    made: Made

    @property
    def missing(self) -> Missing:
        """Its trainings that are not there."""
        return missing_of(self.chosen) if self.chosen else everything_of(self.artefact.suite)


def entries(
    artefacts: Iterable[Artefact],
    records: Records,
    note: str,
    size: str | None = None,
    named: str | None = None,
) -> list[Entry]:
    """Each artefact from the records of its suite, in the size of which most is there.

    The one that is `named` is made whole.
    """
    chosen: dict[str, SuiteRuns | None] = {}
    found = []
    for artefact in artefacts:
        if artefact.suite not in chosen:
            chosen[artefact.suite] = choose(records, artefact.suite, size)
        runs = chosen[artefact.suite]
        make = artefact.whole if artefact.name == named else None
        made = (make or artefact.make)(runs, note) if runs else Made(files={})
        found.append(Entry(artefact=artefact, chosen=runs, made=made))
    return found


def index_markdown(
    found: Sequence[Entry], others: Sequence[tuple[str, Sequence[str]]], records: Records, note: str
) -> str:
    """Links to the artefacts, then to `others` (a title and its files), then what is lacking."""
    blocks = [note, "# Tables and figures"]
    links = [Markup(f"{title}: {_links(files)}") for title, files in others if files]
    blocks.append(bullets(links))
    made = [entry for entry in found if entry.made.files]
    if made:
        blocks += ["## The CAT paper (arXiv 2002.06789)", bullets([_line(e) for e in made])]
    known = speeds(records)
    lacking = [line for entry in found for line in _lacking(entry, known)]
    if lacking:
        blocks += ["## Not there for lack of records", bullets(lacking)]
    return "\n\n".join(blocks) + "\n"


def _line(entry: Entry) -> str:
    assert entry.chosen is not None
    links, remark = _links(sorted(entry.made.files)), entry.made.remark
    said = [plain(text) for text in (entry.chosen.caption, remark) if text]
    return Markup(" ".join([f"{entry.artefact.title}: {links}.", *said]))


def _links(files: Iterable[str]) -> str:
    return ", ".join(f"[{plain(name)}]({name})" for name in files)


def _lacking(entry: Entry, known: Speeds) -> list[str]:
    name, missing = entry.artefact.name, entry.missing
    if not entry.made.files:
        took = duration_text(missing, known)
        return [f"{name} ({entry.artefact.title}): `{missing.command}`, {took}"]
    if not entry.made.lacks:
        return []
    shown = "; ".join(entry.made.lacks[:MAX_LACKS])
    more = len(entry.made.lacks) - MAX_LACKS
    shown += f"; and {more} more" if more > 0 else ""
    took = f", {duration_text(missing, known)}" if missing.cells else ""
    return [f"{name} lacks {shown}: `{missing.command}`{took}"]
