"""Claims 10a, 11 and 12: weight norms, convergence and cost of the training (section 3.5)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from bench.papers.cat.claim_evidence import (
    BASELINES,
    CAT_CE,
    TrainedModel,
    assess,
    measures,
    models,
    studies_with,
)
from bench.papers.cat.claim_rules import (
    LEVEL_SHARE,
    VERSUS,
    Assessment,
    Evidence,
    Family,
    agreed,
    better,
    equal_within,
    separated,
    together,
)
from bench.records import RunRecord
from bench.report.aggregate import Section
from bench.report.complexity_table import COLUMNS, PAPER_RATIOS
from bench.report.cost import GroupCost, costs
from bench.report.cost_table import SAME
from bench.report.formatting import percent
from bench.report.groups import group_runs
from bench.report.published import CAT, REFERENCE
from bench.report.statistics import wilson
from bench.report.suite_runs import SuiteRuns

_LARGEST = 300.0
"""Largest decimal exponent of a ratio: a float holds little more."""


def larger_norms(suite: SuiteRuns) -> Assessment:
    """Test each fixed radius over each CAT in every norm; cat-ce decides."""
    found = models(suite, studies_with(suite, "complexity"))
    fixed = sorted((m for m in found if m.method == REFERENCE), key=lambda m: m.study.eps)
    cats = [model for model in found if model.method in CAT]
    evidence: list[Evidence] = []
    by_radius = []
    for model, published in zip(fixed, PAPER_RATIOS.values(), strict=False):
        for cat in cats:
            rows = list(_norm_ratios(model, cat, published))
            evidence += rows
            if cat.method == CAT_CE and rows:
                by_radius.append(agreed(row.result for row in rows))
    missing = tuple(
        model.lacks("weight norms")
        for model in [*fixed, *(cat for cat in cats if cat.method == CAT_CE)]
        if not measures(model, "complexity")
    )
    done = assess([Family(evidence=tuple(evidence), missing=missing)], found)
    return replace(done, result=together(by_radius, missing))


def _norm_ratios(fixed: TrainedModel, cat: TrainedModel, published: float) -> Iterator[Evidence]:
    own = cat.method == CAT_CE
    for name, heading in COLUMNS.items():
        ones, others = _log_products(fixed, name), _log_products(cat, name)
        if ones and others:
            log10 = fmean(ones) - fmean(others)
            yield Evidence(
                what=f"{fixed.label}{VERSUS}{cat.label}",
                detail=f"{heading[0].lower()}{heading[1:]}; paper: {published:g}",
                unit="times",
                first=fmean(ones),
                second=fmean(others),
                value=10 ** float(np.clip(log10, -_LARGEST, _LARGEST)),
                seeds=(len(ones), len(others)),
                decides=own,
                shown=own,
                result=separated(ones, others),
                favour=log10,
            )


def _log_products(model: TrainedModel, name: str) -> list[float]:
    found = [r.values.get(f"log10_product_{name}") for _, r in measures(model, "complexity")]
    return [float(value) for value in found if value is not None]


class EpochsToLevel(NamedTuple):
    """Epochs, counted from 1, until a training reaches a robust validation accuracy."""

    at: float
    """Infinite where it never does."""
    earliest: float
    latest: float
    """First epochs at which the upper and the lower 95% limit of the accuracy reach it."""


def epochs_to_level(history: Sequence[Mapping[str, Any]], level: float) -> EpochsToLevel:
    """Return when a training reaches `level`; epochs without a robust accuracy do not."""
    first = {"at": math.inf, "earliest": math.inf, "latest": math.inf}
    for epoch in history:
        value, n = epoch.get("val_robust"), int(epoch.get("n_val") or 0)
        if value is None or not n:
            continue
        low, high = wilson(round(value * n), n)
        for name, limit in (("at", value), ("earliest", high), ("latest", low)):
            if limit >= level:
                first[name] = min(first[name], int(epoch["epoch"]) + 1)
    return EpochsToLevel(**first)


def faster_convergence(suite: SuiteRuns) -> Assessment:
    """Test each CAT against Madry AT; the other baselines are context."""
    found = models(suite, studies_with(suite, "margins"))
    by_method = {model.method: model for model in found if _curves(model)}
    missing = tuple(
        f"{name}: no robust validation accuracy"
        for name in (REFERENCE, *CAT)
        if name not in by_method
    )
    if REFERENCE not in by_method:
        return assess([Family(missing=missing)])
    level = LEVEL_SHARE * fmean(
        max(epoch["val_robust"] for epoch in run.history if epoch.get("val_robust") is not None)
        for run in _curves(by_method[REFERENCE])
    )
    evidence = [
        _epochs_saved(by_method[cat], by_method[other], level, decides=other == REFERENCE)
        for other in BASELINES
        for cat in CAT
        if cat in by_method and other in by_method
    ]
    evidence.sort(key=lambda one: not one.decides)
    note = (
        f"The level: {percent(level)}% robust validation accuracy, {percent(LEVEL_SHARE, 0)}% of "
        f"{REFERENCE}'s best epoch (mean over its seeds)."
    )
    concerned = [by_method[name] for name in (*BASELINES, *CAT) if name in by_method]
    return assess([Family(evidence=tuple(evidence), missing=missing)], concerned, notes=[note])


def _epochs_saved(
    cat: TrainedModel, other: TrainedModel, level: float, *, decides: bool
) -> Evidence:
    ours, theirs = (
        [epochs_to_level(run.history, level) for run in _curves(model)] for model in (cat, other)
    )
    low = _saved(min(r.earliest for r in theirs), max(r.latest for r in ours))
    high = _saved(max(r.latest for r in theirs), min(r.earliest for r in ours))
    first, second = (sum(r.at for r in side) / len(side) for side in (ours, theirs))
    found = Evidence(
        what=f"{cat.label}{VERSUS}{other.label}",
        unit="epochs",
        first=first,
        second=second,
        value=_saved(second, first),
        low=low,
        high=high,
        n=int(_curves(cat)[0].history[-1]["n_val"]),
        seeds=(len(ours), len(theirs)),
        decides=decides,
    )
    return better(found)


def _saved(theirs: float, ours: float) -> float:
    """Return the epochs saved; 0 where neither ever reaches the level."""
    return 0.0 if theirs == ours else theirs - ours


def _curves(model: TrainedModel) -> list[RunRecord]:
    return [run for run in model.runs if any(e.get("val_robust") is not None for e in run.history)]


def equal_cost(suite: SuiteRuns) -> Assessment:
    """Test the passes relative to Madry AT's, which are counted; seconds are context."""
    wanted = (REFERENCE, *CAT)
    runs = [run for model in models(suite) if model.method in wanted for run in model.runs]
    evidence: list[Evidence] = []
    for setting, groups in group_runs(runs):
        section = Section(setting=setting, groups=tuple(groups), rows=(), attacks=())
        for cost in costs(section):
            if cost.group.method in CAT and cost.reference_passes:
                evidence += _relative_cost(cost, cost.reference_passes)
    known = {one.what for one in evidence}
    missing = tuple(f"{name}: no cost relative to {REFERENCE}" for name in CAT if name not in known)
    return assess([Family(evidence=tuple(evidence), missing=missing)])


def _relative_cost(cost: GroupCost, reference: float) -> Iterator[Evidence]:
    for decides, detail, value in (
        (True, "passes per image and epoch", cost.passes_relative),
        (False, "seconds per image", cost.seconds_relative),
    ):
        if value is not None:
            found = Evidence(
                what=cost.group.method,
                detail=detail,
                unit="times",
                first=value * reference if decides else None,
                second=reference if decides else None,
                value=value,
                seeds=(len(cost.runs), 1),
                decides=decides,
            )
            yield equal_within(SAME)(found)
