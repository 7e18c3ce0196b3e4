"""Claims 11 and 12: CAT converges faster, and costs no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bench.records import RunRecord
from bench.report.aggregate import Section
from bench.report.claims.claim import (
    VERSUS,
    Claim,
    Finding,
    Tested,
    Unit,
    Verdict,
    conclude,
    superior,
)
from bench.report.claims.evidence import Model, models
from bench.report.claims.paper import LEVEL_SHARE, RIVALS
from bench.report.claims.theory import studies_with
from bench.report.claims.wording import GIVEN_TRAININGS
from bench.report.cost import GroupCost, costs
from bench.report.cost_table import SAME
from bench.report.groups import group_runs
from bench.report.interval import wilson
from bench.report.published import CAT, REFERENCE
from bench.report.suite_runs import SuiteRuns
from bench.report.units import percent


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Epochs, counted from 1, until a training reaches a robust validation accuracy."""

    at: float
    """Infinite where it never does."""
    earliest: float
    latest: float
    """First epochs at which the upper and the lower 95% limit of the accuracy reach it."""


def reached(history: Sequence[Mapping[str, Any]], level: float) -> Reached:
    """When a training reaches `level`; epochs without a robust accuracy count as below it."""
    first = {"at": math.inf, "earliest": math.inf, "latest": math.inf}
    for epoch in history:
        value, n = epoch.get("val_robust"), int(epoch.get("n_val") or 0)
        if value is None or not n:
            continue
        low, high = wilson(round(value * n), n)
        for name, limit in (("at", value), ("earliest", high), ("latest", low)):
            if limit >= level:
                first[name] = min(first[name], int(epoch["epoch"]) + 1)
    return Reached(**first)


def _convergence(chosen: SuiteRuns) -> Tested:
    """Each CAT against Madry AT; the others stand beside."""
    found = models(chosen, studies_with(chosen, "margins"))
    by_method = {model.method: model for model in found if _curves(model)}
    lacks = [
        f"{name}: no robust validation accuracy"
        for name in (REFERENCE, *CAT)
        if name not in by_method
    ]
    if REFERENCE not in by_method:
        return conclude([], lacks=lacks)
    level = LEVEL_SHARE * fmean(
        max(epoch["val_robust"] for epoch in run.history if _has(epoch))
        for run in _curves(by_method[REFERENCE])
    )
    findings = [
        _faster(by_method[cat], by_method[other], level, decides=other == REFERENCE)
        for other in RIVALS
        for cat in CAT
        if cat in by_method and other in by_method
    ]
    ordered = sorted(findings, key=lambda finding: not finding.decides)
    notes = [
        f"The level: {percent(level)}% robust validation accuracy, {percent(LEVEL_SHARE, 0)}% of "
        f"{REFERENCE}'s best epoch (mean over its seeds).",
        GIVEN_TRAININGS,
    ]
    concerned = [by_method[name].concerned() for name in (*RIVALS, *CAT) if name in by_method]
    return conclude(ordered, lacks=lacks, notes=notes, models=concerned)


def _faster(cat: Model, other: Model, level: float, *, decides: bool) -> Finding:
    ours, theirs = (
        [reached(run.history, level) for run in _curves(model)] for model in (cat, other)
    )
    # epochs of the other minus ours: above 0 where CAT is faster
    low = _gain(min(r.earliest for r in theirs), max(r.latest for r in ours))
    high = _gain(max(r.latest for r in theirs), min(r.earliest for r in ours))
    first, second = (sum(r.at for r in side) / len(side) for side in (ours, theirs))
    value = _gain(second, first)
    return Finding(
        what=f"{cat.label}{VERSUS}{other.label}",
        unit=Unit.EPOCHS,
        first=first,
        second=second,
        value=value,
        low=low,
        high=high,
        n=int(_curves(cat)[0].history[-1]["n_val"]),
        seeds=(len(ours), len(theirs)),
        decides=decides,
        verdict=superior(low, high, None),
        favour=value,
    )


def _gain(theirs: float, ours: float) -> float:
    """Epochs saved; none where neither ever arrives."""
    return 0.0 if theirs == ours else theirs - ours


def _curves(model: Model) -> list[RunRecord]:
    return [run for run in model.runs if any(_has(epoch) for epoch in run.history)]


def _has(epoch: Mapping[str, Any]) -> bool:
    return epoch.get("val_robust") is not None


def _same_cost(chosen: SuiteRuns) -> Tested:
    """Passes relative to Madry AT's, which are counted and have no error; seconds beside."""
    found = models(chosen)
    runs = [run for model in found if model.method in (REFERENCE, *CAT) for run in model.runs]
    findings: list[Finding] = []
    for setting, groups in group_runs(runs):
        section = Section(setting=setting, groups=tuple(groups), rows=(), attacks=())
        for cost in costs(section):
            if cost.group.method in CAT and cost.reference_passes:
                findings += _cost(cost)
    there = {finding.what for finding in findings}
    lacks = [f"{name}: no cost relative to {REFERENCE}" for name in CAT if name not in there]
    return conclude(findings, lacks=lacks)


def _cost(cost: GroupCost) -> list[Finding]:
    reference = cost.reference_passes or math.nan
    rows = []
    for decides, detail, value in (
        (True, "passes an image and epoch", cost.passes_relative),
        (False, "seconds an image", cost.seconds_relative),
    ):
        if value is not None:
            same = 1 / SAME <= value <= SAME
            rows.append(
                Finding(
                    what=cost.group.method,
                    detail=detail,
                    unit=Unit.TIMES,
                    first=value * reference if decides else None,
                    second=reference if decides else None,
                    value=value,
                    seeds=(len(cost.runs), 1),
                    decides=decides,
                    verdict=Verdict.HOLDS if same else Verdict.FAILS,
                    favour=-abs(math.log(value)),
                )
            )
    return rows


CLAIMS = (
    Claim(
        key="11",
        title="CAT converges faster than fixed-radius training",
        says="It needs fewer epochs to reach a given robustness.",
        source="section 3.5",
        measured=(
            "Epochs until the robust accuracy on the validation split (PGD-10) reaches a level, "
            f"{percent(LEVEL_SHARE, 0)}% of Madry AT's best: Madry AT's minus CAT's. The other "
            "methods stand beside and decide nothing. A model whose gradients mislead PGD arrives "
            "sooner without being robust. Never: not within its epochs."
        ),
        rule=(
            "The interval comes from Wilson's 95% limits of each epoch's accuracy: from the first "
            "epoch whose upper limit reaches the level to the first whose lower limit does; of "
            "several seeds the widest. Holds if the interval of the difference is above 0, does "
            "not hold if it is below; otherwise not decidable."
        ),
        columns=("CAT", "Other", "Epochs saved"),
        suite="theory",
        test=_convergence,
    ),
    Claim(
        key="12",
        title="CAT costs what Madry AT costs",
        says="One training step needs the same attack as Madry AT, and no more.",
        source="the text on the algorithm",
        measured=(
            "Forward and backward passes of the training, an image and epoch, relative to Madry "
            "AT's: counted by the engine, so without error. Seconds, where machines are equal, "
            "stand beside and decide nothing."
        ),
        rule=(
            f"Of each CAT: holds if the ratio is between {1 / SAME:.2f} and {SAME:.2f}; otherwise "
            "does not hold."
        ),
        columns=("CAT", "Madry AT", "Ratio"),
        suite="table3",
        test=_same_cost,
    ),
)
