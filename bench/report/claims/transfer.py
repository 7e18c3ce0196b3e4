"""Claim 4: transferred attacks (Table 4)."""

from __future__ import annotations

from bench.report.aggregate import PGD
from bench.report.claims.claim import Claim, Finding, Tested, conclude
from bench.report.claims.evidence import USUAL, Attack, Side, distinct, models
from bench.report.claims.points import alone, better, point_findings, versus, within
from bench.report.claims.wording import BETTER
from bench.report.published import CAT, TABLE_4
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.report.units import percent

_TRANSFER = "transfer"


def _best(chosen: SuiteRuns) -> Tested:
    """Each CAT against each other, all images, network by network."""
    findings: list[Finding] = []
    lacks: list[str] = []
    parts = distinct(chosen)
    found = models(chosen, parts)
    for part in parts:
        own = [model for model in found if model.study == part.study]
        cats = [model for model in own if model.method in CAT]
        others = [model for model in own if model.method not in CAT]
        for sources, eps in _asked(part):
            attack = Attack(name=_TRANSFER, eps=eps, sources=sources, everything=True)
            decides = sources == USUAL  # as in the paper
            rows, missing = point_findings(
                versus(cats, others, attack),
                better,
                detail=f"from {'+'.join(sources)}",
                decides=decides,
            )
            findings += rows
            lacks += missing if decides else []
    return conclude(
        findings,
        lacks=lacks,
        notes=[_published()],
        models=[model.concerned() for model in found if model.runs],
    )


def _weaker(chosen: SuiteRuns) -> Tested:
    """Each model under each transferred attack against itself under the white-box one."""
    findings: list[Finding] = []
    lacks: list[str] = []
    parts = distinct(chosen)
    found = models(chosen, parts)
    for part in parts:
        own = [model for model in found if model.study == part.study]
        pairs: list[tuple[Side, Side]] = []
        for sources, eps in _asked(part):
            moved = Attack(name=_TRANSFER, eps=eps, sources=sources)
            pairs += within(own, moved, Attack(name=PGD, eps=eps))
        rows, missing = point_findings(pairs, better, what=alone, detail=_from)
        findings += rows
        lacks += missing
    concerned = [model.concerned() for model in found if model.runs]
    return conclude(findings, lacks=lacks, models=concerned)


def _asked(part: StudyRuns) -> list[tuple[tuple[str, ...], float]]:
    """Sources and radius of the transferred attacks of Table 4."""
    asked = []
    for attack in part.study.attacks:
        name, _, sources = attack.name.partition(":")
        if name == _TRANSFER and attack.eps is not None:
            asked.append((tuple(sources.split("+")) if sources else USUAL, attack.eps))
    return asked


def _from(first: Side, second: Side) -> str:
    return f"from {'+'.join(first[1].sources or ())}"


def _published() -> str:
    rows = [
        f"{arch}: {', '.join(f'{name} {percent(value, 2)}' for name, value in values.items())}"
        for arch, values in TABLE_4
    ]
    return f"The paper's Table 4 (CIFAR-10, eps 0.03, which CAT unstated): {'; '.join(rows)}."


CLAIMS = (
    Claim(
        key="4a",
        title="CAT is best under transferred attacks",
        says=(
            "Attacks that were made on a naturally trained network and moved to the target leave "
            "CAT the highest accuracy."
        ),
        source="Table 4",
        measured=(
            "Accuracy on all test images, those wrong without an attack included, under the worse "
            "of PGD-20 and C&W made on another network of the same kind. The natural source "
            "decides, as in the paper; the others stand beside."
        ),
        rule=BETTER,
        suite="table4",
        test=_best,
    ),
    Claim(
        key="4b",
        title="Transferred attacks are weaker than white-box attacks",
        says=(
            "Not a claim of the paper's but what its claims need: a model that falls to attacks "
            "made elsewhere more often than to attacks on itself hides its gradients."
        ),
        source="a condition on Table 4 (Athalye et al. 2018; Carlini et al. 2019)",
        measured=(
            "Accuracy under the transferred attack minus under PGD-20 on the model itself, at the "
            "same radius, on the same test images, of which those count that are right without an "
            "attack and with it."
        ),
        rule=BETTER,
        columns=("Transferred", "White-box", "Difference"),
        suite="table4",
        test=_weaker,
    ),
)
