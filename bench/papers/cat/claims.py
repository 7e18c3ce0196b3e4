"""The claims of the CAT paper: their texts (claims.toml), their tests, and their assessment."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from bench.papers.cat.claim_evidence import LABEL_PAIRS, NATURAL, RADIUS_PAIRS, Query
from bench.papers.cat.claim_rules import (
    FLAT,
    HIGH_TRAIN,
    LEVEL_SHARE,
    SMALL,
    STEPS_COST,
    Assessment,
    ClaimResult,
    Evidence,
)
from bench.papers.cat.claim_tests import accuracy, decision_boundary, per_image, training
from bench.papers.cat.gaussians import MARGIN
from bench.papers.cat.stated import CAT, TABLE_1, TABLE_3, TABLE_4
from bench.records import Records
from bench.report.formatting import percent
from bench.report.rows import MASKING_GAP
from bench.report.suite_runs import SuiteRuns, choose, command
from bench.report.tables.cost import SAME
from bench.report.titles import AUTOATTACK, CW, PGD
from bench.suite import FULL

TESTS: Mapping[str, Callable[[SuiteRuns], Assessment]] = {
    "1a": partial(accuracy.more_accurate, query=Query(PGD)),
    "1b": partial(accuracy.more_accurate, query=Query(CW)),
    "1c": partial(accuracy.more_accurate, query=Query(AUTOATTACK)),
    "2": partial(accuracy.more_accurate, query=Query(None, kind="clean")),
    "3": accuracy.genuine,
    "4a": accuracy.best_under_transfer,
    "4b": accuracy.transfer_is_weaker,
    "5a": accuracy.no_gain_from_radius,
    "5b": accuracy.high_train_accuracy,
    "6a": partial(accuracy.curve_above, attack=PGD),
    "6b": partial(accuracy.curve_above, attack=CW),
    "6c": accuracy.flat_curve,
    "7a": partial(per_image.smoother, surface="ce"),
    "7b": partial(per_image.smoother, surface="margin"),
    "8": accuracy.few_steps_suffice,
    "9a": partial(accuracy.ablation, pairs=RADIUS_PAIRS, attack=PGD),
    "9b": partial(accuracy.ablation, pairs=RADIUS_PAIRS, attack=AUTOATTACK),
    "9c": partial(accuracy.ablation, pairs=LABEL_PAIRS, attack=PGD),
    "9d": partial(accuracy.ablation, pairs=LABEL_PAIRS, attack=AUTOATTACK),
    "9e": accuracy.labels_alone,
    "10a": training.larger_norms,
    "10b": per_image.larger_margins,
    "11": training.faster_convergence,
    "12": training.equal_cost,
    "13": decision_boundary.beyond_margin,
}
"""By the claim's key; a claim without a test is not tested."""


_COLUMNS = ("CAT", "Other", "Difference")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim in our words; claims.toml says what each text is."""

    key: str
    title: str
    says: str
    source: str
    measured: str
    rule: str = ""
    columns: tuple[str, ...]
    suite: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class AssessedClaim:
    """A claim and what the records say about it."""

    claim: Claim
    suite: SuiteRuns | None
    """None where no training of the claim's suite is on record."""
    assessment: Assessment

    @property
    def result(self) -> ClaimResult:
        return self.assessment.result

    @property
    def command(self) -> str:
        """The command that makes the missing records."""
        return self.suite.command if self.suite else command(self.claim.suite, FULL)

    @property
    def deciding(self) -> list[Evidence]:
        return [one for one in self.assessment.evidence if one.decides]

    @property
    def key_evidence(self) -> Evidence | None:
        """The least favourable of the deciding comparisons that have the claim's result."""
        alike = [one for one in self.deciding if one.result == self.result] or self.deciding
        return min(alike, key=lambda one: one.favour, default=None)


def load_claims() -> tuple[Claim, ...]:
    """Return the claims of claims.toml in the order of the page."""
    content = tomllib.loads(Path(__file__).with_name("claims.toml").read_text(encoding="utf-8"))
    known = {field.name for field in fields(Claim)} - {"columns"}
    claims = []
    for entry in content["claims"]:
        values = _VALUES | content["phrases"] | entry
        texts = {name: _filled(entry[name], values) for name in known & entry.keys()}
        claims.append(Claim(columns=tuple(entry.get("columns", _COLUMNS)), **texts))
    return tuple(claims)


def _filled(text: str, values: Mapping[str, object]) -> str:
    """Return the text on one line, with all placeholders replaced, also those inside others."""
    while "{" in text:
        text = text.format_map(values)
    return " ".join(text.split())


def _published(place: int) -> str:
    """Return one column of the paper's Table 3."""
    values = {name: row.values[place] for name, row in TABLE_3.items() if name != NATURAL}
    return ", ".join(f"{n} {percent(value, 2)}" for n, value in values.items() if value is not None)


def _published_gap(method: str) -> str:
    _, pgd, cw = TABLE_3[method].values
    return f"{method} {percent((pgd or 0.0) - (cw or 0.0))}"


_VALUES = {
    "masking_gap": percent(MASKING_GAP, 0),
    "small": percent(SMALL, 0),
    "steps_cost": percent(STEPS_COST, 0),
    "high_train": percent(HIGH_TRAIN, 0),
    "flat": percent(FLAT, 0),
    "level_share": percent(LEVEL_SHARE, 0),
    "cost_low": f"{1 / SAME:.2f}",
    "cost_high": f"{SAME:.2f}",
    "plane_margin": f"{MARGIN:g}",
    "published_clean": _published(0),
    "published_pgd": _published(1),
    "published_cw": _published(2),
    "published_gaps": ", ".join(map(_published_gap, CAT)),
    "published_table_1": "; ".join(
        f"eps {eps:g}: test {percent(test, 2)}, train {percent(train, 2)}"
        for eps, test, train in TABLE_1
    ),
    "published_table_4": "; ".join(
        f"{arch}: {', '.join(f'{name} {percent(value, 2)}' for name, value in values.items())}"
        for arch, values in TABLE_4
    ),
}
"""What the texts quote; accuracies are in percent."""
CLAIMS = load_claims()


def assess_claims(records: Records) -> list[AssessedClaim]:
    """Assess every claim, each on its suite in the size with the most records."""
    suites = {
        name: choose(records, name) for name in dict.fromkeys(c.suite for c in CLAIMS) if name
    }
    return [assess_claim(claim, suites.get(claim.suite)) for claim in CLAIMS]


def assess_claim(claim: Claim, suite: SuiteRuns | None) -> AssessedClaim:
    """Assess one claim on the records of its suite; None where it has none."""
    if claim.key not in TESTS:
        assessment = Assessment(result=ClaimResult.UNTESTED)
    elif suite is None:
        assessment = Assessment(result=ClaimResult.MISSING)
    else:
        assessment = TESTS[claim.key](suite)
    return AssessedClaim(claim=claim, suite=suite, assessment=assessment)
