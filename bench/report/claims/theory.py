"""Claim 10: smaller weight norms and larger margins (section 3.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from statistics import fmean

import numpy as np

from bench.measured import MeasureRecord
from bench.report.claims.claim import (
    VERSUS,
    Claim,
    Finding,
    Tested,
    Unit,
    agreed,
    conclude,
    separated,
    together,
)
from bench.report.claims.evidence import Model, measures, models
from bench.report.claims.medians import Figure, ratio_findings
from bench.report.claims.paper import CAT_PLAIN, COMPLEXITY, RIVALS
from bench.report.claims.wording import GIVEN_TRAININGS, RATIO_ABOVE
from bench.report.complexity_table import COLUMNS
from bench.report.published import CAT, REFERENCE
from bench.report.suite_runs import StudyRuns, SuiteRuns

_COMPLEXITY, _MARGINS = "complexity", "margins"
_KINDS = {"both": "input and layers", "input": "input", "layers": "layers"}
_LARGEST = 300.0
"""Decimal exponent at which a ratio is cut off: a float holds little more."""


def studies_with(chosen: SuiteRuns, measure: str) -> list[StudyRuns]:
    """The studies that ask for it."""
    return [
        part
        for part in chosen.studies
        if any(measure in asked.names for asked in part.study.measures)
    ]


def _norms(chosen: SuiteRuns) -> Tested:
    """Each fixed radius over each CAT, in every norm; the plain CAT decides."""
    found = models(chosen, studies_with(chosen, _COMPLEXITY))
    fixed = sorted((m for m in found if m.method == REFERENCE), key=lambda m: m.study.eps)
    cats = [model for model in found if model.method in CAT]
    findings: list[Finding] = []
    by_radius = []
    for place, model in enumerate(fixed):
        for cat in cats:
            rows = list(_ratios(model, cat, place))
            findings += rows
            if cat.method == CAT_PLAIN and rows:
                by_radius.append(agreed(row.verdict for row in rows))
    lacks = [
        f"{model.label}: {model.reason or 'no weight norms'}"
        for model in [*fixed, *(cat for cat in cats if cat.method == CAT_PLAIN)]
        if not measures(model, _COMPLEXITY)
    ]
    done = conclude(
        findings,
        lacks=lacks,
        notes=[GIVEN_TRAININGS],
        models=[model.concerned() for model in found if model.runs],
    )
    return replace(done, verdict=together(by_radius, lacks))


def _ratios(fixed: Model, cat: Model, place: int) -> Iterator[Finding]:
    own = cat.method == CAT_PLAIN
    for name, heading in COLUMNS.items():
        ones, others = _logs(fixed, name), _logs(cat, name)
        if ones and others:
            log10 = fmean(ones) - fmean(others)
            yield Finding(
                what=f"{fixed.label}{VERSUS}{cat.label}",
                detail=f"{heading[0].lower()}{heading[1:]}; paper: {COMPLEXITY[place]:g}",
                unit=Unit.TIMES,
                first=fmean(ones),
                second=fmean(others),
                value=10 ** float(np.clip(log10, -_LARGEST, _LARGEST)),
                seeds=(len(ones), len(others)),
                decides=own,
                shown=own,
                verdict=separated(ones, others),
                favour=log10,
            )


def _logs(model: Model, name: str) -> list[float]:
    found = [
        record.values.get(f"log10_product_{name}") for _, record in measures(model, _COMPLEXITY)
    ]
    return [float(value) for value in found if value is not None]


def _margin(kind: str) -> Figure:
    def figure(record: MeasureRecord) -> np.ndarray:
        found: np.ndarray = record.arrays[f"margin_{kind}"]
        return found

    return figure


def _margins(chosen: SuiteRuns) -> Tested:
    """Each CAT against each other adversarial training method."""
    found = models(chosen, studies_with(chosen, _MARGINS))
    cats = [model for model in found if model.method in CAT]
    rivals = [model for model in found if model.method in RIVALS]
    findings: list[Finding] = []
    lacks: list[str] = []
    for kind, words in _KINDS.items():
        rows, missing = ratio_findings(
            list(product(cats, rivals)),
            _MARGINS,
            _margin(kind),
            larger=True,
            detail=words,
            decides=kind == "both",
        )
        findings += [replace(row, shown=row.decides) for row in rows]
        lacks += missing if kind == "both" else []
    return conclude(
        findings,
        lacks=lacks,
        notes=list(_inverse([*cats, *rivals])),
        models=[model.concerned() for model in [*cats, *rivals] if model.runs],
    )


def _inverse(found: Iterable[Model]) -> Iterator[str]:
    """The theorem's own quantity, over the images that each model gets right."""
    parts = []
    for model in found:
        values = [r.values.get("mean_inverse_both") for _, r in measures(model, _MARGINS)]
        known = [float(value) for value in values if value is not None]
        if known:
            parts.append(f"{model.label} {fmean(known):.3g}")
    if parts:
        yield (
            "Mean of 1 / margin over the images that each model gets right, so over different "
            f"images: {', '.join(parts)}."
        )


CLAIMS = (
    Claim(
        key="10a",
        title="Fixed-radius training has a larger complexity than CAT",
        says=(
            "The product of the layers' weight norms is 2.54, 3.53 and 1.39 times CAT's for "
            "training at fixed radius 0.01, 0.02 and 0.03, on a network that is not named."
        ),
        source="section 3.5",
        measured=(
            "log10 of the product of the layers' weight norms, best checkpoints: fixed radius over "
            "cat-ce. The paper names neither the network of its ratios nor the norm, so three "
            "norms are here, with BatchNorm multiplied in (folded) and without (weights). Ratios "
            "to cat-mix are in claims.csv."
        ),
        rule=(
            "No sampling error: a network's norms are what they are. Of each radius and norm: "
            "holds if every seed's product is above every seed's of CAT, does not hold if it is "
            "below. Of each radius: as the norms say if they agree, otherwise not decidable. The "
            "claim holds if all radii hold, and does not hold if one of them does not. Whether "
            "the factors are the paper's is not part of the verdict."
        ),
        columns=("log10, fixed radius", "log10, CAT", "Ratio"),
        suite="theory",
        test=_norms,
    ),
    Claim(
        key="10b",
        title="CAT has larger bilateral margins",
        says=(
            "The bound on the generalisation gap is smaller for CAT, since its training keeps the "
            "average of 1 / margin small, where input and layers may both be perturbed."
        ),
        source="section 3.5, Theorem 3.2",
        measured=(
            "Smallest relative perturbation of input and layers together that was found to break "
            "an image (0 where it is wrong already), image by image on the same test images, best "
            "checkpoints: our reading of the paper's margin, and an upper bound of it. First and "
            "second: medians over the images. Of the input alone and of the layers alone: "
            "claims.csv."
        ),
        rule=RATIO_ABOVE,
        columns=("CAT", "Other", "Median ratio"),
        suite="theory",
        test=_margins,
    ),
)
