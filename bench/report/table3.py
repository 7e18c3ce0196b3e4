"""Table 3: clean and robust accuracy of every method of a setting, its notes and its .csv."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from bench.errors import RecordError
from bench.records import Records
from bench.records.spec import PRECISIONS
from bench.report import columns
from bench.report.accuracy import AccuracyEstimate
from bench.report.accuracy_vs_eps import Curve
from bench.report.columns import LOWEST, WORST, percent_or_missing, remarks
from bench.report.cost import costs
from bench.report.export import Bold, Table, markdown, render
from bench.report.formatting import (
    ALARM,
    MISSING,
    counted,
    eps_text,
    listed,
    percent,
    span,
)
from bench.report.frame import same_eps
from bench.report.groups import Group, short, shown, training_values, varying
from bench.report.published import REFERENCE, published_papers, shown_name
from bench.report.revisions import section_code
from bench.report.rows import MASKING_GAP, SPLIT, Section, TableRow, sections, status
from bench.report.tables.pairwise import leaders
from bench.report.titles import CLEAN, CORE, CW, PGD, TITLES, attack_title

FP32 = PRECISIONS[0]
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


def shown_rows(section: Section) -> list[TableRow]:
    """Return a row per method with a number, the highest worst case first.

    Of the best checkpoint, or of the last one where only that was evaluated.
    """
    rows: dict[str, TableRow] = {}
    for row in section.rows:  # best before last
        if row.seeds:
            rows.setdefault(row.group.label, row)
    return sorted(rows.values(), key=lambda row: -row.worst.value if row.worst else 1.0)


def row_title(row: TableRow) -> str:
    """Return the method's name; with the checkpoint where it is not the best one."""
    return f"{row.group.title} (last)" if row.checkpoint == "last" else row.group.title


def main_table(section: Section, bold: Collection[str] = (), *, narrow: bool = False) -> Table:
    """Return Table 3: a row per method, as wide as a page, or as one column of it.

    bold: labels of the methods whose worst case is in bold.
    """
    own = [c for c in columns.COLUMNS if c.title and (c.narrow or not narrow)]
    lines = []
    for row in shown_rows(section):
        cells = {column.title: column.cell(row, section) for column in own}
        if row.group.label in bold:
            cells[WORST] = Bold(cells[WORST])
        lines.append({"Method": row_title(row)} | cells)
    return _table(lines, ["Method", *(column.title for column in own)])


def last_table(section: Section) -> Table | None:
    """Return best next to last checkpoints, under what both have; None without last ones."""
    pairs: dict[str, dict[str, TableRow]] = {}
    for row in section.rows:
        if row.seeds:
            pairs.setdefault(row.group.label, {})[row.checkpoint] = row
    both = [row for row in shown_rows(section) if {"best", "last"} <= {*pairs[row.group.label]}]
    found = {
        label: {
            row.group.label: [_accuracy(pairs[row.group.label][c], label) for c in ("best", "last")]
            for row in both
        }
        for label in (CLEAN, *CORE)
    }
    names = [label for label, own in found.items() if any(last for _, last in own.values())]
    lines = [
        {"Method": row.group.title}
        | {
            f"{TITLES[label]}, {end}": _percent(estimate)
            for label in names
            for end, estimate in zip(("best", "last"), found[label][row.group.label], strict=True)
        }
        for row in both
    ]
    return _table(lines) if names else None


def _accuracy(row: TableRow, label: str) -> AccuracyEstimate | None:
    return row.clean if label == CLEAN else row.attacks.get(label)


def other_table(section: Section) -> Table | None:
    """Return the lowest seen, the attacks without a column in Table 3, and what has more images.

    The attacks on every evaluated image. None where there is none.
    """
    own = [column for column in columns.attack_columns(section) if column.title]
    if not own:
        return None
    own += columns.transferred_columns(section)
    rows = shown_rows(section)
    lines = [{"Method": row_title(row), LOWEST: _percent(row.lowest)} for row in rows]
    for column in own:
        values = [column.value(row, section) for row in rows]
        sizes = [n for value in values if value for n in value.n]
        usual = {len(section.index)} == set(sizes)
        heading = column.title if usual or not sizes else f"{column.title} (n = {span(sizes)})"
        for line, value in zip(lines, values, strict=True):
            line[heading] = _percent(value)
    return _table(lines)


def stated_table(section: Section) -> Table | None:
    """Return what papers state for the same data set and network; None without such a paper."""
    setting = section.setting
    lines = [
        {"Method": shown_name(method)}
        | {
            TITLES[label]: percent_or_missing(value, 2)
            for label, value in zip((CLEAN, PGD, CW), row.values, strict=True)
        }
        | {"Source": table.source}
        for table in published_papers()
        if (table.dataset, table.arch) == (setting.dataset, setting.arch)
        for method, row in table.table3.items()
    ]
    return _table(lines) if lines else None


def stated_facts() -> list[str]:
    """Return what to know before comparing with a paper's values."""
    return [
        text
        for table in published_papers()
        for text in (
            *filter(None, [table.caveat]),
            *(f"{shown_name(m)}: {note}" for m, row in table.table3.items() for note in row.notes),
        )
    ]


def _percent(estimate: AccuracyEstimate | None) -> str:
    return MISSING if estimate is None else percent(estimate.value)


def _table(lines: Sequence[dict[str, str]], heads: list[str] | None = None) -> Table:
    return Table(text=pd.DataFrame(lines, columns=heads, dtype=object))


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
        found |= column.csv_cells(row, section)
    return found


def reading(section: Section, bold: Collection[str] = (), *, narrow: bool = False) -> list[str]:
    """Return what the numbers of the table are."""
    rows = shown_rows(section)
    lines = [f"Percent of test images. {_sample(section, rows)}"]
    if section.worst_over:
        attacks = listed([attack_title(label) for label in section.worst_over])
        lines.append(f"{WORST}: correct under each of {attacks}.")
    if bold:
        lines.append("Bold: the most robust, and those not significantly below it.")
    if not narrow:
        lines.append(f"Cost: passes of the training relative to {shown_name(REFERENCE)}.")
    if any(ALARM in row.group.label for row in rows):
        lines.append(f"{ALARM.strip()}: a check for masked gradients raises an alarm.")
    return lines


def _sample(section: Section, rows: Sequence[TableRow]) -> str:
    """Return how many seeds and images the rows have, and what their intervals are."""
    seeds = [row.n_seeds for row in rows if not row.group.outside]
    n = f"{len(section.index)} images"
    parts = []
    if max(seeds, default=0) > 1:
        several = span([count for count in seeds if count > 1])
        parts.append(f"Mean \u00b1 sample standard deviation over {several} seeds; {n}.")
    if min(seeds, default=1) == 1:
        parts.append(f"[a, b]: Wilson's 95% interval over {n}, for one network.")
    return " ".join(parts)


def facts(section: Section) -> list[str]:
    """Return what is to be known of the table's rows, and of how they were made."""
    rows = shown_rows(section)
    lines = [*single_seeds([section]), *_unlike(section, rows), *_suspicious(rows)]
    lines += [
        f"The evaluator warns of {row_title(row)}: {_said(row)}." for row in rows if row.warnings
    ]
    lines += [*absent(section), *_precision(section), *_unequal(section), *_mixed_data(section)]
    return lines + section_code(section)


def absent(section: Section) -> list[str]:
    """Return which trainings have no number in the table, and why."""
    found = [
        f"{group.title}{', ' if len(group.runs) > 1 else ': '}{text}"
        for group in section.groups
        for text in states(group)
    ]
    return [f"Not in the table: {'; '.join(found)}."] if found else []


def unlike_papers(section: Section) -> list[str]:
    """Return how the setting differs from those of papers whose values it may be taken for."""
    setting, lines = section.setting, []
    place = setting.dataset, setting.arch, setting.eps
    for table in published_papers():
        specs = [g.runs[0].spec["recipe"] for g in section.groups if g.method in table.table3]
        found = (table.differences(*place, "", recipe) for recipe in specs)
        if table.table3 and (unlike := list(dict.fromkeys(w for own in found for w in own))):
            lines.append(
                f"Not the setting of {table.source} ({table.origin}): another "
                f"{listed(unlike)}. Do not compare with its values."
            )
    return lines


def short_table(parts: Sequence[Section]) -> tuple[Section, Table, list[str]]:
    """Return the setting with most methods, its Table 3, and what its numbers are."""
    section = max(parts, key=lambda part: len(shown_rows(part)))
    bold = leaders(section)
    return section, main_table(section, bold), reading(section, bold)


def _unlike(section: Section, rows: Sequence[TableRow]) -> Iterator[str]:
    """Yield which rows have other images or fewer seeds than the table says."""
    for row in rows:
        own = []
        if len(row.index) != len(section.index):
            own.append(f"{len(row.index)} images")
        if row.n_seeds < len(row.group.runs):
            own.append(f"{row.n_seeds} of {len(row.group.runs)} seeds")
        cells = {attack_title(label): cell for label, cell in row.whole.items()}
        cells |= {WORST: row.worst} if row.worst else {}
        own += [
            f"{name} {', '.join(found)}"
            for name, cell in cells.items()
            if (found := remarks(cell, row.n_seeds, cell.n))
        ]
        if own:
            yield f"{row_title(row)}: {'; '.join(own)}."


def _suspicious(rows: Sequence[TableRow]) -> list[str]:
    named = [
        f"{row_title(row)} ({percent(row.gap.value)})" for row in rows if row.suspicious and row.gap
    ]
    if not named:
        return []
    return [
        f"PGD-20 is more than {percent(MASKING_GAP, 0)} points above AutoAttack for "
        f"{listed(named)}: do not read PGD-20 alone."
    ]


def _said(row: TableRow) -> str:
    more = len(row.warnings) - 1
    return row.warnings[0] + (f"; and {more} more, listed below" if more else "")


def states(group: Group) -> list[str]:
    """Return what kept each run from its end, where something did; of several with their seeds."""
    several = len(group.runs) > 1
    found = ((run.seed, status(run)) for run in group.runs)
    return [f"seed {seed}: {text}" if several else text for seed, text in found if text]


def single_seeds(parts: Iterable[Section]) -> list[str]:
    """Return a warning where methods of a table of several have one seed."""
    n_seeds = [n for part in parts if len(part.n_seeds) > 1 for n in part.n_seeds]
    if 1 not in n_seeds:
        return []
    have = f"{n_seeds.count(1)} of {len(n_seeds)} rows here have only one"
    return [f"One seed does not rank methods, and {have}."]


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
            holders.setdefault(value, []).append(group.title)
        parts = [f"{value} ({', '.join(labels)})" for value, labels in holders.items()]
        yield f"Trained differently: {short(name)} = {'; '.join(parts)}."


def _mixed_data(section: Section) -> Iterator[str]:
    """Yield runs whose evaluations of equally many images of a split are not on the same ones."""
    for group in section.groups:
        for run in group.runs:
            data = {(e.spec.split, e.spec.n_examples, e.spec.data_sha256) for e in run.evaluations}
            if len({(split, n) for split, n, _ in data}) < len(data):
                yield (
                    f"Do not trust {group.title} (run {run.run_id}): its evaluations are on "
                    "different data, so images were joined that are not the same."
                )


def provenance(group: Group) -> str:
    """Return the name and paper of a method, the parameters of its training, and its run ids."""
    run = group.runs[0]
    known = [run.method if run.method.lower() != group.title.lower() else "", run.card.get("paper")]
    source = ", ".join(str(text) for text in known if text and not group.outside)
    params = ", ".join(f"{k} = {shown(v)}" for k, v in run.spec.get("params", {}).items())
    ids = ", ".join(f"`{run.run_id}`" for run in group.runs)
    return f"{group.title}: {'; '.join(part for part in (source, params, ids) if part)}"


def warnings(section: Section) -> list[str]:
    """Return every warning of a training or an evaluation, with its place."""
    lines = []
    for group in section.groups:
        for run in group.runs:
            who = f"{group.title}{'' if group.outside else f', seed {run.seed}'}"
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
    """Return Table 3 for README: a table and a paragraph per setting.

    results: the folder that the paragraph names.
    """
    return "\n\n".join(_brief(section, results) for section in sections(records))


def _brief(section: Section, results: str) -> str:
    runs = [run for group in section.groups for run in group.runs]
    # without the folders of the machine that ran them
    commands = dict.fromkeys(
        re.sub(_ABSOLUTE, "", str(run.provenance.get("command") or "bench run")) for run in runs
    )
    bold = leaders(section)
    return render(
        "brief.md.j2",
        table=markdown(main_table(section, bold)),
        facts=[
            *reading(section, bold),
            *single_seeds([section]),
            *_unlike(section, shown_rows(section)),
            *_suspicious(shown_rows(section)),
            *absent(section),
        ],
        title=section.setting.title,
        seeds=", ".join(str(s) for s in sorted({r.seed for r in runs if r.seed is not None})),
        machines="; ".join(sorted(costs(section)["machine"].dropna().unique())) or "not on record",
        results=results,
        commands=", ".join(f"`{command}`" for command in commands),
        code=section_code(section, last=False),
    ).rstrip()
