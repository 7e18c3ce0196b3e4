"""What each masking check found on each model."""

import math
from collections.abc import Sequence

import pandas as pd

from bench.report.columns import number
from bench.report.export import Bold, Table
from bench.report.formatting import MISSING
from bench.report.masking import N_CHECKS, NAMES, Finding
from bench.report.rows import Section, TableRow


def checked_rows(section: Section) -> list[TableRow]:
    return [row for row in section.rows if row.masking.findings]


def masking_table(rows: Sequence[TableRow]) -> Table:
    """Return a column per checkpoint, a row per check, and AutoAttack's own checks.

    An alarm is in bold; a value to be watched says so.
    """
    heads = [f"C{number} {name}" for number, name in enumerate(NAMES, 1)]
    columns = {"Check": [*heads, "AA AutoAttack's own", "n"]}
    for row in rows:
        found = row.masking.findings
        package = [f for f in found if not f.number]
        alarms = sum(f.alarm for f in package)
        own = f"{alarms} of {len(package)}" if package else MISSING
        images = sorted({f.n for f in found if f.number})
        columns[f"{row.group.label}, {row.checkpoint or MISSING}"] = [
            *(_worst([f for f in found if f.number == n]) for n in range(1, N_CHECKS + 1)),
            Bold(own) if alarms else own,
            ", ".join(map(str, images)) or MISSING,
        ]
    return Table(text=pd.DataFrame(columns, dtype=object), n_left=1)


def _worst(found: Sequence[Finding]) -> str:
    """Return the value of an alarm, if any, that is farthest above its threshold."""
    if not found:
        return MISSING
    worst = max(
        found, key=lambda f: (f.alarm, math.inf if f.value is None else f.value - f.threshold)
    )
    text = _value(worst)
    return Bold(text) if worst.alarm else f"{text} (watch)" if worst.state == "watch" else text


def _value(finding: Finding) -> str:
    return "not a number" if finding.value is None else f"{finding.value:.3g}"


def alarm_lines(rows: Sequence[TableRow], *, watched: bool = False) -> list[str]:
    """Return a line per alarm, or per value to be watched: the model, the check, its numbers."""
    return [
        f"{row.group.label}, {row.checkpoint}"
        f"{f', seed {f.seed}' if len(row.group.runs) > 1 else ''}: {f.name} {_value(f)}, "
        f"{_limit(f)}threshold {f.threshold:.3g} (n = {f.n}; {f.source})"
        for row in rows
        for f in (row.masking.watched if watched else row.masking.alarms)
    ]


def _limit(finding: Finding) -> str:
    if finding.limit is not None:
        return f"lower limit {finding.limit:.3g}, "
    return "lower limit unknown, " if finding.state == "watch" else ""


def masking_csv(parts: Sequence[Section]) -> pd.DataFrame:
    """Return a row per check of each run."""
    return pd.DataFrame(
        {
            **section.setting.cells,
            "label": row.group.label,
            "checkpoint": row.checkpoint,
            "seed": number(f.seed, "%d"),
            "check": f.code,
            "figure": f.name,
            "value": number(f.value),
            "threshold": number(f.threshold),
            "limit": number(f.limit),
            "state": f.state,
            "n": f.n,
            "source": f.source,
        }
        for section in parts
        for row in checked_rows(section)
        for f in row.masking.findings
    )
