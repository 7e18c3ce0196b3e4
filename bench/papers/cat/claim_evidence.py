"""From the records of a suite to evidence: models, accuracies and values per image.

Legend: s seeds of a model, n images.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import groupby, product
from typing import Any, NamedTuple

import numpy as np

from bench.errors import RecordError
from bench.experiments.study import Study
from bench.papers.cat.claim_rules import (
    ABOVE,
    MOST,
    NOTABLE,
    VERSUS,
    Evidence,
    Rule,
    untrained,
)
from bench.papers.cat.stated import CAT, TABLE_3
from bench.records import RunRecord
from bench.records.measure import MeasureRecord
from bench.report.accuracy import ImageOutcomes, common
from bench.report.formatting import eps_text
from bench.report.frame import Outcome, ResultsFrame, outcomes, same_eps, select
from bench.report.masking import Masking, masking
from bench.report.published import shown_name
from bench.report.suite_runs import SuiteRuns

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

    @property
    def misled(self) -> bool:
        """Whether masked gradients can make the accuracy look higher than it is."""
        return self.attack is not None and self.attack.startswith(("pgd", "cw"))


class ImageValue(NamedTuple):
    """A value of each image that is compared, made of a measure; all follow gradients."""

    measure: str
    array: str
    """Of the measure, (n, ...)."""
    of: Callable[[np.ndarray], np.ndarray] = np.asarray
    """Returns (n,) values of the array; not a number leaves an image out."""
    misled: bool = True
    checkpoint: str = BEST

    @property
    def title(self) -> str:
        return f"measure {self.measure}"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """One way of training of a suite, once per seed."""

    label: str
    method: str
    study: Study
    frame: ResultsFrame
    runs: tuple[RunRecord, ...]
    _found: dict[Query, tuple[dict[str, ImageOutcomes], set[tuple[int, str]]]] = field(
        default_factory=dict, repr=False
    )
    _masking: dict[str, Masking] = field(default_factory=dict, repr=False)

    def evaluated(self, query: Query) -> tuple[dict[str, ImageOutcomes], set[tuple[int, str]]]:
        """Return the outcomes by run id, and which data they are of.

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
            seeds = {
                str(run_id): outcomes(self.frame, own, query.kind)
                for run_id, own in rows.groupby("run_id")
            }
            data = set(zip(rows.n_expected, rows.data_sha256, strict=True))
            self._found[query] = {k: v for k, v in seeds.items() if len(v.index)}, data
        return self._found[query]

    def measures(self, name: str) -> dict[str, MeasureRecord]:
        """Return the measure by the id of each run that has it, the record of most images."""
        own = (
            (run.run_id, m)
            for run in self.runs
            for m in sorted(run.measures, key=lambda m: m.spec.n_examples)
            if (m.spec.name, m.spec.checkpoint) == (name, BEST)
            and same_eps(m.spec.eps, self.study.eps)
        )
        return dict(own)

    def by_image(self, query: Query | ImageValue) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return by run id the ascending indices of the images, (n,), and their values, (n,)."""
        if isinstance(query, Query):
            return {k: (v.index, v.correct) for k, v in self.evaluated(query)[0].items()}
        found = {}
        for run_id, record in self.measures(query.measure).items():
            values = query.of(record.arrays[query.array].astype(np.float64))
            kept = np.flatnonzero(~np.isnan(values))
            kept = kept[np.argsort(record.arrays["index"][kept])]
            found[run_id] = record.arrays["index"][kept], values[kept]
        return found

    def masking(self, checkpoint: str = BEST) -> Masking:
        """Return what the checks for masked gradients found on all seeds."""
        if checkpoint not in self._masking:
            self._masking[checkpoint] = masking(self.runs, checkpoint, self.study.eps)
        return self._masking[checkpoint]

    def alarm(self, query: Query | ImageValue | None) -> str:
        """Return `CAT-CE (logit scale)` where an alarm says that the measurement may be misled."""
        names = self.masking(query.checkpoint).names if query and query.misled else ()
        return f"{shown_name(self.label)} ({', '.join(names)})" if names else ""

    @cached_property
    def untrained(self) -> str:
        """Why its trainings do not count, with its label; empty if they do."""
        reason = untrained(self.runs)
        return f"{shown_name(self.label)} untrained: {reason}" if reason else ""

    @property
    def chance(self) -> float:
        """The accuracy of a guess; 0 without a training."""
        return next((1 / int(run.spec["num_classes"]) for run in self.runs), 0.0)

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
        names = {study.arch: archs, f"eps {eps_text(study.eps)}": radii}
        extra = ", ".join(name for name, all_of in names.items() if len(all_of) > 1)
        own = [
            TrainedModel(
                label=f"{method} ({extra})" if extra else method,
                method=method,
                study=study,
                frame=suite.frame,
                runs=part.runs.get(method, ()),
            )
            for method in study.methods
        ]
        found.setdefault((study.arch, study.dataset, study.eps, study.methods), own)
    return [model for own in found.values() for model in own]


class Compared(NamedTuple):
    """What is compared for a claim."""

    found: Sequence[Evidence | str]
    """A text names records that are missing for a comparison."""
    models: Iterable[TrainedModel] = ()
    checkpoint: str = BEST
    notes: tuple[str, ...] = ()


Side = tuple[TrainedModel, Query | ImageValue]
Versus = tuple[Query | ImageValue, Query | ImageValue, str]
"""What the first and the second model are compared under, and the detail."""


class Family(NamedTuple):
    """Comparisons under one rule."""

    pairs: Sequence[tuple[str, str]]
    """Keys of the models, usually methods; a pair that a study does not have is left out."""
    under: Sequence[Versus]
    rule: Rule = ABOVE
    decides: bool = True
    column: str = ""
    """Of the paper's Table 3, which states the paper's own difference; empty for none."""
    doubt: Callable[[Side, Side], str] | None = None
    """Why a comparison supports nothing although its rule holds; empty if it does."""
    readings: bool = False
    """Whether the paper does not say which CAT it means."""
    above_chance: bool = False
    """Whether a comparison counts only if one of the accuracies is above chance."""


def assess_families(
    suite: SuiteRuns,
    declared: Sequence[Family] | Callable[[Study], Sequence[Family]],
    measure: str = "",
) -> Compared:
    """Compare within each study that has the measure; `declared` may depend on the study."""
    found: list[Evidence | str] = []
    sides: tuple[dict[TrainedModel, None], ...] = {}, {}
    for study, group in groupby(models(suite, measure), lambda model: model.study):
        own = {model.method: model for model in group}
        for family in declared(study) if callable(declared) else declared:
            found += compare(own, family)
            for side, names in zip(sides, zip(*family.pairs, strict=True), strict=True):
                side.update({own[name]: None for name in names if name in own})
    return Compared(found, sides[0] | sides[1])


def compare(own: Mapping[str, TrainedModel], family: Family) -> Iterator[Evidence | str]:
    """Yield the comparisons of a family; a text names the records missing for a verdict."""
    for (query, other, detail), (a, b) in product(family.under, family.pairs):
        if a in own and b in own:
            try:
                yield _compared((own[a], query), (own[b], other), detail, family)
            except RecordError as error:
                if family.decides:
                    yield str(error)


def _compared(first: Side, second: Side, detail: str, family: Family) -> Evidence:
    """Return the comparison without a verdict; raises RecordError where records are missing."""
    values, n = common_values([first, second])
    per_image = isinstance(first[1], ImageValue)
    rows = (TABLE_3.get(model.method) for model, _ in (first, second))
    stated = [getattr(row, family.column) for row in rows if row and family.column]
    effect = stated[0] - stated[1] if len(stated) == 2 and None not in stated else 0.0
    at_chance = family.above_chance and max(v.mean() for v in values) <= first[0].chance
    return evidence(
        first,
        second,
        *values,
        n=n,
        detail=detail,
        reading=first[0].method if family.readings else "",
        unit="images" if per_image else "points",
        rule=family.rule,
        limit=MOST if per_image else max(NOTABLE, effect),
        decides=family.decides and not at_chance,
        doubt=family.doubt(first, second) if family.doubt else "",
    )


def evidence(
    first: tuple[TrainedModel, Query | ImageValue | None],
    second: tuple[TrainedModel, Query | ImageValue | None],
    a: np.ndarray,
    b: np.ndarray,
    **facts: Any,
) -> Evidence:
    """Return a comparison of values, (s, n) or (s,), without a verdict.

    Seeds of different models are not paired: each of the first meets each of the second. Of values
    per image, whatever their scale, counts which is larger. facts: further fields of `Evidence`.
    """
    (one, _), (other, _) = first, second
    per_image = facts.get("unit") == "images"
    x, y = (a, b) if one is other else (a[:, None], b[None])
    sample = (x > y).astype(np.int8) - (x < y) if per_image else x - y
    middle = np.median if per_image else np.mean
    return Evidence(
        what=one.label if one is other else f"{one.label}{VERSUS}{other.label}",
        first=float(middle(a)),
        second=float(middle(b)),
        value=float(sample.mean()),
        sample=sample,
        seeds=(len(a), len(b)),
        untrained=one.untrained or other.untrained,
        alarms=(one.alarm(first[1]), other.alarm(second[1])),
        **facts,
    )


def common_values(sides: Sequence[Side]) -> tuple[list[np.ndarray], int]:
    """Return the values of each side, (s, n), on the n images that all seeds of all sides have.

    Of sides of one model, only seeds with all of the queries. Raises RecordError without records.
    """
    data: set[tuple[int, str]] = set()
    found = []
    for model, query in sides:
        found.append(model.by_image(query))
        data |= model.evaluated(query)[1] if isinstance(query, Query) else set()
        if not found[-1]:
            raise RecordError(model.lacks(query.title))
    labels = " and ".join(dict.fromkeys(model.label for model, _ in sides))
    if len({n for n, _ in data}) < len(data):
        raise RecordError(f"{labels}: attacked on different images")
    if len({model.label for model, _ in sides}) == 1:
        seeds = set.intersection(*map(set, found))
        found = [{k: side[k] for k in sorted(seeds)} for side in found]
    indices = [index for side in found for index, _ in side.values()]
    index = reduce(common, indices) if indices else np.zeros(0)
    if not len(index):
        raise RecordError(f"{labels}: no image in common under {sides[-1][1].title}")
    values = [np.stack([v[np.searchsorted(i, index)] for i, v in side.values()]) for side in found]
    return [v.astype(np.int8) if v.dtype == bool else v for v in values], len(index)
