"""Whether the rows of a table were made by the same code, in words."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bench.provenance import UNKNOWN, canonical
from bench.records import EvaluationRecord, RunRecord
from bench.report.formatting import listed
from bench.report.rows import Section

UNRECORDED = "The revision of the code was not recorded."
_SHOWN = 7
"""Digits of a git revision, and of a hash, that are shown."""


class MadeBy(NamedTuple):
    """A part of a row, such as one seed, and the code that made it."""

    row: str
    name: str
    """Of the part, where the row's parts differ: `madry, seed 1`."""
    sha256: str = UNKNOWN
    """One for all hashes that are declared equal."""
    version: str = ""
    code: str = UNKNOWN
    """`revision 1a2b3c4 with uncommitted changes`; of an installed package its version."""


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
    found = [
        (label, run)
        for label, runs in rows
        for run in runs
        if run.evaluations or run.status == "done"
    ]
    trained = [
        _made(label, f"seed {run.seed}", run.provenance, "training_sha256")
        for label, run in found
        if run.kind != "model"
    ]
    attacked = {
        _made(label, e.spec.attack, chunk.info, "evaluation_sha256"): None
        for label, run in found
        for e in run.evaluations
        if wanted and wanted(e)
        for chunk in e.chunks
    }
    told = {
        verb: parts for verb, parts in (("Trained", trained), ("Attacked", [*attacked])) if parts
    }
    alike = {_one(parts) for parts in told.values()}
    if len(alike) == 1 and None not in alike:
        (one,) = alike
        lines = [UNRECORDED if one == UNKNOWN else f"Made by {one}."]
    else:
        lines = [_sentence(verb, parts) for verb, parts in told.items()]
    lines += _arithmetic(
        (f"{label}, {e.spec.attack}", chunk.info)
        for label, run in found
        for e in run.evaluations
        if wanted and wanted(e) and e.spec.attack != "clean"
        for chunk in e.chunks
    )
    own_files: dict[str, list[MadeBy]] = {}
    for label, run in found:
        part = _made(label, "", run.provenance, "method_sha256")._replace(name=f"seed {run.seed}")
        own_files.setdefault(label, []).extend([part] if part.sha256 != UNKNOWN else [])
    return lines + [
        f"The seeds of {label} were trained by different versions of its method: {_holders(parts)}."
        for label, parts in own_files.items()
        if len({part.sha256 for part in parts}) > 1
    ]


def _arithmetic(searches: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return a sentence if only some attacks searched in TF32; names and infos of chunks."""
    names: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for name, info in searches:
        names[bool(info.get("tf32"))][name] = None
    if not all(names.values()):
        return []
    return [
        f"Attacks searched in TF32 on a GPU for {listed([*names[True]])}, and in exact fp32 for "
        f"{listed([*names[False]])}; every image was judged in exact fp32."
    ]


def _made(row: str, part: str, recorded: Any, key: str) -> MadeBy:
    """Return what a record says made a part; unknown for one from before code was recorded."""
    values, made = recorded.get("code"), MadeBy(row, f"{row}, {part}")
    if not isinstance(values, dict) or values.get(key, UNKNOWN) in ("", None, UNKNOWN):
        return made
    sha256 = canonical(str(values[key]))
    version, revision = (str(values.get(name) or "") for name in ("version", "revision"))
    if not revision:
        code = f"version {version or UNKNOWN} without a revision"
        return made._replace(sha256=sha256, code=code)
    changed = " with uncommitted changes" if values.get("clean") is False else ""
    code = f"revision {revision[:_SHOWN]}{changed}"
    return made._replace(sha256=sha256, version=version, code=code)


def _one(parts: Sequence[MadeBy]) -> str | None:
    """Return `version 0.1.0 of the code, revision 1a2b3c4`; None where the code differs."""
    hashes = {part.sha256 for part in parts}
    if len(hashes) > 1 or hashes == {UNKNOWN}:
        return None if len(hashes) > 1 else UNKNOWN
    versions = sorted({part.version for part in parts if part.version})
    return (f"version {listed(versions)} of the code, " if versions else "") + _names(parts)


def _names(parts: Iterable[MadeBy]) -> str:
    """Return the revisions, of which several may hold the same code."""
    names = list(dict.fromkeys(part.code for part in parts))
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
        by_code.setdefault(part.sha256, []).append(part)
        hashes.setdefault(part.row, set()).add(part.sha256)
    names = {sha: _names(own) for sha, own in by_code.items()}
    shown = []
    for sha, own in by_code.items():
        who = dict.fromkeys(part.name if len(hashes[part.row]) > 1 else part.row for part in own)
        same = list(names.values()).count(names[sha]) > 1
        code = f", code {sha[:_SHOWN]}" if same else ""
        shown.append(f"{names[sha]}{code} ({', '.join(who)})")
    return ", ".join(shown)
