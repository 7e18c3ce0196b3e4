"""masking.md and masking.csv: what each check found on each model, and how that is to be read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from bench.report.aggregate import Row, Section
from bench.report.layout import Line, Table, Text, title
from bench.report.markdown import bullets, markdown, plain
from bench.report.masking import N_CHECKS, Finding, Masking
from bench.report.units import ALARM, MISSING

MASKING_LINK = (
    f"{ALARM.strip()}: a check for masked gradients raises an alarm on the model; what it found is "
    "in [masking.md](masking.md)."
)
_LEGEND = (
    "The figure of each check, in bold where it is above its threshold; of several figures or "
    "seeds the one that is farthest above. What the checks compute, and where the thresholds come "
    "from, is in the documentation of the evaluation. An alarm says that an attack which should "
    "not matter did: read the robust accuracy of such a model as an upper bound that is probably "
    "not close. No alarm is necessary for a figure to be believed, not sufficient. AA: "
    f"AutoAttack's own checks, alarms of how many. {MISSING}: not made."
)
_HEAD = ("dataset", "arch", "recipe", "norm", "eps", "label", "checkpoint", "seed")
_COLUMNS = ("check", "figure", "value", "threshold", "alarm", "n", "source")


def masking_markdown(sections: Sequence[Section], note: str) -> str:
    """A table for each setting whose models were checked."""
    blocks = [note, "# Checks for masked gradients", _LEGEND]
    for section in sections:
        rows = [row for row in section.rows if row.masking.findings]
        if rows:
            blocks += [f"## {plain(title(section.setting))}", markdown(_table(rows))]
            if alarms := [line for row in rows for line in _alarms(row)]:
                blocks += ["Alarms:", bullets(alarms)]
    return "\n\n".join(blocks) + "\n"


def masking_csv(sections: Sequence[Section], note: str) -> str:
    """A comment line with `note`, the header, and a line for each check of each run."""
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow([*_HEAD, *_COLUMNS])
    for section in sections:
        rows.writerows(_csv_rows(section))
    return buffer.getvalue()


def _table(rows: Sequence[Row]) -> Table:
    numbers = range(1, N_CHECKS + 1)
    return Table(
        headings=("Method", "Checkpoint", *(f"C{n}" for n in numbers), "AA", "n"),
        lines=tuple(_line(row) for row in rows),
        notes=(),
    )


def _line(row: Row) -> Line:
    found = row.masking
    cells = [_cell(found, number) for number in range(1, N_CHECKS + 1)]
    package = [f for f in found.findings if not f.number]
    n_alarms = sum(f.alarm for f in package)
    own = Text(main=f"{n_alarms} of {len(package)}", strong=n_alarms > 0)
    images = {f.n for f in found.findings if f.number}
    return Line(
        head=(Text(main=row.group.label), Text(main=row.checkpoint or MISSING)),
        cells=(
            *cells,
            own if package else Text(main=MISSING),
            Text(main=", ".join(map(str, sorted(images))) or MISSING),
        ),
    )


def _cell(found: Masking, number: int) -> Text:
    own = [f for f in found.findings if f.number == number]
    if not own:
        return Text(main=MISSING)
    worst = max(own, key=_excess)
    return Text(main=_value(worst), strong=any(f.alarm for f in own))


def _excess(finding: Finding) -> float:
    return float("inf") if finding.value is None else finding.value - finding.threshold


def _value(finding: Finding) -> str:
    return "not a number" if finding.value is None else f"{finding.value:.3g}"


def _alarms(row: Row) -> list[str]:
    lines = []
    for finding in row.masking.alarms:
        seed = f", seed {finding.seed}" if len(row.group.runs) > 1 else ""
        lines.append(
            f"{row.group.label}, {row.checkpoint}{seed}: {finding.name} {_value(finding)}, "
            f"threshold {finding.threshold:.3g} (n = {finding.n}; {finding.source})"
        )
    return lines


def _csv_rows(section: Section) -> Iterator[list[object]]:
    setting = section.setting
    eps = f"{setting.eps:.9g}" if setting.eps >= 0 else ""
    for row in section.rows:
        for f in row.masking.findings:
            yield [
                *(setting.dataset, setting.arch, setting.recipe, setting.norm, eps),
                *(row.group.label, row.checkpoint, "" if f.seed is None else f.seed),
                *(f.code, f.name, "" if f.value is None else f"{f.value:.6g}"),
                *(f"{f.threshold:.6g}", int(f.alarm), f.n, f.source),
            ]
