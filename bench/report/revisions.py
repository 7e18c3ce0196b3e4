"""Whether the rows of a table were made by the same code, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.provenance import UNKNOWN, canonical
from bench.records import EvaluationRecord, RunRecord
from bench.report.formatting import listed
from bench.report.rows import Section

UNRECORDED = "The revision of the code was not recorded."
_CAVEAT = "differences between these rows may come from the code"
_SHOWN = 7
"""Digits of a git revision, and of a hash, that are shown."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """What made a training or an outcome."""

    sha256: str
    """One for all hashes that are declared equal; UNKNOWN where the record has none."""
    version: str = ""
    revision: str = ""
    clean: bool | None = None

    @property
    def text(self) -> str:
        """`revision 1a2b3c4 with uncommitted changes`; of an installed package its version."""
        if self.sha256 == UNKNOWN:
            return UNKNOWN
        if not self.revision:
            return f"version {self.version or UNKNOWN} without a revision"
        changed = " with uncommitted changes" if self.clean is False else ""
        return f"revision {self.revision[:_SHOWN]}{changed}"


@dataclass(frozen=True, kw_only=True)
class MadeBy:
    """A part of a row, such as one seed, that one piece of code made."""

    row: str
    name: str
    """Of the part, where the row's parts differ: `madry, seed 1`."""
    code: Code


def section_code(section: Section, last: bool = True) -> list[str]:
    """Return which code made a table's trainings and evaluations; `last`: has last checkpoints."""
    wanted = {id(section.frame.records[position]) for position in section.positions(last=last)}
    rows = [(group.label, group.runs) for group in section.groups]
    return code_facts(rows, lambda evaluation: id(evaluation) in wanted)


def code_facts(
    rows: Iterable[tuple[str, Sequence[RunRecord]]],
    wanted: Callable[[EvaluationRecord], bool] | None = None,
) -> list[str]:
    """Sentences on which code trained the rows' networks and attacked them.

    rows: label and runs of each. wanted: which evaluations are in the table; None: no table of
    evaluations. Empty without a training and without an evaluation.
    """
    found = [
        (label, [r for r in runs if r.evaluations or r.status == "done"]) for label, runs in rows
    ]
    trained = [part for label, runs in found for part in _trainings(label, runs)]
    attacked = [part for label, runs in found for part in _evaluations(label, runs, wanted)]
    told = {verb: parts for verb, parts in (("Trained", trained), ("Attacked", attacked)) if parts}
    alike = {_one(parts) for parts in told.values()}
    if len(alike) == 1 and None not in alike:
        (one,) = alike
        lines = [UNRECORDED if one == UNKNOWN else f"Made by {one}."]
    else:
        lines = [_sentence(verb, parts) for verb, parts in told.items()]
    return lines + [line for label, runs in found for line in _method_files(label, runs)]


def _trainings(label: str, runs: Sequence[RunRecord]) -> Iterator[MadeBy]:
    for run in runs:
        if run.kind != "model":
            code = _code(run.provenance.get("code"), "training_sha256")
            yield MadeBy(row=label, name=f"{label}, seed {run.seed}", code=code)


def _evaluations(
    label: str, runs: Sequence[RunRecord], wanted: Callable[[EvaluationRecord], bool] | None
) -> Iterator[MadeBy]:
    for evaluation in (e for run in runs for e in run.evaluations if wanted and wanted(e)):
        name = f"{label}, {evaluation.spec.attack}"
        codes = (_code(c.info.get("code"), "evaluation_sha256") for c in evaluation.chunks)
        yield from (MadeBy(row=label, name=name, code=code) for code in dict.fromkeys(codes))


def _code(recorded: Any, key: str) -> Code:
    """UNKNOWN for a record from before code was recorded."""
    values = recorded if isinstance(recorded, Mapping) else {}
    sha256 = str(values.get(key) or UNKNOWN)
    if sha256 == UNKNOWN:
        return Code(sha256=UNKNOWN)
    return Code(
        sha256=canonical(sha256),
        version=str(values.get("version") or ""),
        revision=str(values.get("revision") or ""),
        clean=values.get("clean"),
    )


def _one(parts: Sequence[MadeBy]) -> str | None:
    """`version 0.1.0 of the code, revision 1a2b3c4`; None where the code is not the same."""
    codes = list(dict.fromkeys(part.code for part in parts))
    if len({code.sha256 for code in codes}) > 1:
        return None
    if codes[0].sha256 == UNKNOWN:
        return UNKNOWN
    versions = sorted({code.version for code in codes if code.version and code.revision})
    version = f"version {listed(versions)} of the code, " if versions else ""
    return version + _names(codes)


def _names(codes: Sequence[Code]) -> str:
    """Several revisions may hold the same code."""
    names = list(dict.fromkeys(code.text for code in codes))
    return listed(names) + " (no difference that matters here)" * (len(names) > 1)


def _sentence(verb: str, parts: Sequence[MadeBy]) -> str:
    one = _one(parts)
    if one == UNKNOWN:
        return f"{verb} by code whose revision was not recorded."
    if one:
        return f"{verb} by {one}."
    return f"{verb} by different versions of the code: {', '.join(_holders(parts))}; {_CAVEAT}."


def _holders(parts: Sequence[MadeBy]) -> Iterator[str]:
    """`revision 1a2b3c4 (madry, trades)` for each code."""
    by_code: dict[str, list[MadeBy]] = {}
    for part in parts:
        by_code.setdefault(part.code.sha256, []).append(part)
    names = {sha: _names(list(dict.fromkeys(p.code for p in own))) for sha, own in by_code.items()}
    for sha, own in by_code.items():
        same = list(names.values()).count(names[sha]) > 1
        name = f"{names[sha]}, code {sha[:_SHOWN]}" if same else names[sha]
        yield f"{name} ({', '.join(dict.fromkeys(_shown(part, parts) for part in own))})"


def _shown(part: MadeBy, parts: Sequence[MadeBy]) -> str:
    """The row's label where all of the row is of the same code."""
    whole = {other.code.sha256 for other in parts if other.row == part.row}
    return part.row if len(whole) == 1 else part.name


def _method_files(label: str, runs: Sequence[RunRecord]) -> Iterator[str]:
    """Where the seeds of a row are of different versions of the method's own file."""
    parts = [
        MadeBy(row=label, name=f"seed {run.seed}", code=code)
        for run in runs
        if (code := _code(run.provenance.get("code"), "method_sha256")).sha256 != UNKNOWN
    ]
    if len({part.code.sha256 for part in parts}) > 1:
        held = ", ".join(_holders(parts))
        yield f"The seeds of {label} were trained by different versions of its method: {held}."
