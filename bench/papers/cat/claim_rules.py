"""When a claim is supported or contradicted, and when the records cannot tell.

Every verdict is made here; claim_tests.py only picks what is compared. Accuracies are fractions.
A comparison is judged only if its trainings count, its sample is large enough, and it has enough
seeds. A training counts if its radius per image, where it has one, has reached its bound and come
to rest, and if its robust validation accuracy no longer rises; otherwise schedules are compared.

A sample is large enough where its smallest detectable difference is at most a limit, the larger of
5 points and the paper's own effect. It is also where the interval of the difference, at the level
corrected for the claim's comparisons, lies wholly beyond that limit on either side of the rule's
bound: power says what a sample may have missed, and such a difference was not missed. The limit is
the same for and against a claim.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from math import ceil, inf, log
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np

from bench.eps import REFERENCE_EPS
from bench.records import QUANTILES, RunRecord
from bench.report.formatting import counted, percent
from bench.report.published import shown_name
from bench.report.statistics import LEVEL, CrossedMean, crossed_mean, holm, wilson

LEAST_SEEDS = 3
"""Trainings of each side that a sentence about a method needs."""
NOTABLE = 0.05
"""A difference of accuracies that a sample must be able to show, unless the paper's is larger."""
MOST = 0.5
"""The same for a value per image: lower on three images of four, higher on the fourth."""
STEPS_COST = 0.03
""""Around 2%" may be up to 3 points."""
SMALL = 0.01
"""What CAT may lose where it is said to lose nothing."""
CLEAN_COST = 0.03
"""So may "only degrades", which is of 2.45 points."""
HIGH_TRAIN = 0.95
"""Train accuracy that still counts as close to 100%; the paper's lowest is 99.16%."""
FLAT = 0.05
"""A curve that loses no more than this from 0.05 to 0.07 counts as flat."""
LEVEL_SHARE = 0.9
"""Convergence: the level, as a share of the reference's best robust validation accuracy."""
STILL = 0.02
"""The median radius may move by this share of eps over the last tenth of the epochs."""
_TOO_FEW = " cannot show less than "
VERSUS = " vs "
"""Between the labels of two models in `Evidence.what`."""
_MEDIAN = QUANTILES.index(0.5)


class ClaimResult(StrEnum):
    """The verdict on one comparison or on a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    RAN = "ran without a verdict"
    MISSING = "no records of its suite"
    UNTESTED = "not tested"


class Rule(NamedTuple):
    """On which side of a bound the value must significantly be for the claim to be supported."""

    bound: float = 0.0
    above: bool = True
    refuted_beyond: float | None = None
    """The bound beyond which, on the other side, the claim is contradicted; None: the same."""

    @property
    def other_bound(self) -> float:
        return self.bound if self.refuted_beyond is None else self.refuted_beyond

    @property
    def sign(self) -> int:
        return 1 if self.above else -1


ABOVE, BELOW = Rule(), Rule(above=False)
"""The first is above, or below, the second."""
NO_BOOST = Rule(NOTABLE, above=False, refuted_beyond=0.0)
"""An equivalence test on one side: surely less than NOTABLE; contradicted by any boost."""


def at_most(margin: float) -> Rule:
    """Return the rule "the first is above the second by at most `margin`" (non-inferiority)."""
    return Rule(margin, above=False)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One comparison that bears on a claim; `judged` fills in the verdict."""

    what: str
    """`cat-ce vs madry`."""
    detail: str = ""
    """Distinguishes comparisons of the same models: an attack, a radius, a norm."""
    reading: str = ""
    """Which reading of a claim that leaves one open, such as the variant of CAT."""
    unit: Literal["points", "images", "epochs", "times"] = "points"
    """points: accuracies, fractions here and percent on the page. images: the value is such a
    fraction, but not first and second. times: log10 of a ratio, and so are first and second."""
    first: float | None = None
    second: float | None = None
    value: float
    """First minus second, or the quantity that the claim is about."""
    sample: np.ndarray | None = field(default=None, repr=False)
    """The value of each seed of the first, seed of the second, image; see `crossed_mean`. None for
    a value without error."""
    n: int | None = None
    """Images, the last axis of the sample; None where it has none."""
    seeds: tuple[int, int] = (1, 1)
    """Trainings of the first and of the second."""
    rule: Rule = ABOVE
    limit: float = NOTABLE
    """The largest difference that the sample may fail to show, unless it is surely beyond."""
    decides: bool = True
    """Whether the claim's verdict rests on it."""
    untrained: str = ""
    """Why a training does not count; empty if all do."""
    alarms: tuple[str, str] = ("", "")
    """Masking alarms on the first and on the second that can have misled its measurement."""
    doubt: str = ""
    """Why it supports nothing, whatever its value."""
    interval: tuple[float, float] | None = None
    """95%; None where the value has no error."""
    corrected: tuple[float, float] | None = None
    """At Bonferroni's level of the claim."""
    enough: bool = True
    """Whether the sample is large enough."""
    p: float | None = None
    """Of the test against the rule's bound, after Holm's correction over the claim."""
    detectable: float | None = None
    """Smallest difference found in 80% of such samples, after Holm's correction."""
    result: ClaimResult = ClaimResult.INCONCLUSIVE
    reason: str = ""
    """Why it is inconclusive."""

    @property
    def exact(self) -> bool:
        """Whether the value has no error, or one that its single training cannot show."""
        return self.sample is None or self.sample.size == 1

    @property
    def admissible(self) -> bool:
        """Whether a verdict could be given on it, whatever the value."""
        few = self.sample is not None and min(self.seeds) < LEAST_SEEDS
        return self.enough and not (self.untrained or few)

    @property
    def favour(self) -> float:
        """How far the value is on the claim's side of the bound."""
        return (self.value - self.rule.bound) * self.rule.sign

    @property
    def labels(self) -> list[str]:
        """Labels of the models."""
        return self.what.split(VERSUS)

    @property
    def title(self) -> str:
        """The comparison as readers know it: `CAT-CE vs Madry AT`."""
        return VERSUS.join(map(shown_name, self.labels))

    @cached_property
    def mean(self) -> CrossedMean:
        """The value with its standard error."""
        if self.sample is None:
            return CrossedMean(self.value, 0.0, inf)
        rounding = 1.0 if self.unit == "epochs" else 0.0
        return crossed_mean(self.sample, images=self.n is not None, rounding=rounding)


def judged(found: Sequence[Evidence], n_missing: int = 0) -> list[Evidence]:
    """Return the comparisons of one claim with their verdicts.

    n_missing: comparisons of the claim without records; Holm's correction counts them.
    """
    tested = [one for one in found if one.decides and not one.exact]
    p_for = holm([one.mean.p(one.rule.bound) for one in tested], n_missing)
    p_against = holm([one.mean.p(one.rule.other_bound) for one in tested], n_missing)
    level = LEVEL / max(1, len(tested) + n_missing)
    p_values = dict(zip(map(id, tested), zip(p_for, p_against, strict=True), strict=True))
    return [_judged(one, p_values.get(id(one), (None, None)), level) for one in found]


def _judged(e: Evidence, p: tuple[float | None, float | None], level: float) -> Evidence:
    p_for, p_against = p
    beyond = (e.value - e.rule.other_bound) * e.rule.sign
    supported = e.favour >= 0 if p_for is None else e.favour > 0 and p_for < LEVEL
    contradicted = beyond < 0 and (p_against is None or p_against < LEVEL)
    if not e.exact:
        intervals = [e.mean.interval(confidence) for confidence in (0.95, 1 - level)]
        if e.n:
            intervals = [(max(low, -1.0), min(high, 1.0)) for low, high in intervals]
        detectable = max(e.mean.detectable(level), _least(e, level))
        e = replace(
            e,
            interval=intervals[0],
            corrected=intervals[1],
            p=p_against if e.rule == NO_BOOST else p_for,
            detectable=detectable,
            enough=detectable <= e.limit or _surely_beyond(e, intervals[1], level),
        )
    reason = _reason(e, supported, contradicted)
    verdict = ClaimResult.SUPPORTED if supported else ClaimResult.CONTRADICTED
    return replace(e, result=ClaimResult.INCONCLUSIVE if reason else verdict, reason=reason)


def _least(e: Evidence, level: float, limit: float = 0.0) -> float:
    """Return the least difference, of n images, that an exact test finds to be above `limit`.

    The sign test where all images that differ do so in one direction: k of them have at most
    probability ((1 + limit) / 2)^k. 0 without images.
    """
    return ceil(log(level / 2) / log((1 + limit) / 2)) / e.n if e.n else 0.0


def _surely_beyond(e: Evidence, interval: tuple[float, float], level: float) -> bool:
    """Return whether the difference is beyond the limit, seen from the bound on its side."""
    bounds = e.rule.other_bound, e.rule.bound
    lower, upper = bounds if e.rule.above else bounds[::-1]
    least = _least(e, level, e.limit)
    above = interval[0] - upper > e.limit and e.value - upper >= least
    return above or (lower - interval[1] > e.limit and lower - e.value >= least)


def _reason(e: Evidence, supported: bool, contradicted: bool) -> str:
    """Return the first reason why nothing follows from a comparison; empty if something does."""
    if e.untrained:
        return e.untrained
    seeds = counted(min(e.seeds), "seed")
    if not e.enough and e.detectable is not None:
        images = f"{e.n} images and " if e.n else ""
        few = f"{images}{seeds}{_TOO_FEW}{_amount(e.detectable, e.unit)}"
        if supported or contradicted:
            few += f"; significant, but not by {_amount(e.limit, e.unit)} at the corrected level"
        return few
    if not e.admissible:
        networks = "these networks" if len(e.labels) > 1 or max(e.seeds) > 1 else "this network"
        found = "holds" if supported else "fails" if contradicted else "undecided"
        return f"{seeds}: {found} for {networks} only"
    if supported and contradicted:
        return f"{e.title}: a boost, but of less than {percent(e.rule.bound, 0)} points"
    if not supported and not contradicted:
        return f"{e.title}: not significant"
    if e.doubt and supported:
        return e.doubt
    # a masked model's accuracy is an upper bound, which only the other side can lean on
    alarm = e.alarms[0] if e.rule.above == supported else e.alarms[1]
    within = len(e.labels) == 1 and contradicted
    return f"masking alarm on {alarm}" if alarm and not within else ""


def _amount(value: float, unit: str) -> str:
    if unit == "times":
        return f"a factor of {10**value:.3g}"
    return f"{value:.3g} epochs" if unit == "epochs" else f"{percent(value)} points"


def verdict(evidence: Sequence[Evidence], missing: Sequence[str] = ()) -> tuple[ClaimResult, str]:
    """Return the verdict on a claim, and why it is inconclusive.

    All deciding comparisons must support it, and one that contradicts refutes it. Of a claim with
    several readings each has a verdict of its own, and all must agree.
    """
    deciding = [one for one in evidence if one.decides]
    if not deciding:
        return ClaimResult.MISSING, ""
    readings = {
        reading: _together({one.result for one in deciding if one.reading == reading})
        for reading in dict.fromkeys(one.reading for one in deciding)
    }
    found = set(readings.values())
    if found == {ClaimResult.CONTRADICTED} and (not missing or "" in readings):
        return ClaimResult.CONTRADICTED, ""
    if found == {ClaimResult.SUPPORTED} and not missing:
        return ClaimResult.SUPPORTED, ""
    if len(found) > 1 and ClaimResult.INCONCLUSIVE not in found:
        reasons = [f"{shown_name(reading)}: {result}" for reading, result in readings.items()]
    else:
        # of samples that are too small, only the one that shows least
        ordered = sorted(deciding, key=lambda one: one.detectable or 0.0)
        worst = {one.reason.partition(_TOO_FEW)[0]: one.reason for one in ordered}
        counts = Counter(one.reason.partition(_TOO_FEW)[0] for one in deciding if one.reason)
        reasons = [worst[reason] for reason, _ in counts.most_common()]
    if missing:
        reasons.append(f"{counted(len(missing), 'record')} missing")
    if len(reasons) > 3:
        reasons[2:] = [f"{len(reasons) - 2} more reasons"]
    return ClaimResult.INCONCLUSIVE, "; ".join(reasons)


def _together(found: set[ClaimResult]) -> ClaimResult:
    if ClaimResult.CONTRADICTED in found:
        return ClaimResult.CONTRADICTED
    return found.pop() if len(found) == 1 else ClaimResult.INCONCLUSIVE


def tally(evidence: Iterable[Evidence]) -> str:
    """Return `3 supported, 1 contradicted, 10 inconclusive`; empty without evidence."""
    counts = Counter(one.result for one in evidence)
    return ", ".join(f"{counts[result]} {result}" for result in ClaimResult if counts[result])


def untrained(runs: Sequence[RunRecord]) -> str:
    """Return why the trainings of one method, a seed each, do not count; empty if they do.

    Radii must be at their bound and at rest in every seed; the accuracy, which is measured on few
    images, must be on its plateau in the mean over the seeds.
    """
    found = [reason for run in runs for reason in _radius(run)]
    if found or not runs:
        return found[0] if found else ""
    return _plateau(runs)


def _radius(run: RunRecord) -> Iterator[str]:
    """Yield what is wrong with the radii, or margins, of the images of one training."""
    last = run.history[-1] if run.history else {}
    eps = float(run.spec["eps"])
    for name in (key for key in last if key.endswith("_quantiles") and eps):
        medians = [float(epoch[name][_MEDIAN]) / eps for epoch in _last(run.history, 10)]
        largest = float(last[name][-1]) / eps
        cap = (run.spec["params"].get("eps_max") or REFERENCE_EPS) / REFERENCE_EPS
        # a margin is what training makes it; a radius is what the training was given
        if name == "radius_quantiles" and largest < min(cap, 1.0) - 1e-3:
            yield f"median radius {medians[-1]:.2f} eps, largest {largest:.2f} eps"
        elif (moved := max(medians) - min(medians)) > STILL or len(medians) < 2:
            what = name.removesuffix("_quantiles")
            yield f"{what} still moves by {percent(moved)}% of eps"


def _plateau(runs: Sequence[RunRecord]) -> str:
    """Return that the accuracy still rises by more than half of Wilson's half-width; or nothing."""
    scored = [
        [epoch for epoch in run.history if epoch.get("val_robust") is not None] for run in runs
    ]
    ends = [_last(epochs, 5) for epochs in scored]
    if not all(len(end) > 1 and end[-1].get("n_val") for end in ends):
        return "no robust validation accuracy on record"
    value = fmean(end[-1]["val_robust"] for end in ends)
    rise = value - fmean(end[0]["val_robust"] for end in ends)
    n = min(int(end[-1]["n_val"]) for end in ends)
    low, high = wilson(round(value * n), n)
    if rise <= (high - low) / 4:
        return ""
    return f"robust accuracy still rises, by {percent(rise)} points"


def _last(epochs: Sequence[Mapping[str, Any]], part: int) -> Sequence[Mapping[str, Any]]:
    """Return the last of `part` equal parts of the epochs, rounded up, and the epoch before it."""
    return epochs[-1 - ceil(len(epochs) / part) :]
