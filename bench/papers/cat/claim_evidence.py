"""From the records of a suite to evidence: models, paired accuracies, ratios image by image.

Legend: n images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from bench.errors import RecordError
from bench.measured import MeasureRecord
from bench.papers.cat.claim_rules import (
    VERSUS,
    Assessment,
    CheckedModel,
    Evidence,
    Family,
    Rule,
    together,
)
from bench.records import RunRecord
from bench.report.accuracy import ImageOutcomes, SeedEstimate, accuracy, paired_comparison
from bench.report.formatting import eps_text
from bench.report.frame import Outcome, ResultsFrame
from bench.report.masking import masking
from bench.report.published import CAT, REFERENCE, TABLE_3
from bench.report.select import outcomes, same_eps, select
from bench.report.statistics import holm, mcnemar, median_interval
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.study import Study

BEST, LAST = "best", "last"
_DATA = ("n_expected", "data_sha256")
NATURAL = "natural"
"""Training without an adversary."""
BASELINES = tuple(name for name in TABLE_3 if name not in (*CAT, NATURAL))
"""The adversarial training methods of Table 3 that CAT is compared with."""
FIXED_SOFT, ADAPTIVE_HARD, NATURAL_SOFT = "adv-ls", "adp-adv", "natural-ls"
"""Ablations: fixed radius with CAT's labels, CAT's radius with hard labels, only the labels."""
CAT_CE = CAT[0]
"""Both parts, on the loss of the ablations."""
RADIUS_PAIRS = ((ADAPTIVE_HARD, REFERENCE), (CAT_CE, FIXED_SOFT))
"""With and without the adaptive radius, for equal labels."""
LABEL_PAIRS = ((FIXED_SOFT, REFERENCE), (CAT_CE, ADAPTIVE_HARD))
"""With and without the adaptive labels, for an equal rule for the radius."""


class Query(NamedTuple):
    """Which evaluations of a model are compared."""

    attack: str | None
    """None for the clean images, which every evaluation holds."""
    eps: float | None = None
    """None: the study's."""
    checkpoint: str = BEST
    split: str = "test"
    kind: Outcome = "correct"

    @property
    def title(self) -> str:
        """`pgd-20 at eps 0.01 (last, train)`, without the defaults."""
        name, _, sources = (self.attack or "clean").partition(":")
        source = f" from {sources or NATURAL}" if name == "transfer" else ""
        at = "" if self.eps is None else f" at eps {eps_text(self.eps)}"
        defaults = {BEST: "", "test": ""}
        other = [text for text in (self.checkpoint, self.split) if defaults.get(text, text)]
        return name + source + at + (f" ({', '.join(other)})" if other else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """One way of training of a suite, once per seed."""

    label: str
    method: str
    study: Study
    frame: ResultsFrame
    runs: tuple[RunRecord, ...]
    _found: dict[Query, tuple[list[ImageOutcomes], set[tuple[int, str]]]] = field(
        default_factory=dict, repr=False
    )

    def seeds(self, query: Query) -> list[ImageOutcomes]:
        """Return the outcomes of each seed that has the evaluation."""
        return self._evaluated(query)[0]

    def data(self, query: Query) -> set[tuple[int, str]]:
        """Return the numbers of images of the evaluations, and checksums of their content."""
        return self._evaluated(query)[1]

    def _evaluated(self, query: Query) -> tuple[list[ImageOutcomes], set[tuple[int, str]]]:
        if query not in self._found:
            rows = [self._rows(run, query) for run in self.runs]
            seeds = [outcomes(self.frame, own, query.kind) for own in rows]
            data = {pair for own in rows for pair in zip(*(own[c] for c in _DATA), strict=True)}
            self._found[query] = [seed for seed in seeds if len(seed.index)], data
        return self._found[query]

    def _rows(self, run: RunRecord, query: Query) -> pd.DataFrame:
        eps = self.study.eps if query.eps is None else query.eps
        return select(
            self.frame,
            run_ids=[run.run_id],
            attack=query.attack,
            checkpoint=query.checkpoint,
            eps=None if query.attack is None else eps,
            split=query.split,
        )

    def lacks(self, what: str) -> str:
        """Say why nothing can be compared."""
        return f"{self.label}: {f'no {what}' if self.runs else 'no training'}"


Side = tuple[TrainedModel, Query]
_Side = TypeVar("_Side", Side, TrainedModel)
PerImage = Callable[[MeasureRecord], np.ndarray]
"""From a measure to a value of each image, (n,), at least 0."""


def models(suite: SuiteRuns, studies: Iterable[StudyRuns] | None = None) -> list[TrainedModel]:
    """Return the models of some studies, of all by default; absent ones have no runs.

    Labels name the network or the radius where the studies differ in it.
    """
    parts = list(suite.studies if studies is None else studies)
    archs, radii = ({getattr(p.study, name) for p in parts} for name in ("arch", "eps"))
    found: dict[str, TrainedModel] = {}
    for part in parts:
        extra = [part.study.arch] if len(archs) > 1 else []
        extra += [f"eps {eps_text(part.study.eps)}"] if len(radii) > 1 else []
        for method in part.study.methods:
            label = f"{method} ({', '.join(extra)})" if extra else method
            runs = part.runs.get(method, ())
            model = TrainedModel(
                label=label, method=method, study=part.study, frame=suite.frame, runs=runs
            )
            found.setdefault(label, model)
    return list(found.values())


def distinct_studies(suite: SuiteRuns) -> list[StudyRuns]:
    """Return the studies without those that a smaller size makes equal to another."""
    kept: dict[tuple[object, ...], StudyRuns] = {}
    for part in suite.studies:
        study = part.study
        kept.setdefault((study.arch, study.dataset, study.eps, study.methods), part)
    return list(kept.values())


def studies_with(suite: SuiteRuns, measure: str) -> list[StudyRuns]:
    """Return the studies that have a measure."""
    return [
        part
        for part in suite.studies
        if any(measure in asked.names for asked in part.study.measures)
    ]


def attack_radii(study: Study, name: str) -> list[float]:
    """Return the radii other than its own at which the study has an attack, ascending."""
    return sorted({a.eps for a in study.attacks if a.name == name and a.eps is not None})


def assess(
    families: Iterable[Family],
    models: Iterable[TrainedModel] = (),
    *,
    notes: Sequence[str] = (),
    checkpoint: str = BEST,
) -> Assessment:
    """Return the assessment that all deciding comparisons together give."""
    families = list(families)
    evidence = tuple(one for family in families for one in family.evidence)
    missing = tuple(dict.fromkeys(text for family in families for text in family.missing))
    return Assessment(
        result=together([one.result for one in evidence if one.decides], missing),
        evidence=evidence,
        missing=missing,
        notes=tuple(notes),
        models=tuple(_checked(model, checkpoint) for model in models if model.runs),
    )


def _checked(model: TrainedModel, checkpoint: str) -> CheckedModel:
    found = masking(model.runs, checkpoint, model.study.eps)
    return CheckedModel(label=model.label, masking=found, runs=model.runs)


def compare(
    pairs: Iterable[tuple[Side, Side]],
    rule: Rule,
    *,
    detail: str | Callable[[Query], str] = "",
    adjust: Callable[[Evidence, Side, Side], Evidence] | None = None,
    decides: bool = True,
) -> Family:
    """Compare accuracies as one family, on the images that all seeds of both sides share.

    `detail` is a text or is made of the first side's query; `adjust` may revise each comparison.
    """

    def judged(found: Evidence, first: Side, second: Side) -> Evidence:
        text = detail if isinstance(detail, str) else detail(first[1])
        found = replace(rule(found), detail=text)
        return adjust(found, first, second) if adjust else found

    return _family(pairs, _accuracies, judged, decides)


def compare_images(
    pairs: Iterable[tuple[TrainedModel, TrainedModel]],
    measure: str,
    value: PerImage,
    rule: Rule,
    *,
    detail: str,
    decides: bool = True,
) -> Family:
    """Compare a value that a measure has of each image as one family, by its median ratio."""

    def ratio(first: TrainedModel, second: TrainedModel) -> Evidence:
        sides = [_per_image(model, measure, value) for model in (first, second)]
        return replace(
            median_ratio(*sides),
            what=_versus(first, second),
            detail=detail,
            seeds=(len(measures(first, measure)), len(measures(second, measure))),
        )

    return _family(pairs, ratio, lambda found, *_: rule(found), decides)


def _family(
    pairs: Iterable[tuple[_Side, _Side]],
    compared: Callable[[_Side, _Side], Evidence],
    judged: Callable[[Evidence, _Side, _Side], Evidence],
    decides: bool,
) -> Family:
    """Compare, correct the p-values, and judge; missing records count only where it decides."""
    sides, found, missing = [], [], []
    for first, second in pairs:
        try:
            found.append(compared(first, second))
            sides.append((first, second))
        except RecordError as error:
            missing.append(str(error))
    p_values = holm([one.p for one in found if one.p is not None])
    evidence = (
        judged(replace(one, p=p, decides=decides), *pair)
        for one, p, pair in zip(found, p_values, sides, strict=True)
    )
    return Family(evidence=tuple(evidence), missing=tuple(missing) if decides else ())


def versus(
    firsts: Iterable[TrainedModel], seconds: Iterable[TrainedModel], query: Query
) -> list[tuple[Side, Side]]:
    """Return every first against every second under one attack."""
    others = list(seconds)
    return [((one, query), (other, query)) for one in firsts for other in others]


def within(models: Iterable[TrainedModel], query: Query, other: Query) -> list[tuple[Side, Side]]:
    """Return each model under two attacks."""
    return [((model, query), (model, other)) for model in models]


def _versus(first: TrainedModel, second: TrainedModel) -> str:
    return first.label if first is second else f"{first.label}{VERSUS}{second.label}"


def _accuracies(first: Side, second: Side) -> Evidence:
    """Return the first accuracy minus the second, with the p-value of this comparison alone."""
    for model, query in (first, second):
        if not model.seeds(query):
            raise RecordError(model.lacks(query.title))
    (one, query), (other, other_query) = first, second
    data = one.data(query) | other.data(other_query)
    if len({n for n, _ in data}) < len(data):
        raise RecordError(f"{one.label} and {other.label} were attacked on different images")
    seeds, other_seeds = one.seeds(query), other.seeds(other_query)
    found = paired_comparison(seeds, other_seeds)
    if found is None:
        labels = f"{one.label} and {other.label}"
        raise RecordError(f"{labels} share no image under {other_query.title}")
    return Evidence(
        what=_versus(one, other),
        first=found.first,
        second=found.second,
        value=found.difference,
        low=found.low,
        high=found.high,
        p=found.p,
        n=found.n,
        seeds=(len(seeds), len(other_seeds)),
    )


def estimates(model: TrainedModel, query: Query) -> list[SeedEstimate]:
    """Return the accuracy of each seed that has the attack."""
    return [one for seed in model.seeds(query) if (one := accuracy(seed))]


def measures(
    model: TrainedModel, name: str, checkpoint: str = BEST
) -> list[tuple[RunRecord, MeasureRecord]]:
    """Return each seed that has the measure, with its record of most images."""
    found = []
    for run in model.runs:
        own = [
            m
            for m in run.measures
            if m.spec.name == name
            and m.spec.checkpoint == checkpoint
            and same_eps(m.spec.eps, model.study.eps)
        ]
        if own:
            found.append((run, max(own, key=lambda m: m.spec.n_examples)))
    return found


def median_ratio(first: Mapping[int, float], second: Mapping[int, float]) -> Evidence:
    """Return the median of first over second on the images that both have.

    Free of any distribution: the interval lies between two order statistics, and p is of the sign
    test, in which equal images do not count. Values are at least 0; equal ones, also two zeros or
    two infinities, have ratio 1. Raises RecordError without a common image.
    """
    index = sorted(first.keys() & second.keys())
    if not index:
        raise RecordError("no image in common")
    a, b = (np.array([side[i] for i in index]) for side in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(a == b, 1.0, a / b)
    low, high = median_interval(ratios.tolist())
    value, median, other = (float(np.median(values)) for values in (ratios, a, b))
    return Evidence(
        what="",
        unit="times",
        first=median,
        second=other,
        value=value,
        low=low,
        high=high,
        p=mcnemar(int((a > b).sum()), int((a < b).sum())),
        n=len(index),
    )


def _per_image(model: TrainedModel, measure: str, value: PerImage) -> dict[int, float]:
    """Return the median over the seeds by image, without images whose value is not a number."""
    found = measures(model, measure)
    if not found:
        raise RecordError(model.lacks(f"measure {measure}"))
    values: dict[int, list[float]] = {}
    for _, record in found:
        for image, one in zip(record.arrays["index"], value(record), strict=True):
            values.setdefault(int(image), []).append(float(one))
    medians = {i: float(np.median(v)) for i, v in values.items() if len(v) == len(found)}
    return {image: median for image, median in medians.items() if not math.isnan(median)}


def hidden(family: Family) -> Family:
    """Return the family with rows on the page only for what decides."""
    return replace(family, evidence=tuple(replace(e, shown=e.decides) for e in family.evidence))
