"""Whether the rows of a table were made by the same code, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from bench.provenance import UNKNOWN, canonical
from bench.records import EvaluationRecord, RunRecord
from bench.report.formatting import listed
from bench.report.rows import Section

UNRECORDED = "The revision of the code was not recorded."
_SHOWN = 7
"""Digits of a git revision, and of a hash, that are shown."""


class Code(NamedTuple):
    """What made a training or an outcome."""

    sha256: str
    """One for all hashes that are declared equal; UNKNOWN where the record has none."""
    version: str = ""
    text: str = UNKNOWN
    """`revision 1a2b3c4 with uncommitted changes`; of an installed package its version."""


class MadeBy(NamedTuple):
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
    """Return sentences on which code trained the rows' networks and attacked them.

    rows: label and runs of each. wanted: which evaluations are in the table; None: no table of
    evaluations. Empty without a training and without an evaluation.
    """
    found = {
        label: [run for run in runs if run.evaluations or run.status == "done"]
        for label, runs in rows
    }
    trained = [
        MadeBy(label, f"{label}, seed {run.seed}", _code(run.provenance, "training_sha256"))
        for label, runs in found.items()
        for run in runs
        if run.kind != "model"
    ]
    attacked = [
        MadeBy(label, f"{label}, {evaluation.spec.attack}", code)
        for label, runs in found.items()
        for run in runs
        for evaluation in run.evaluations
        if wanted and wanted(evaluation)
        for code in dict.fromkeys(_code(c.info, "evaluation_sha256") for c in evaluation.chunks)
    ]
    told = {verb: parts for verb, parts in (("Trained", trained), ("Attacked", attacked)) if parts}
    alike = {_one(parts) for parts in told.values()}
    if len(alike) == 1 and None not in alike:
        (one,) = alike
        lines = [UNRECORDED if one == UNKNOWN else f"Made by {one}."]
    else:
        lines = [_sentence(verb, parts) for verb, parts in told.items()]
    return lines + [line for label, runs in found.items() for line in _method_files(label, runs)]


def _code(recorded: Any, key: str) -> Code:
    """Return what a record says made it; UNKNOWN for one from before code was recorded."""
    values = recorded.get("code")
    values = values if isinstance(values, dict) else {}
    sha256 = str(values.get(key) or UNKNOWN)
    if sha256 == UNKNOWN:
        return Code(UNKNOWN)
    version, revision = (str(values.get(name) or "") for name in ("version", "revision"))
    changed = " with uncommitted changes" if values.get("clean") is False else ""
    if not revision:
        return Code(canonical(sha256), "", f"version {version or UNKNOWN} without a revision")
    return Code(canonical(sha256), version, f"revision {revision[:_SHOWN]}{changed}")


def _one(parts: Sequence[MadeBy]) -> str | None:
    """Return `version 0.1.0 of the code, revision 1a2b3c4`; None where the code differs."""
    codes = list(dict.fromkeys(part.code for part in parts))
    if len({code.sha256 for code in codes}) > 1:
        return None
    if codes[0].sha256 == UNKNOWN:
        return UNKNOWN
    versions = sorted({code.version for code in codes if code.version})
    version = f"version {listed(versions)} of the code, " if versions else ""
    return version + _names(codes)


def _names(codes: Iterable[Code]) -> str:
    """Return the revisions, of which several may hold the same code."""
    names = list(dict.fromkeys(code.text for code in codes))
    return listed(names) + " (no difference that matters here)" * (len(names) > 1)


def _sentence(verb: str, parts: Sequence[MadeBy]) -> str:
    one = _one(parts)
    if one == UNKNOWN:
        return f"{verb} by code whose revision was not recorded."
    if one:
        return f"{verb} by {one}."
    return (
        f"{verb} by different versions of the code: {_holders(parts)}; differences between these "
        "rows may come from the code."
    )


def _holders(parts: Sequence[MadeBy]) -> str:
    """Return `revision 1a2b3c4 (madry, trades)` for each code; of a mixed row the parts."""
    by_code: dict[str, list[MadeBy]] = {}
    hashes: dict[str, set[str]] = {}
    for part in parts:
        by_code.setdefault(part.code.sha256, []).append(part)
        hashes.setdefault(part.row, set()).add(part.code.sha256)
    names = {sha: _names(part.code for part in own) for sha, own in by_code.items()}
    shown = []
    for sha, own in by_code.items():
        same = list(names.values()).count(names[sha]) > 1
        who = dict.fromkeys(part.row if len(hashes[part.row]) == 1 else part.name for part in own)
        code = f", code {sha[:_SHOWN]}" if same else ""
        shown.append(f"{names[sha]}{code} ({', '.join(who)})")
    return ", ".join(shown)


def _method_files(label: str, runs: Iterable[RunRecord]) -> Iterator[str]:
    """Yield where the seeds of a row are of different versions of the method's own file."""
    codes = [(run.seed, _code(run.provenance, "method_sha256")) for run in runs]
    parts = [MadeBy(label, f"seed {seed}", code) for seed, code in codes if code.sha256 != UNKNOWN]
    if len({part.code.sha256 for part in parts}) > 1:
        held = _holders(parts)
        yield f"The seeds of {label} were trained by different versions of its method: {held}."
