"""Table 3: clean and robust accuracy of every method of a setting, its notes and its .csv."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from bench.errors import RecordError
from bench.records import Records
from bench.records.spec import PRECISIONS
from bench.report import columns
from bench.report.accuracy_vs_eps import Curve
from bench.report.columns import (
    FULL,
    LOWEST,
    ROBUST,
    Column,
    accuracy_text,
    counted_attacks,
    full_labels,
    states,
)
from bench.report.cost import costs
from bench.report.export import Bold, Notes, Table, markdown, render
from bench.report.formatting import MISSING, counted, eps_both, eps_text, listed
from bench.report.frame import same_eps
from bench.report.groups import Group, Setting, short, shown, training_values, varying
from bench.report.published import REFERENCE, published_papers
from bench.report.revisions import section_code
from bench.report.rows import SPLIT, Section, TableRow, sections

LEGEND = (
    "Percent of the first n test images. [a, b]: 95% interval over the images, of one network "
    "(Wilson's; for the difference the exact McNemar test's). \u00b1: sample standard "
    "deviation over the seeds, each a training, next to their mean; it leaves out which images "
    "were drawn. All numbers of a row are on the same images. (full n): on every evaluated image. "
    "best: the epoch with the highest robust accuracy on the validation split (clean accuracy, for "
    "a method without an adversary); last: the final epoch. A transferred attack is also scored on "
    "all images, with those that are misclassified without an attack and may be correct under it. "
    f"Cost: forward and backward passes of the training. {MISSING}: not on record."
)
FP32 = PRECISIONS[0]
SHOWN_WARNINGS = 3
"""Warnings that a row's note quotes."""
_ABSOLUTE = r"(?:^|(?<=[\s:=,]))/(?:[^\s,]*/)?"
"""The folders before the name at the end of an absolute path."""


def require(records: Records, results: str | Path) -> None:
    """Raise RecordError where `results` holds no record."""
    if len(records):
        return
    found = f" but {len(records.damaged)} damaged files" if records.damaged else ""
    raise RecordError(
        f"no records in {results}{found}: make some with `bench run`, or name another folder "
        "with --results"
    )


def title(setting: Setting) -> str:
    """Return `digits, cnn, recipe common, eps 8/255 (0.0314)`."""
    parts = [setting.dataset, setting.arch or "models from outside"]
    parts += [f"recipe {setting.recipe}"] if setting.recipe else []
    parts += [f"eps {eps_both(setting.eps)}"] if setting.eps >= 0 else []
    return ", ".join(parts)


def main_table(section: Section, *, brief: bool = False) -> Table:
    """Return Table 3: a row per method and checkpoint.

    brief: only the columns that are `brief`, without last checkpoints.
    """
    own = [*columns.COLUMNS, *columns.paper_columns(section)]
    own = [c for c in own if c.title and (c.brief or not brief)]
    notes, previous, lines = Notes(), None, []
    for row in section.rows:
        if brief and row.checkpoint == "last":
            continue
        first, previous = row.group is not previous, row.group
        between = ", " if len(row.group.runs) > 1 else ": "
        ends = [f"{row.group.label}{between}{text}." for text in states(row.group) if first]
        marks = notes.mark(*ends, *_doubts(row))
        name = f"{row.group.label if first else ''}{marks}".strip()
        checkpoint = MISSING if row.group.outside or not row.evaluated else row.checkpoint
        cells = [_cell(column, row, section, notes, first) for column in own]
        lines.append([name, checkpoint, *cells])
    heads = ["Method", "Checkpoint", *(column.title for column in own)]
    text = pd.DataFrame(lines, columns=heads, dtype=object)
    if brief:
        del text["Checkpoint"]
    return Table(text=text, notes=tuple(notes.texts), n_left=2 - brief)


def other_table(section: Section) -> Table | None:
    """Return the attacks without a column in Table 3, and what has more images than its rows.

    All on every evaluated image. None where there is nothing of either kind.
    """
    own = [column for column in columns.attack_columns(section) if column.title]
    if not own:
        return None
    own += columns.transferred_columns(section)
    lines = [
        [
            row.group.label,
            MISSING if row.group.outside else row.checkpoint,
            *(accuracy_text(column.value(row, section), row.n_seeds) for column in own),
        ]
        for row in section.rows
        if row.evaluated
    ]
    heads = ["Method", "Checkpoint", *(column.title for column in own)]
    return Table(text=pd.DataFrame(lines, columns=heads, dtype=object), n_left=2)


def table3_csv(parts: Sequence[Section]) -> pd.DataFrame:
    """Return a row for each row of every table; fractions, limits and counts."""
    rows = [_csv_row(row, section) for section in parts for row in section.rows]
    return pd.DataFrame(rows, dtype=object).fillna("")


def _csv_row(row: TableRow, section: Section) -> dict[str, str]:
    found = section.setting.cells | {
        "method": "" if row.group.outside else row.group.method,
        "label": row.group.label,
        "checkpoint": row.checkpoint,
        "status": "; ".join(states(row.group)) or "done",
        "run_ids": " ".join(run.run_id for run in row.group.runs),
    }
    own = [*columns.COLUMNS, *columns.paper_columns(section), *columns.attack_columns(section)]
    for column in own:
        found |= column.csv_cells(row, section) if column.csv else {}
    return found


def _cell(column: Column, row: TableRow, section: Section, notes: Notes, first: bool) -> str:
    if column.once and not first:
        return ""
    if not row.evaluated and not column.once:
        return MISSING
    cell = column.cell(row, section)
    marked = f"{cell}{notes.mark(*column.notes(row, section))}"
    return Bold(marked) if isinstance(cell, Bold) else marked


def _doubts(row: TableRow) -> list[str]:
    """Return the note of a row that the evaluator warns of; the list below has all warnings."""
    more = len(row.warnings) - SHOWN_WARNINGS
    rest = f"; and {more} more, listed below" if more > 0 else ""
    said = "; ".join(row.warnings[:SHOWN_WARNINGS])
    return [f"The evaluator warns: {said}{rest}."] if said else []


def facts(section: Section) -> list[str]:
    """Return sentences that hold for the whole table."""
    lines = [*single_seeds([section]), *_images(section), *joined_attacks(section)]
    methods = {group.method for group in section.groups}
    for table in published_papers():
        absent = [name for name in table.table3 if name not in methods]
        if absent:
            lines.append(f"In the paper's table, without a run here: {', '.join(absent)}.")
        if methods & set(table.table3):
            lines.append(f"Paper: {table.source}. {table.caveat}")
    lines += [*_precision(section), *_unequal(section), *_mixed_data(section)]
    return lines + section_code(section)


def single_seeds(parts: Iterable[Section]) -> list[str]:
    """Return a warning where methods of a table of several have one seed."""
    n_seeds = [n for part in parts if len(part.n_seeds) > 1 for n in part.n_seeds]
    if 1 not in n_seeds:
        return []
    have = f"{n_seeds.count(1)} of {len(n_seeds)} rows here have only one"
    return [f"One seed does not rank methods, and {have}."]


def _images(section: Section) -> list[str]:
    if not section.worst_over:
        return []
    text = (
        "Images: all numbers of a row are on the same images, those evaluated under "
        f"{listed(section.worst_over)}: {len(section.index)} images in most rows."
    )
    if full_labels(section):
        text += f" Columns marked {FULL}, below, are on every evaluated image."
    return [text]


def joined_attacks(section: Section) -> list[str]:
    """Return which attacks the worst case and the lowest seen join."""
    lines = []
    if section.worst_over:
        lines.append(
            f"{ROBUST}: images that survive {listed(section.worst_over)}, the same attacks in "
            f"every row; {MISSING} where a row lacks one of them."
        )
    if section.usual_lowest:
        lines.append(
            f"{LOWEST}: images that survive every attack that was run on them at this eps: "
            f"{counted_attacks(section.usual_lowest)} unless a note says otherwise."
        )
    return lines


def _precision(section: Section) -> list[str]:
    """Return what precision all trainings of the table share, unless it is the default."""
    trained = [group for group in section.groups if not group.outside]
    found = {str(training_values(group).get("precision", FP32)) for group in trained}
    if len(found) != 1 or found == {FP32}:
        return []
    return [f"Trained in {found.pop()}; attacks are judged in {FP32}."]


def _unequal(section: Section) -> Iterator[str]:
    """Yield in what the trainings of one table differ besides their method."""
    trained = [group for group in section.groups if not group.outside]
    for name in varying(trained):
        if name.startswith("params.") or name == "method_sha256":
            continue
        holders: dict[str, list[str]] = {}
        for group in trained:
            value = shown(training_values(group).get(name))
            holders.setdefault(value, []).append(group.label)
        parts = [f"{value} ({', '.join(labels)})" for value, labels in holders.items()]
        yield f"Trained differently: {short(name)} = {'; '.join(parts)}."


def _mixed_data(section: Section) -> Iterator[str]:
    """Yield runs whose evaluations of equally many images of a split are not on the same ones."""
    for group in section.groups:
        for run in group.runs:
            data = {(e.spec.split, e.spec.n_examples, e.spec.data_sha256) for e in run.evaluations}
            if len({(split, n) for split, n, _ in data}) < len(data):
                yield (
                    f"Do not trust {group.label} (run {run.run_id}): its evaluations are on "
                    "different data, so images were joined that are not the same."
                )


def provenance(group: Group) -> str:
    """Return the paper of a method, the parameters of its training, and its run ids."""
    run = group.runs[0]
    name = str(run.card.get("title") or "")
    own = name if name.lower() != group.method.lower() else ""
    source = ", ".join(part for part in (own, str(run.card.get("paper") or "")) if part)
    params = ", ".join(f"{k} = {shown(v)}" for k, v in run.spec.get("params", {}).items())
    ids = ", ".join(f"`{run.run_id}`" for run in group.runs)
    return f"{group.label}: {'; '.join(part for part in (source, params, ids) if part)}"


def warnings(section: Section) -> list[str]:
    """Return every warning of a training or an evaluation, with its place."""
    lines = []
    for group in section.groups:
        for run in group.runs:
            who = f"{group.label}{'' if group.outside else f', seed {run.seed}'}"
            texts = (run.train or {}).get("warnings") or ()
            lines += [f"{who}, training: {text}" for text in texts]
            for e in run.evaluations:
                eps = e.spec.eps
                at = "" if same_eps(eps, section.setting.eps) else f" at eps {eps_text(eps)}"
                at += "" if e.spec.split == SPLIT else f" on {e.spec.split}"
                where = f"{e.spec.checkpoint}, {e.spec.attack}{at}"
                lines += [f"{who}, {where}: {text}" for text in e.warnings]
    return list(dict.fromkeys(lines))


def left_out(parts: Sequence[Section], figures: Sequence[Sequence[Curve]]) -> list[str]:
    """Return the evaluations that no table and no figure uses, counted by kind.

    figures: the curves of each section.
    """
    counts: Counter[str] = Counter()
    for section, curves in zip(parts, figures, strict=True):
        used = set(section.positions()) | {p for curve in curves for p in curve.positions}
        ids = [run.run_id for group in section.groups for run in group.runs]
        table = section.frame.evaluations
        for position in table.index[table["run_id"].isin(ids)].difference(list(used)):
            spec = section.frame.records[position].spec
            where = f"{spec.checkpoint}, {spec.split} split, {spec.norm}"
            counts[f"{spec.attack} at eps {eps_text(spec.eps)} ({where})"] += 1
    return [f"{kind}: {counted(n, 'evaluation')}" for kind, n in sorted(counts.items())]


def damage(records: Records) -> list[str]:
    """Return the damaged files and what is wrong with them; paths within the results folder."""
    lines = []
    for item in records.damaged:
        within = {"evaluations", "measures"}.intersection(item.path.parts[-3:-1])
        depth = item.path.parts[::-1].index(within.pop()) + 2 if within else 2
        root = f"{item.path.parents[depth - 1]}/"
        path, reason = (text.replace(root, "") for text in (str(item.path), item.reason))
        lines.append(reason if reason.startswith(path) else f"{path}: {reason}")
    return sorted(lines)


def brief(records: Records, results: str) -> str:
    """Return Table 3 in short for README: a table and a paragraph per setting.

    results: the folder that the paragraph names.
    """
    return "\n\n".join(_brief(section, results) for section in sections(records))


def _brief(section: Section, results: str) -> str:
    runs = [run for group in section.groups for run in group.runs]
    # without the folders of the machine that ran them
    commands = dict.fromkeys(
        re.sub(_ABSOLUTE, "", str(run.provenance.get("command") or "bench run")) for run in runs
    )
    return render(
        "brief.md.j2",
        table=markdown(main_table(section, brief=True)),
        facts=single_seeds([section]) + joined_attacks(section),
        reference=REFERENCE,
        title=title(section.setting),
        seeds=", ".join(str(s) for s in sorted({r.seed for r in runs if r.seed is not None})),
        machines="; ".join(sorted(costs(section)["machine"].dropna().unique())) or "not on record",
        results=results,
        commands=", ".join(f"`{command}`" for command in commands),
        code=section_code(section, last=False),
    ).rstrip()
