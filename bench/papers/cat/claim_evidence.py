"""From the records of a suite to evidence: models, paired accuracies, ratios per image.

Legend: n images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.errors import RecordError
from bench.measure_record import MeasureRecord
from bench.papers.cat.claim_rules import VERSUS, ClaimResult, Evidence, Rule, together
from bench.papers.cat.stated import CAT, TABLE_3
from bench.records import RunRecord
from bench.report.accuracy import ImageOutcomes, paired_comparison
from bench.report.formatting import eps_text
from bench.report.frame import Outcome, ResultsFrame
from bench.report.masking import Masking, masking
from bench.report.select import outcomes, same_eps, select
from bench.report.statistics import holm, mcnemar, median_interval
from bench.report.suite_runs import SuiteRuns
from bench.study import Study

BEST, LAST = "best", "last"
NATURAL = "natural"
"""Training without an adversary."""
BASELINES = tuple(name for name in TABLE_3 if name not in (*CAT, NATURAL))
"""The adversarial training methods of Table 3 that CAT is compared with."""


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
        other = [text for text in (self.checkpoint, self.split) if text not in (BEST, "test")]
        return name + source + at + (f" ({', '.join(other)})" if other else "")


class ImageValue(NamedTuple):
    """A value of each image that is compared, made of a measure."""

    measure: str
    of: Callable[[MeasureRecord], np.ndarray]
    """Returns (n,) values of at least 0; not a number leaves an image out."""


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

    def evaluated(self, query: Query) -> tuple[list[ImageOutcomes], set[tuple[int, str]]]:
        """Return the outcomes of each seed that has the evaluation, and which data they are of.

        The data are the numbers of images of the evaluations, and checksums of their content.
        """
        if query not in self._found:
            eps = self.study.eps if query.eps is None else query.eps
            rows = select(
                self.frame,
                run_ids=[run.run_id for run in self.runs],
                attack=query.attack,
                checkpoint=query.checkpoint,
                eps=None if query.attack is None else eps,
                split=query.split,
            )
            seeds = (outcomes(self.frame, own, query.kind) for _, own in rows.groupby("run_id"))
            data = set(zip(rows.n_expected, rows.data_sha256, strict=True))
            self._found[query] = [seed for seed in seeds if len(seed.index)], data
        return self._found[query]

    def measures(self, name: str) -> list[MeasureRecord]:
        """Return the measure of each seed that has it, the record of most images."""
        by_seed = (
            [
                m
                for m in run.measures
                if m.spec.name == name
                and m.spec.checkpoint == BEST
                and same_eps(m.spec.eps, self.study.eps)
            ]
            for run in self.runs
        )
        return [max(own, key=lambda m: m.spec.n_examples) for own in by_seed if own]

    def lacks(self, what: str) -> str:
        """Say why nothing can be compared."""
        return f"{self.label}: {f'no {what}' if self.runs else 'no training'}"


def models(suite: SuiteRuns, measure: str = "") -> list[TrainedModel]:
    """Return the models of the studies, of all or of those with a measure; absent ones too.

    A study that a smaller size makes equal to an earlier one is left out. Labels name the network
    or the radius where the studies differ in it.
    """
    parts = [
        part
        for part in suite.studies
        if not measure or any(measure in own.names for own in part.study.measures)
    ]
    archs, radii = ({getattr(part.study, name) for part in parts} for name in ("arch", "eps"))
    found: dict[tuple[object, ...], list[TrainedModel]] = {}
    for part in parts:
        study = part.study
        extra = [study.arch] if len(archs) > 1 else []
        extra += [f"eps {eps_text(study.eps)}"] if len(radii) > 1 else []
        own = [
            TrainedModel(
                label=f"{method} ({', '.join(extra)})" if extra else method,
                method=method,
                study=study,
                frame=suite.frame,
                runs=part.runs.get(method, ()),
            )
            for method in study.methods
        ]
        found.setdefault((study.arch, study.dataset, study.eps, study.methods), own)
    return [model for own in found.values() for model in own]


class CheckedModel(NamedTuple):
    """A model that a claim is about, and its checks for masked gradients."""

    label: str
    masking: Masking
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What the records of one suite say about one claim."""

    result: ClaimResult
    evidence: tuple[Evidence, ...] = ()
    missing: tuple[str, ...] = ()
    """Records that the verdict would also rest on."""
    notes: tuple[str, ...] = ()
    models: tuple[CheckedModel, ...] = ()


def assess(
    found: Iterable[Evidence | str],
    models: Iterable[TrainedModel] = (),
    *,
    checkpoint: str = BEST,
    notes: Iterable[str] = (),
) -> Assessment:
    """Return the assessment that all deciding comparisons together give; a text is missing."""
    found = list(found)
    evidence = tuple(one for one in found if isinstance(one, Evidence))
    missing = tuple(dict.fromkeys(text for text in found if isinstance(text, str)))
    return Assessment(
        result=together([one.result for one in evidence if one.decides], missing),
        evidence=evidence,
        missing=missing,
        notes=tuple(notes),
        models=tuple(
            CheckedModel(m.label, masking(m.runs, checkpoint, m.study.eps), m.runs)
            for m in models
            if m.runs
        ),
    )


Side = tuple[TrainedModel, Query | ImageValue]
Versus = tuple[Query | ImageValue, Query | ImageValue, str]
"""What the first and the second model are compared under, and the detail."""


class Family(NamedTuple):
    """Comparisons under one rule; Holm's correction covers all of them."""

    pairs: Sequence[tuple[str, str]]
    """Keys of the models, usually methods; a pair that a study does not have is left out."""
    under: Sequence[Versus]
    rule: Rule
    decides: bool = True
    shown: bool = True
    doubt: Callable[[Side, Side], bool] | None = None
    """Whether a comparison remains undecided although its rule holds."""
    revise: Callable[[list[Evidence], TrainedModel], list[Evidence]] | None = None
    """Changes the judged comparisons; gets a model, which says the number of classes."""


def assess_families(
    suite: SuiteRuns,
    declared: Sequence[Family] | Callable[[Study], Sequence[Family]],
    measure: str = "",
) -> Assessment:
    """Compare within each study that has the measure; `declared` may depend on the study."""
    found: list[Evidence | str] = []
    firsts: dict[TrainedModel, None] = {}
    seconds: dict[TrainedModel, None] = {}
    for study, group in groupby(models(suite, measure), lambda model: model.study):
        own = {model.method: model for model in group}
        for family in declared(study) if callable(declared) else declared:
            found += compare(own, family)
            firsts |= {own[a]: None for a, _ in family.pairs if a in own}
            seconds |= {own[b]: None for _, b in family.pairs if b in own}
    return assess(found, firsts | seconds)


def compare(own: Mapping[str, TrainedModel], family: Family) -> list[Evidence | str]:
    """Return the judged comparisons; texts name the records missing for a verdict."""
    found: list[tuple[Evidence, Side, Side]] = []
    missing: list[str] = []
    for (query, other, detail), (a, b) in product(family.under, family.pairs):
        if a in own and b in own:
            first, second = (own[a], query), (own[b], other)
            try:
                found.append((replace(_compared(first, second), detail=detail), first, second))
            except RecordError as error:
                missing += [str(error)] if family.decides else []
    judged: list[Evidence] = []
    p_values = holm([one.p or 0.0 for one, *_ in found])
    for p, (one, first, second) in zip(p_values, found, strict=True):
        done = family.rule(replace(one, p=p, decides=family.decides, shown=family.shown))
        if done.result is ClaimResult.HOLDS and family.doubt and family.doubt(first, second):
            done = replace(done, result=ClaimResult.OPEN)
        judged.append(done)
    if judged and family.revise:
        judged = family.revise(judged, found[0][1][0])
    return [*judged, *missing]


def _compared(first: Side, second: Side) -> Evidence:
    """Return the comparison without a verdict; raises RecordError where records are missing."""
    (one, query), (other, other_query) = first, second
    if isinstance(query, Query) and isinstance(other_query, Query):
        found = _accuracies(one, query, other, other_query)
    else:
        assert isinstance(query, ImageValue)
        assert isinstance(other_query, ImageValue)
        values, other_values = _per_image(one, query), _per_image(other, other_query)
        seeds = len(one.measures(query.measure)), len(other.measures(other_query.measure))
        found = replace(median_ratio(values, other_values), seeds=seeds)
    return replace(found, what=one.label if one is other else f"{one.label}{VERSUS}{other.label}")


def _accuracies(
    one: TrainedModel, query: Query, other: TrainedModel, other_query: Query
) -> Evidence:
    """Return the first accuracy minus the second, on the images that all seeds of both share."""
    (seeds, data), (other_seeds, other_data) = one.evaluated(query), other.evaluated(other_query)
    if not seeds:
        raise RecordError(one.lacks(query.title))
    if not other_seeds:
        raise RecordError(other.lacks(other_query.title))
    labels = f"{one.label} and {other.label}"
    if len({n for n, _ in data | other_data}) < len(data | other_data):
        raise RecordError(f"{labels} were attacked on different images")
    found = paired_comparison(seeds, other_seeds)
    if found is None:
        raise RecordError(f"{labels} share no image under {other_query.title}")
    return Evidence(
        what="",
        first=found.first,
        second=found.second,
        value=found.difference,
        low=found.low,
        high=found.high,
        p=found.p,
        n=found.n,
        seeds=(len(seeds), len(other_seeds)),
    )


def median_ratio(first: pd.Series, second: pd.Series) -> Evidence:
    """Return the median of first over second on the images, the index, that both have.

    Free of any distribution: the interval lies between two order statistics, and p is of the sign
    test, in which equal images do not count. Values are at least 0; equal ones, also two zeros or
    two infinities, have ratio 1. Raises RecordError without a common image.
    """
    aligned = first.align(second, join="inner")
    a, b = (side.to_numpy(np.float64) for side in aligned)
    if not len(a):
        raise RecordError("no image in common")
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
        n=len(a),
    )


def _per_image(model: TrainedModel, query: ImageValue) -> pd.Series:
    """Return the median over the seeds by image, of the images that all seeds have."""
    found = model.measures(query.measure)
    if not found:
        raise RecordError(model.lacks(f"measure {query.measure}"))
    seeds = [pd.Series(query.of(r).astype(np.float64), index=r.arrays["index"]) for r in found]
    table = pd.concat(seeds, axis=1, join="inner")
    return pd.Series(np.median(table, axis=1), table.index).dropna()
