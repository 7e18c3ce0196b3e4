"""From the records of a suite to evidence: models, paired accuracies, ratios image by image.

Legend: n images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import NamedTuple

import numpy as np

from bench.errors import RecordError
from bench.measured import MeasureRecord
from bench.papers.cat.claim_rules import (
    VERSUS,
    Assessment,
    CheckedModel,
    Evidence,
    Family,
    Rule,
    better,
    superiority,
    together,
)
from bench.records import RunRecord
from bench.report.accuracy import ImageOutcomes, PairedComparison, accuracy, paired_comparison
from bench.report.formatting import eps_text
from bench.report.frame import Outcome, ResultsFrame
from bench.report.masking import masking
from bench.report.published import CAT, REFERENCE, TABLE_3
from bench.report.select import outcomes, same_eps, select
from bench.report.statistics import holm, mcnemar, median_interval
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.study import Study

BEST, LAST = "best", "last"
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


class SeedOutcomes(NamedTuple):
    """The images' outcomes for one seed."""

    outcomes: ImageOutcomes
    data: frozenset[tuple[int, str]]
    """Numbers of images, and the checksums of their content."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """One way of training of a suite, once per seed."""

    label: str
    method: str
    study: Study
    frame: ResultsFrame
    runs: tuple[RunRecord, ...]
    _seeds: dict[Query, list[SeedOutcomes]] = field(default_factory=dict, repr=False)

    def seeds(self, query: Query) -> list[SeedOutcomes]:
        """Return the outcomes of each seed that has the evaluation."""
        if query not in self._seeds:
            found = [self._outcomes(run, query) for run in self.runs]
            self._seeds[query] = [seed for seed in found if len(seed.outcomes.index)]
        return self._seeds[query]

    def _outcomes(self, run: RunRecord, query: Query) -> SeedOutcomes:
        eps = self.study.eps if query.eps is None else query.eps
        rows = select(
            self.frame,
            run_ids=[run.run_id],
            attack=query.attack,
            checkpoint=query.checkpoint,
            eps=None if query.attack is None else eps,
            split=query.split,
        )
        data = frozenset(zip(rows["n_expected"], rows["data_sha256"], strict=True))
        return SeedOutcomes(outcomes(self.frame, rows, query.kind), data)

    def lacks(self, what: str) -> str:
        """Say why nothing can be compared."""
        return f"{self.label}: {f'no {what}' if self.runs else 'no training'}"


Side = tuple[TrainedModel, Query]


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
    Missing records count only where the family decides.
    """
    found: list[tuple[Side, Side, PairedComparison]] = []
    missing = []
    for first, second in pairs:
        try:
            found.append((first, second, _paired(first, second)))
        except RecordError as error:
            missing.append(str(error))
    evidence = []
    for (first, second, one), p in zip(found, holm([c.p for *_, c in found]), strict=True):
        result, favour = rule(one, p)
        item = Evidence(
            what=_versus(first[0], second[0]),
            detail=detail if isinstance(detail, str) else detail(first[1]),
            first=one.first,
            second=one.second,
            value=one.difference,
            low=one.low,
            high=one.high,
            p=p if rule is better else None,
            n=one.n,
            seeds=(len(first[0].seeds(first[1])), len(second[0].seeds(second[1]))),
            decides=decides,
            result=result,
            favour=favour,
        )
        evidence.append(adjust(item, first, second) if adjust else item)
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


def _paired(first: Side, second: Side) -> PairedComparison:
    sides = []
    for model, query in (first, second):
        sides.append(model.seeds(query))
        if not sides[-1]:
            raise RecordError(model.lacks(query.title))
    names = f"{first[0].label} and {second[0].label}"
    data = frozenset().union(*(seed.data for side in sides for seed in side))
    if len({n for n, _ in data}) < len(data):
        raise RecordError(f"{names} were attacked on different images")
    one, other = ([seed.outcomes for seed in side] for side in sides)
    found = paired_comparison(one, other)
    if found is None:
        raise RecordError(f"{names} share no image under {second[1].title}")
    return found


class SeedRange(NamedTuple):
    """Accuracy of one model under one attack over its seeds."""

    mean: float
    low: float
    high: float
    """The lowest and the highest of the seeds' Wilson limits."""
    n: int
    """Images of the seed with fewest."""
    seeds: int


def seed_range(model: TrainedModel, query: Query) -> SeedRange | None:
    """Return the accuracy over the seeds; None where no seed has the attack."""
    found = [one for seed in model.seeds(query) if (one := accuracy(seed.outcomes))]
    if not found:
        return None
    return SeedRange(
        mean=fmean(one.value for one in found),
        low=min(one.low for one in found),
        high=max(one.high for one in found),
        n=min(one.n for one in found),
        seeds=len(found),
    )


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


PerImage = Callable[[MeasureRecord], np.ndarray]
"""From a measure to a value of each image, (n,), at least 0."""


class MedianRatio(NamedTuple):
    """First over second, image by image."""

    median: float
    low: float
    high: float
    """95% interval of the median; 0 and infinity where too few images have one."""
    p: float
    """Of the sign test: is either equally likely to be larger? Equal images do not count."""
    first: float
    second: float
    """Medians of the two."""
    n: int


def median_ratio(first: Mapping[int, float], second: Mapping[int, float]) -> MedianRatio:
    """Return the median ratio over the images that both have, free of any distribution.

    Equal values, also two zeros or two infinities, have ratio 1. Raises RecordError without a
    common image.
    """
    index = sorted(first.keys() & second.keys())
    if not index:
        raise RecordError("no image in common")
    a, b = (np.array([side[i] for i in index]) for side in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(a == b, 1.0, a / b)
    low, high = median_interval(ratios.tolist())
    p = mcnemar(int((a > b).sum()), int((a < b).sum()))
    medians = [float(np.median(values)) for values in (ratios, a, b)]
    return MedianRatio(medians[0], low, high, p, medians[1], medians[2], len(index))


def compare_images(
    pairs: Iterable[tuple[TrainedModel, TrainedModel]],
    measure: str,
    value: PerImage,
    *,
    larger: bool,
    detail: str,
    decides: bool = True,
) -> Family:
    """Compare a value of each image as one family; `larger`: the claim has the first larger."""
    found: list[tuple[TrainedModel, TrainedModel, MedianRatio]] = []
    missing = []
    for first, second in pairs:
        try:
            sides = [_per_image(model, measure, value) for model in (first, second)]
            found.append((first, second, median_ratio(*sides)))
        except RecordError as error:
            missing.append(str(error))
    evidence = []
    for (first, second, r), p in zip(found, holm([r.p for *_, r in found]), strict=True):
        low, high = (r.low - 1, r.high - 1) if larger else (1 - r.high, 1 - r.low)
        item = Evidence(
            what=_versus(first, second),
            detail=detail,
            unit="times",
            first=r.first,
            second=r.second,
            value=r.median,
            low=r.low,
            high=r.high,
            p=p,
            n=r.n,
            seeds=(len(measures(first, measure)), len(measures(second, measure))),
            decides=decides,
            result=superiority(low, high, p),
            favour=r.median if larger else -r.median,
        )
        evidence.append(item)
    return Family(evidence=tuple(evidence), missing=tuple(missing) if decides else ())


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
