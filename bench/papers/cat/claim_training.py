"""Claims 10a, 11 and 12: weight norms, convergence and cost of the training (section 3.5)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np

from bench.papers.cat.claim_evidence import BASELINES, Assessment, TrainedModel, assess, models
from bench.papers.cat.claim_rules import (
    LEVEL_SHARE,
    VERSUS,
    Evidence,
    agreed,
    better,
    equal_within,
    separated,
    together,
)
from bench.papers.cat.complexity import COLUMNS, PAPER_RATIOS
from bench.papers.cat.stated import CAT
from bench.records import RunRecord
from bench.report.cost import SAME, costs
from bench.report.formatting import percent
from bench.report.published import REFERENCE
from bench.report.rows import sections
from bench.report.statistics import wilson
from bench.report.suite_runs import SuiteRuns

_LARGEST = 300.0
"""Largest decimal exponent of a ratio: a float holds little more."""


def larger_norms(suite: SuiteRuns) -> Assessment:
    """Test each fixed radius over each CAT in every norm; cat-ce decides."""
    found = models(suite, "complexity")
    fixed = sorted((m for m in found if m.method == REFERENCE), key=lambda m: m.study.eps)
    cats = [model for model in found if model.method in CAT]
    evidence: list[Evidence] = []
    by_radius = []
    for (model, published), cat in product(zip(fixed, PAPER_RATIOS.values(), strict=False), cats):
        rows = list(_norm_ratios(model, cat, published))
        evidence += rows
        if rows and rows[0].decides:
            by_radius.append(agreed(row.result for row in rows))
    missing = [
        model.lacks("weight norms")
        for model in (*fixed, *cats[:1])
        if not model.measures("complexity")
    ]
    done = assess([*evidence, *missing], found)
    return replace(done, result=together(by_radius, missing))


def _norm_ratios(fixed: TrainedModel, cat: TrainedModel, published: float) -> Iterator[Evidence]:
    decides = cat.method == CAT[0]
    for name, heading in COLUMNS.items():
        ones, others = (
            [
                float(value)
                for record in model.measures("complexity")
                if (value := record.values.get(f"log10_product_{name}")) is not None
            ]
            for model in (fixed, cat)
        )
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
                decides=decides,
                shown=decides,
                result=separated(ones, others),
                favour=log10,
            )


def epochs_to_level(
    history: Sequence[Mapping[str, Any]], level: float
) -> tuple[float, float, float]:
    """Return the epochs, from 1, at which a training reaches a robust validation accuracy.

    The first at which the upper 95% limit of the accuracy reaches `level`, at which the accuracy
    does, and at which the lower limit does; infinite where none does.
    """
    reached = [math.inf] * 3
    for epoch in history:
        value, n = epoch.get("val_robust"), int(epoch.get("n_val") or 0)
        if value is not None and n:
            low, high = wilson(round(value * n), n)
            for place, limit in enumerate((high, value, low)):
                if limit >= level:
                    reached[place] = min(reached[place], int(epoch["epoch"]) + 1)
    return reached[0], reached[1], reached[2]


def faster_convergence(suite: SuiteRuns) -> Assessment:
    """Test each CAT against Madry AT; the other baselines are context."""
    found = models(suite, "margins")
    curves = {model.method: own for model in found if (own := _scored(model.runs))}
    missing = [
        f"{name}: no robust validation accuracy" for name in (REFERENCE, *CAT) if name not in curves
    ]
    if REFERENCE not in curves:
        return assess(missing)
    level = LEVEL_SHARE * fmean(
        max(epoch["val_robust"] for epoch in run.history if epoch.get("val_robust") is not None)
        for run in curves[REFERENCE]
    )
    epochs = {
        name: np.array([epochs_to_level(run.history, level) for run in own])
        for name, own in curves.items()
    }
    evidence = []
    for other, cat in product(BASELINES, CAT):
        if cat in curves and other in curves:
            ours, theirs = epochs[cat], epochs[other]
            first, second = (float(side[:, 1].mean()) for side in (ours, theirs))
            saved = Evidence(
                what=f"{cat}{VERSUS}{other}",
                unit="epochs",
                first=first,
                second=second,
                value=_saved(second, first),
                low=_saved(theirs[:, 0].min(), ours[:, 2].max()),
                high=_saved(theirs[:, 2].max(), ours[:, 0].min()),
                n=int(curves[cat][0].history[-1]["n_val"]),
                seeds=(len(ours), len(theirs)),
                decides=other == REFERENCE,
            )
            evidence.append(better(saved))
    evidence.sort(key=lambda one: not one.decides)
    note = (
        f"The level: {percent(level)}% robust validation accuracy, {percent(LEVEL_SHARE, 0)}% of "
        f"{REFERENCE}'s best epoch (mean over its seeds)."
    )
    concerned = [m for m in found if m.method in curves and m.method in (*BASELINES, *CAT)]
    return assess([*evidence, *missing], concerned, notes=[note])


def _saved(theirs: float, ours: float) -> float:
    """Return the epochs saved; 0 where neither ever reaches the level."""
    return 0.0 if theirs == ours else float(theirs - ours)


def _scored(runs: Sequence[RunRecord]) -> list[RunRecord]:
    return [run for run in runs if any(e.get("val_robust") is not None for e in run.history)]


def equal_cost(suite: SuiteRuns) -> Assessment:
    """Test the passes relative to Madry AT's, which are counted; seconds are context."""
    runs = [r for m in models(suite) if m.method in (REFERENCE, *CAT) for r in m.runs]
    evidence: list[Evidence] = []
    for section in sections(runs):
        for cost in costs(section):
            reference, passes = cost.reference_passes, cost.passes_relative
            if cost.group.method not in CAT or not reference or passes is None:
                continue
            counted = Evidence(
                what=cost.group.method,
                detail="passes per image and epoch",
                unit="times",
                first=passes * reference,
                second=reference,
                value=passes,
                seeds=(len(cost.runs), 1),
            )
            found = [counted]
            if (seconds := cost.seconds_relative) is not None:
                timed = replace(counted, detail="seconds per image", value=seconds, decides=False)
                found.append(replace(timed, first=None, second=None))
            evidence += map(equal_within(SAME), found)
    known = {one.what for one in evidence}
    missing = [f"{name}: no cost relative to {REFERENCE}" for name in CAT if name not in known]
    return assess([*evidence, *missing])
