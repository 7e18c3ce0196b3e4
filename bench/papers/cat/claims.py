"""The claims of the CAT paper: their texts (claims.toml), their tests, and their assessment."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.experiments.suite import load_suite
from bench.papers.cat import claim_rules as rules
from bench.papers.cat.claim_evidence import NATURAL, TrainedModel
from bench.papers.cat.claim_rules import ClaimResult, Evidence
from bench.papers.cat.claim_tests import TESTS
from bench.papers.cat.gaussians import MARGIN
from bench.papers.cat.stated import CAT, STATED, TABLE_3
from bench.records import Records
from bench.report.cost import SAME
from bench.report.formatting import percent
from bench.report.rows import MASKING_GAP
from bench.report.suite_runs import SuiteRuns, choose, command

SMOKE = "tiny"
"""The size that only shows that the path works: nothing in it is trained to the end."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim; claims.toml says what each text is."""

    key: str
    title: str
    says: str
    source: str
    measured: str
    topic: str = ""
    rule: str = ""
    columns: tuple[str, ...] = ("CAT", "Other", "Difference")
    suite: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class AssessedClaim:
    """A claim and what the records say about it."""

    claim: Claim
    suite: SuiteRuns | None = None
    """None where no training of the claim's suite is on record."""
    result: ClaimResult
    reason: str = ""
    """Why it is inconclusive."""
    evidence: tuple[Evidence, ...] = ()
    missing: tuple[str, ...] = ()
    """Records that the verdict would also rest on."""
    models: tuple[TrainedModel, ...] = ()
    checkpoint: str = ""
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that makes the missing records, with the seeds that a verdict needs."""
        asked = self.suite.suite if self.suite else load_suite(self.claim.suite)
        few = any(len(study.seeds) < rules.LEAST_SEEDS for study in asked.studies)
        seeds = f" --seeds {','.join(map(str, range(rules.LEAST_SEEDS)))}"
        return command(asked.name, asked.size) + (seeds if few and asked.size != SMOKE else "")

    @property
    def deciding(self) -> list[Evidence]:
        return [one for one in self.evidence if one.decides]

    @property
    def key_evidence(self) -> Evidence | None:
        """The least favourable of the deciding comparisons that have the claim's result."""
        alike = [one for one in self.deciding if one.result == self.result] or self.deciding
        return min(alike, key=lambda one: one.favour, default=None)

    @property
    def alarmed(self) -> set[str]:
        """Labels of the models on which a masking check raises an alarm."""
        return {m.label for m in self.models if m.masking(self.checkpoint).alarms}


def load_claims() -> tuple[Claim, ...]:
    """Return the claims of claims.toml in the order of the page."""
    content = tomllib.loads(Path(__file__).with_name("claims.toml").read_text(encoding="utf-8"))
    known = {field.name for field in fields(Claim)}
    claims: list[Claim] = []
    for entry in content["claims"]:
        values = _VALUES | content["phrases"] | entry
        texts: dict[str, Any] = {
            name: _filled(text, values) if isinstance(text, str) else tuple(text)
            for name, text in entry.items()
            if name in known
        }
        claims.append(Claim(**texts))
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


_THRESHOLDS = ["NOTABLE", "SMALL", "STEPS_COST", "CLEAN_COST", "HIGH_TRAIN", "FLAT", "LEVEL_SHARE"]
_VALUES = {
    "masking_gap": percent(MASKING_GAP, 0),
    **{name.lower(): percent(getattr(rules, name), 0) for name in _THRESHOLDS},
    "cost_high": f"{SAME:.2f}",
    "plane_margin": f"{MARGIN:g}",
    "published_clean": _published(0),
    "published_pgd": _published(1),
    "published_cw": _published(2),
    "published_gaps": ", ".join(
        f"{method} {percent((pgd or 0.0) - (cw or 0.0))}"
        for method in CAT
        for _, pgd, cw in [TABLE_3[method].values]
    ),
    "published_table_1": "; ".join(
        f"eps {row['eps']:g}: test {percent(row['test'], 2)}, train {percent(row['train'], 2)}"
        for row in STATED.more["table1"]["rows"]
    ),
    "published_table_4": "; ".join(
        f"{arch}: {', '.join(f'{n} {percent(v, 2)}' for n, v in row.items())}"
        for arch, row in STATED.more["table4"].items()
        if arch != "note"
    ).replace("cat", "CAT"),
}
"""What the texts quote; accuracies are in percent."""
CLAIMS = load_claims()


def assess_claims(records: Records) -> list[AssessedClaim]:
    """Assess every claim, each on its suite in the size with the most records."""
    suites = {name: choose(records, name) for name in {c.suite for c in CLAIMS} if name}
    return [assess_claim(claim, suites.get(claim.suite)) for claim in CLAIMS]


def assess_claim(claim: Claim, suite: SuiteRuns | None) -> AssessedClaim:
    """Return the verdict that all deciding comparisons of a claim together give."""
    if suite is None:
        result = ClaimResult.MISSING if claim.key in TESTS else ClaimResult.UNTESTED
        return AssessedClaim(claim=claim, result=result)
    found, models, checkpoint, notes = TESTS[claim.key](suite)
    missing = tuple(dict.fromkeys(one for one in found if isinstance(one, str)))
    made = [one for one in found if isinstance(one, Evidence)]
    evidence = rules.judged(made, len(found) - len(made))
    result, reason = rules.verdict(evidence, missing)
    if suite.suite.size == SMOKE and result is not ClaimResult.MISSING:
        result, reason = ClaimResult.RAN, f"size {SMOKE} only shows that the path works"
    return AssessedClaim(
        claim=claim,
        suite=suite,
        result=result,
        reason=reason,
        evidence=tuple(evidence),
        missing=missing,
        models=tuple(model for model in models if model.runs),
        checkpoint=checkpoint,
        notes=notes,
    )
