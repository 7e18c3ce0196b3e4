"""The claims of the CAT paper, each with a verdict from the records: claims.md and claims.csv."""

from __future__ import annotations

from collections.abc import Iterable

from bench.records import RunRecord
from bench.report.claims import (
    accuracy,
    curve,
    landscape,
    parts,
    plane,
    radius,
    theory,
    training,
    transfer,
)
from bench.report.claims.claim import Claim, Result, Tested, Verdict
from bench.report.claims.flat import claims_csv
from bench.report.claims.page import page
from bench.report.suite_runs import SuiteRuns, choose

__all__ = ["CLAIMS", "claims_files", "claims_markdown", "results"]

CLAIMS: tuple[Claim, ...] = (
    *accuracy.CLAIMS,
    *transfer.CLAIMS,
    *radius.CLAIMS,
    *curve.CLAIMS,
    *landscape.CLAIMS,
    *parts.STEPS,
    *parts.ABLATION,
    *theory.CLAIMS,
    *training.CLAIMS,
    *plane.CLAIMS,
    *plane.UNTESTED,
)
"""In the order of the page."""


def claims_files(records: Iterable[RunRecord], note: str) -> dict[str, bytes]:
    """claims.md and claims.csv; the same records and note give the same bytes."""
    found = results(records)
    return {
        "claims.md": page(found, note).encode(),
        "claims.csv": claims_csv(found, note).encode(),
    }


def claims_markdown(records: Iterable[RunRecord], note: str) -> str:
    """The page alone."""
    return page(results(records), note)


def results(records: Iterable[RunRecord]) -> list[Result]:
    """Every claim with its verdict, each from its suite in the size of which most is there."""
    runs = list(records)
    suites = dict.fromkeys(claim.suite for claim in CLAIMS if claim.suite)
    chosen = {suite: choose(runs, suite) for suite in suites}
    return [_result(claim, chosen.get(claim.suite)) for claim in CLAIMS]


def _result(claim: Claim, chosen: SuiteRuns | None) -> Result:
    if claim.test is None:
        tested = Tested(verdict=Verdict.UNTESTED, findings=())
    elif chosen is None:
        tested = Tested(verdict=Verdict.MISSING, findings=())
    else:
        tested = claim.test(chosen)
    return Result(claim=claim, chosen=chosen, tested=tested)
