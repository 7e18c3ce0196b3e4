"""The lines under a table: what its numbers cannot say, and what does not fit a cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.errors import RecordError
from bench.records import EvaluationRecord, Records
from bench.report.aggregate import SPLIT, Section, in_table
from bench.report.curves import Curve
from bench.report.groups import Group, same_eps, short, shown, training_values, varying
from bench.report.layout import FULL, LOWEST, ROBUST, counted, full_labels, usual_lowest
from bench.report.published import CAVEAT, SOURCE, TABLE_3
from bench.report.revisions import section_code
from bench.report.units import MISSING, eps_text
from bench.report.verdict import listed
from bench.spec import PRECISIONS

FP32 = PRECISIONS[0]


def require(records: Records, results: str | Path) -> None:
    """Raise RecordError where `results` holds no record."""
    if len(records):
        return
    found = f" but {len(records.damaged)} damaged files" if records.damaged else ""
    raise RecordError(
        f"no records in {results}{found}: make some with `bench run`, or name another folder "
        "with --results"
    )


def facts(section: Section) -> list[str]:
    """Sentences that hold for the whole table."""
    lines = [*images(section), *attacks(section)]
    methods = {group.method for group in section.groups}
    if absent := [name for name in TABLE_3 if name not in methods]:
        lines.append(f"In the paper's table, without a run here: {', '.join(absent)}.")
    if methods & set(TABLE_3):
        lines.append(f"Paper: {SOURCE}. {CAVEAT}")
    lines += _precision(section) + _unequal(section) + _mixed_data(section)
    return lines + section_code(section)


def images(section: Section) -> list[str]:
    """Which images the numbers of a row are of."""
    if not section.worst_over:
        return []
    other = any(row.clean and not np.array_equal(row.index, section.index) for row in section.rows)
    n = len(section.index)
    text = (
        "Images: all numbers of a row are of the same images, those evaluated under "
        f"{listed(section.worst_over)}: {n} images, the same in every row"
        f"{f' whose n is {n}' if other else ''}."
    )
    if full_labels(section):
        text += f" Columns marked {FULL}, below, are of every evaluated image."
    return [text]


def attacks(section: Section, last: bool = True) -> list[str]:
    """Which attacks the two columns join that are over several; `last`: has last checkpoints."""
    lines = []
    if section.worst_over:
        lines.append(
            f"{ROBUST}: images that survive {listed(section.worst_over)}, the same attacks in "
            f"every row; {MISSING} where a row lacks one of them."
        )
    if usual := usual_lowest(section):
        rows = [row for row in section.rows if last or row.checkpoint != "last"]
        noted = any(row.lowest and row.lowest_over != usual for row in rows)
        lines.append(
            f"{LOWEST}: images that survive every attack that was run on them at this eps: "
            f"{counted(usual)}{' unless a note says otherwise' * noted}."
        )
    return lines


def _precision(section: Section) -> list[str]:
    """What all trainings of the table have in common; not the default."""
    trained = [group for group in section.groups if not group.outside]
    found = {str(training_values(group).get("precision", FP32)) for group in trained}
    if len(found) != 1 or found == {FP32}:
        return []
    return [f"Trained in {found.pop()}; attacks are judged in {FP32}."]


def _unequal(section: Section) -> list[str]:
    """Where the trainings of one table differ in more than their method."""
    trained = [group for group in section.groups if not group.outside]
    lines = []
    for name in varying(trained):
        if name.startswith("params.") or name == "method_sha256":
            continue
        holders: dict[str, list[str]] = {}
        for group in trained:
            value = shown(training_values(group).get(name))
            holders.setdefault(value, []).append(group.label)
        parts = [f"{value} ({', '.join(labels)})" for value, labels in holders.items()]
        lines.append(f"Trained differently: {short(name)} = {'; '.join(parts)}.")
    return lines


def _mixed_data(section: Section) -> list[str]:
    """Runs whose evaluations of equally many images of a split were not of the same images."""
    lines = []
    for group in section.groups:
        for run in group.runs:
            asked = {(e.spec.split, e.spec.n_examples, e.spec.data_sha256) for e in run.evaluations}
            if len({(split, n) for split, n, _ in asked}) < len(asked):
                lines.append(
                    f"Do not trust {group.label} (run {run.run_id}): its evaluations are of "
                    "different data, so images were joined that are not the same."
                )
    return lines


def provenance(section: Section) -> list[str]:
    """Each row's paper, the parameters of its training, and its run ids."""
    return [_provenance(group) for group in section.groups]


def _provenance(group: Group) -> str:
    run = group.runs[0]
    name = str(run.card.get("title") or "")
    title = name if name.lower() != group.method.lower() else ""
    source = ", ".join(part for part in (title, str(run.card.get("paper") or "")) if part)
    params = ", ".join(f"{k} = {shown(v)}" for k, v in run.spec.get("params", {}).items())
    ids = ", ".join(f"`{run.run_id}`" for run in group.runs)
    return f"{group.label}: {'; '.join(part for part in (source, params, ids) if part)}"


def warnings(section: Section) -> list[str]:
    """Every warning of a training or an evaluation, with its place."""
    lines = []
    for group in section.groups:
        for run in group.runs:
            seed = "" if group.outside else f", seed {run.seed}"
            for text in (run.train or {}).get("warnings") or ():
                lines.append(f"{group.label}{seed}, training: {text}")
            for e in run.evaluations:
                where = f"{e.spec.checkpoint}, {e.spec.attack}{_beside(e, section)}"
                lines += [f"{group.label}{seed}, {where}: {text}" for text in e.warnings]
    return list(dict.fromkeys(lines))


def _beside(evaluation: EvaluationRecord, section: Section) -> str:
    """What sets an evaluation apart from those of the table."""
    spec = evaluation.spec
    eps = "" if same_eps(spec.eps, section.setting.eps) else f" at eps {eps_text(spec.eps)}"
    return eps + ("" if spec.split == SPLIT else f" on {spec.split}")


def left_out(sections: Sequence[Section], figures: Sequence[Sequence[Curve]]) -> list[str]:
    """Evaluations on record that no table and no figure uses, counted by kind.

    `figures` holds the curves of each section.
    """
    counts: Counter[str] = Counter()
    for section, figure in zip(sections, figures, strict=True):
        drawn = {(curve.label, curve.attack, curve.checkpoint) for curve in figure}
        for group in section.groups:
            for evaluation in (e for run in group.runs for e in run.evaluations):
                spec = evaluation.spec
                in_figure = (group.label, spec.attack, spec.checkpoint) in drawn
                elsewhere = spec.split != SPLIT or spec.norm != section.setting.norm
                if elsewhere or not (in_table(evaluation, section.setting) or in_figure):
                    where = f"{spec.checkpoint}, {spec.split} split, {spec.norm}"
                    counts[f"{spec.attack} at eps {eps_text(spec.eps)} ({where})"] += 1
    return [f"{kind}: {n} evaluation{'s' if n > 1 else ''}" for kind, n in sorted(counts.items())]


def damage(records: Records) -> list[str]:
    """Damaged files and what is wrong with them; paths from the results folder on."""
    lines = []
    for item in records.damaged:
        parts = item.path.parts
        depth = 4 if parts[-3:-2] == ("evaluations",) else 2
        root = str(item.path.parents[depth - 1])
        path, reason = (text.replace(f"{root}/", "") for text in (str(item.path), item.reason))
        lines.append(reason if reason.startswith(path) else f"{path}: {reason}")
    return sorted(lines)
