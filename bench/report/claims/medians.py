"""A figure of every image in two models: which is larger, by an exact sign test. No torch.

Legend: n images. Free of any distribution: figures of margins and losses have long tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import RecordError
from bench.measured import MeasureRecord
from bench.report.claims.claim import VERSUS, Finding, Unit, superior
from bench.report.claims.evidence import Model, measures
from bench.report.significance import holm, mcnemar


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """First over second, image by image."""

    median: float
    low: float
    high: float
    """95% interval of the median; 0 and infinity where there are too few images for one."""
    p: float
    """Of the sign test: is either equally likely to be the larger? Images without a difference are
    left out."""
    first: float
    second: float
    """Medians of the two."""
    n: int


def ratio(first: Mapping[int, float], second: Mapping[int, float]) -> Ratio:
    """On the images that both have; raises RecordError where they share none.

    Figures are 0 or above. Equal ones, two zeros or two infinities among them, have ratio 1.
    """
    index = sorted(first.keys() & second.keys())
    if not index:
        raise RecordError("no image in common")
    a, b = (np.array([side[i] for i in index]) for side in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(a == b, 1.0, a / b)
    low, high = median_interval(ratios.tolist())
    return Ratio(
        median=float(np.median(ratios)),
        low=low,
        high=high,
        p=mcnemar(int((a > b).sum()), int((a < b).sum())),
        first=float(np.median(a)),
        second=float(np.median(b)),
        n=len(index),
    )


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Between two order statistics, so that it errs in at most 1 - confidence of samples.

    (0, infinity) where even the smallest and the largest err more often: below 6 values at 95%.
    Source: W. R. Thompson, Annals of Mathematical Statistics 7 (1936) 122-128.
    """
    ascending, n = sorted(values), len(values)
    k, below = 0, 0
    # `below`: of the 2^n ways to lie on either side of the median, those with at most k below it
    while 2 * (below + math.comb(n, k)) <= (1 - confidence) * 2**n:
        below += math.comb(n, k)
        k += 1
    return (ascending[k - 1], ascending[n - k]) if k else (0.0, math.inf)


Figure = Callable[[MeasureRecord], np.ndarray]
"""From a measure to a figure of each image, (n,)."""


def per_image(model: Model, name: str, figure: Figure) -> dict[int, float]:
    """Image -> figure, the median over the seeds; images whose figure is not a number left out.

    Raises RecordError where the model has no such measure, or a damaged one.
    """
    found = measures(model, name)
    if not found:
        raise RecordError(f"{model.label}: {model.reason or f'no measure {name}'}")
    values: dict[int, list[float]] = {}
    for _, record in found:
        for image, value in zip(record.arrays["index"], figure(record), strict=True):
            values.setdefault(int(image), []).append(float(value))
    whole = {image: v for image, v in values.items() if len(v) == len(found)}
    medians = {image: float(np.median(v)) for image, v in whole.items()}
    return {image: value for image, value in medians.items() if not math.isnan(value)}


def ratio_findings(
    pairs: Sequence[tuple[Model, Model]],
    name: str,
    figure: Figure,
    *,
    larger: bool,
    detail: str = "",
    decides: bool = True,
) -> tuple[list[Finding], list[str]]:
    """One family of comparisons, Holm's correction made; and what is missing for the others.

    `larger`: whether the claim says that the first is the larger one, or the smaller.
    """
    found: list[tuple[Model, Model, Ratio]] = []
    lacks = []
    for first, second in pairs:
        try:
            one, other = (per_image(model, name, figure) for model in (first, second))
            found.append((first, second, ratio(one, other)))
        except RecordError as error:
            lacks.append(str(error))
    corrected = holm([r.p for *_, r in found])
    findings = [
        _finding(first, second, r, p, name=name, larger=larger, detail=detail, decides=decides)
        for (first, second, r), p in zip(found, corrected, strict=True)
    ]
    return findings, lacks


def _finding(
    first: Model,
    second: Model,
    r: Ratio,
    p: float,
    *,
    name: str,
    larger: bool,
    detail: str,
    decides: bool,
) -> Finding:
    low, high = (r.low - 1, r.high - 1) if larger else (1 - r.high, 1 - r.low)
    return Finding(
        what=f"{first.label}{VERSUS}{second.label}",
        detail=detail,
        unit=Unit.TIMES,
        first=r.first,
        second=r.second,
        value=r.median,
        low=r.low,
        high=r.high,
        p=p,
        n=r.n,
        seeds=(len(measures(first, name)), len(measures(second, name))),
        decides=decides,
        verdict=superior(low, high, p),
        favour=r.median if larger else -r.median,
    )
