"""What each masking check found on each model."""

import math
from collections.abc import Sequence

import pandas as pd

from bench.report.columns import number
from bench.report.export import Bold, Table
from bench.report.formatting import MISSING
from bench.report.masking import KINDS, NAMES, Finding
from bench.report.rows import Section, TableRow
from bench.report.table3 import row_title

PASSED, ALARMED = "\u2713", "\u2717"


def checked_rows(section: Section) -> list[TableRow]:
    return [row for row in section.rows if row.masking.findings]


def masking_table(rows: Sequence[TableRow]) -> Table:
    """Return a row per check, by kind, and a column per checkpoint.

    A check that passes is a tick; of the others the value, in bold for an alarm.
    """
    findings = [row.masking.findings for row in rows]
    lines = []
    for kind, numbers in KINDS.items():
        lines.append([Bold(kind), "", *[""] * len(rows)])
        for check in numbers:
            own = [[f for f in found if f.number == check] for found in findings]
            limits = sorted(f.threshold for found in own for f in found)
            ends = dict.fromkeys(f"{end:.3g}" for end in (*limits[:1], *limits[-1:]))
            lines.append([f"C{check} {NAMES[check - 1]}", " to ".join(ends), *map(_state, own)])
    lines.append(["AutoAttack's own", "", *(_package(found) for found in findings)])
    sizes = ({str(f.n) for f in found if f.number} for found in findings)
    lines.append(["n", "", *(", ".join(sorted(n, key=int)) or MISSING for n in sizes)])
    heads = ["Check", "Threshold", *map(row_title, rows)]
    return Table(text=pd.DataFrame(lines, columns=heads, dtype=object), n_left=1)


def _package(found: Sequence[Finding]) -> str:
    package = [f for f in found if not f.number]
    alarms = sum(f.alarm for f in package)
    return (
        Bold(f"{ALARMED} {alarms} of {len(package)}") if alarms else PASSED if package else MISSING
    )


def _state(found: Sequence[Finding]) -> str:
    """Return the state of a check, of several values that of the worst one."""
    if not found:
        return MISSING
    worst = max(
        found, key=lambda f: (f.alarm, math.inf if f.value is None else f.value - f.threshold)
    )
    if worst.state == "pass":
        return PASSED
    return Bold(f"{ALARMED} {_value(worst)}") if worst.alarm else f"watch {_value(worst)}"


def _value(finding: Finding) -> str:
    return "not a number" if finding.value is None else f"{finding.value:.3g}"


def alarm_lines(rows: Sequence[TableRow], *, watched: bool = False) -> list[str]:
    """Return a line per alarm, or per value to be watched: the model, the check, its numbers."""
    return [
        f"{row_title(row)}{f', seed {f.seed}' if len(row.group.runs) > 1 else ''}: {f.title} "
        f"({f.name.partition(': ')[2] or f.name}) {_value(f)}, "
        f"{_limit(f)}threshold {f.threshold:.3g} ({f.source}; n = {f.n})"
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
