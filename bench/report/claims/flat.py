"""The claims as a .csv: a row for each comparison, those that the page leaves out among them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from bench.report.claims.claim import Result

_HEAD = (
    *("claim", "title", "claim_verdict", "suite", "size", "dataset", "paper_size"),
    *("comparison", "detail", "decides", "verdict", "unit", "first", "second", "value"),
    *("low", "high", "p_holm", "n", "seeds_first", "seeds_second"),
)


def claims_csv(results: Sequence[Result], note: str) -> str:
    """A comment line with `note`, the header, the rows; fractions. A claim without comparisons
    has one row."""
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(_HEAD)
    for result in results:
        rows.writerows(_rows(result))
    return buffer.getvalue()


def _rows(result: Result) -> Iterator[list[str]]:
    claim, chosen = result.claim, result.chosen
    head = [claim.key, claim.title, str(result.verdict), claim.suite]
    head += [chosen.suite.size, chosen.dataset, str(int(chosen.full))] if chosen else ["", "", ""]
    if not result.tested.findings:
        yield head + [""] * (len(_HEAD) - len(head))
    for f in result.tested.findings:
        numbers = [_cell(x) for x in (f.first, f.second, f.value, f.low, f.high, f.p)]
        decides = str(int(f.decides))
        words = [f.what, f.detail, decides, str(f.verdict) if f.decides else "", str(f.unit)]
        counts = ["" if f.n is None else str(f.n), *map(str, f.seeds)]
        yield [*head, *words, *numbers, *counts]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
