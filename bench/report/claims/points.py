"""Comparisons of accuracies as findings: of two models, and of one model under two attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench.report.claims.claim import VERSUS, Finding, Verdict, bounded, superior
from bench.report.claims.evidence import Attack, Model, Side, contrasts
from bench.report.comparison import Comparison

Rule = Callable[[Comparison], tuple[Verdict, float]]
"""A comparison's verdict, and how far it is on the claim's side."""


def better(found: Comparison) -> tuple[Verdict, float]:
    """The first is above the second."""
    p = found.p if found.p_holm is None else found.p_holm
    return superior(found.low, found.high, p), found.difference


def at_most(bound: float, beyond: float | None = None) -> Rule:
    """The first is above the second by no more than `bound`; see `bounded`."""

    def rule(found: Comparison) -> tuple[Verdict, float]:
        return bounded(found.low, found.high, bound, beyond), bound - found.difference

    return rule


def point_findings(
    pairs: Sequence[tuple[Side, Side]],
    rule: Rule,
    *,
    detail: str | Callable[[Side, Side], str] = "",
    what: Callable[[Side, Side], str] | None = None,
    decides: bool = True,
) -> tuple[list[Finding], list[str]]:
    """One family of comparisons, and what is missing for the others.

    `what`: `A vs B` by the models' labels unless it is given.
    """
    found, lacks = contrasts(pairs)
    findings = [
        _finding(
            c,
            rule,
            what=what(first, second) if what else _versus(first, second),
            detail=detail if isinstance(detail, str) else detail(first, second),
            decides=decides,
        )
        for first, second, c in found
    ]
    return findings, lacks


def versus(
    firsts: Iterable[Model], seconds: Iterable[Model], attack: Attack
) -> list[tuple[Side, Side]]:
    """Every first against every second, under one attack."""
    others = list(seconds)
    return [((one, attack), (other, attack)) for one in firsts for other in others]


def within(models: Iterable[Model], attack: Attack, another: Attack) -> list[tuple[Side, Side]]:
    """Each model under two attacks."""
    return [((model, attack), (model, another)) for model in models]


def alone(first: Side, second: Side) -> str:
    """The row's name where both sides are one model."""
    return first[0].label


def _versus(first: Side, second: Side) -> str:
    return f"{first[0].label}{VERSUS}{second[0].label}"


def _finding(c: Comparison, rule: Rule, *, what: str, detail: str, decides: bool) -> Finding:
    verdict, favour = rule(c)
    return Finding(
        what=what,
        detail=detail,
        first=c.first.accuracy,
        second=c.second.accuracy,
        value=c.difference,
        low=c.low,
        high=c.high,
        p=(c.p if c.p_holm is None else c.p_holm) if rule is better else None,
        n=c.n,
        seeds=(len(c.first.runs), len(c.second.runs)),
        decides=decides,
        verdict=verdict,
        favour=favour,
    )
