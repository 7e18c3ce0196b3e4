"""What is compared for each claim: declared families of comparisons, and tests of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import fmean

import numpy as np

from bench.measure_record import MeasureRecord
from bench.papers.cat import claim_rules as rules
from bench.papers.cat.claim_evidence import (
    BASELINES,
    LAST,
    NATURAL,
    Assessment,
    Family,
    ImageValue,
    Query,
    Side,
    TrainedModel,
    Versus,
    assess,
    assess_families,
    compare,
    models,
)
from bench.papers.cat.claim_rules import Evidence, better, ratio_above, ratio_below, tally
from bench.papers.cat.claim_training import equal_cost, faster_convergence, larger_norms
from bench.papers.cat.gaussians import UNIT
from bench.papers.cat.stated import CAT
from bench.report.accuracy import accuracy
from bench.report.formatting import MINUS, eps_text
from bench.report.masking import masking
from bench.report.published import REFERENCE
from bench.report.rows import MASKING_GAP
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import AUTOATTACK, CW, PGD
from bench.study import Study

CAT_CE, FIXED_SOFT, ADAPTIVE_HARD, NATURAL_SOFT = "cat-ce", "adv-ls", "adp-adv", "natural-ls"
"""Ablations: both parts; fixed radius, CAT's labels; CAT's radius, hard labels; only the labels."""
RADIUS_PAIRS = ((ADAPTIVE_HARD, REFERENCE), (CAT_CE, FIXED_SOFT))
"""With and without the adaptive radius, for equal labels."""
LABEL_PAIRS = ((FIXED_SOFT, REFERENCE), (CAT_CE, ADAPTIVE_HARD))
"""With and without the adaptive labels, for an equal rule for the radius."""
OTHERS = (NATURAL, *BASELINES)
CAT_VS_BASELINES = tuple(product(CAT, BASELINES))


def itself(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of each method with itself, for two attacks on one model."""
    return [(method, method) for method in methods]


def same(query: Query | ImageValue, detail: str = "") -> Versus:
    """Return that both sides are compared under one query."""
    return query, query, detail


def masked_or_unchecked(first: Side, _: Side) -> bool:
    """Whether a check for masked gradients raises an alarm, or none was run."""
    model, query = first
    assert isinstance(query, Query)
    found = masking(model.runs, query.checkpoint, model.study.eps)
    return bool(found.alarms) or not found.made


def at_chance(_: Side, far: Side) -> bool:
    """Whether a seed may be at chance at the larger radius, where any curve is flat."""
    model, query = far
    assert isinstance(query, Query)
    lows = [one.low for seed in model.evaluated(query)[0] if (one := accuracy(seed))]
    return min(lows, default=0.0) <= _chance(model)


def _chance(model: TrainedModel) -> float:
    """Return the accuracy of a guess; 0 without a training."""
    return next((1 / int(run.spec["num_classes"]) for run in model.runs), 0.0)


def attack_radii(study: Study, name: str) -> list[float]:
    """Return the radii other than its own at which the study has an attack, ascending."""
    return sorted({a.eps for a in study.attacks if a.name == name and a.eps is not None})


def _transferred(study: Study) -> list[tuple[str, float, str]]:
    """Return name, radius and source of the transferred attacks of a study."""
    return [
        (attack.name, attack.eps, f"from {attack.name.partition(':')[2] or NATURAL}")
        for attack in study.attacks
        if attack.name.partition(":")[0] == "transfer" and attack.eps is not None
    ]


def best_under_transfer(study: Study) -> list[Family]:
    """Compare on all images, whatever the clean outcome; the natural source decides."""
    pairs = list(product(CAT, OTHERS))
    return [
        Family(pairs, [same(Query(name, eps, kind="after"), source)], better, name == "transfer")
        for name, eps, source in _transferred(study)
    ]


def transfer_is_weaker(study: Study) -> list[Family]:
    """Compare transferred attacks with the white-box attack on the same model."""
    under = [
        (Query(name, eps), Query(PGD, eps), source) for name, eps, source in _transferred(study)
    ]
    return [Family(itself((*OTHERS, *CAT)), under, better)]


def curve_above(attack: str, study: Study) -> list[Family]:
    """Compare at every radius."""
    under = [
        same(Query(attack, eps), f"eps {eps_text(eps)}") for eps in attack_radii(study, attack)
    ]
    return [Family(CAT_VS_BASELINES, under, better, revise=_least_favourable)]


def _least_favourable(found: list[Evidence], model: TrainedModel) -> list[Evidence]:
    """Show each pair only at its least favourable radius, with the counts over all radii.

    Where both are at chance, neither can be better.
    """
    pairs: dict[str, list[Evidence]] = {}
    for one in found:
        decides = max(one.first or 0.0, one.second or 0.0) > _chance(model)
        pairs.setdefault(one.what, []).append(replace(one, decides=decides, shown=False))
    for own in pairs.values():
        deciding = [one for one in own if one.decides]
        least = own.index(min(deciding or own, key=lambda one: one.favour))
        remark = f"of {len(deciding)} radii: {tally(deciding)}"
        own[least] = replace(own[least], shown=True, remark=remark)
    return [one for own in pairs.values() for one in own]


def flat_curve(study: Study) -> list[Family]:
    """Compare the radii 0.05 and 0.07, the last but two and the last."""
    near, far = attack_radii(study, PGD)[-3::2]
    detail = f"eps {eps_text(near)} to {eps_text(far)}"
    under = [(Query(PGD, near), Query(PGD, far), detail)]
    family = Family(itself(CAT), under, rules.at_most(rules.FLAT), doubt=at_chance)
    return [family, family._replace(pairs=itself(BASELINES), decides=False)]


def highest_minus_lowest(surface: str, record: MeasureRecord) -> np.ndarray:
    """Return (n,) the range of a surface, `ce` or `margin`, over the patch around each image."""
    z = record.arrays[surface].astype(np.float64)
    height: np.ndarray = z.max((1, 2)) - z.min((1, 2))
    return height


def relative_rise(record: MeasureRecord) -> np.ndarray:
    """Return (n,) highest margin minus that at x, relative to the latter.

    Free of the scale of the logits.
    """
    z = record.arrays["margin"].astype(np.float64)
    centre = z.shape[1] // 2
    at_x = z[:, centre, centre]
    with np.errstate(divide="ignore"):
        rise: np.ndarray = (z.max((1, 2)) - at_x) / np.abs(at_x)
    return rise


def _smoother(value: Callable[[MeasureRecord], np.ndarray], detail: str) -> list[Family]:
    family = Family(CAT_VS_BASELINES, [same(ImageValue("landscape", value), detail)], ratio_below)
    return [family, family._replace(pairs=[(cat, NATURAL) for cat in CAT], decides=False)]


def _margins(kind: str, detail: str) -> Family:
    value = ImageValue("margins", lambda record: record.arrays[f"margin_{kind}"])
    decides = kind == "both"
    return Family(CAT_VS_BASELINES, [same(value, detail)], ratio_above, decides, shown=decides)


def _gap(attack: str, methods: Sequence[str], detail: str = "") -> Family:
    return Family(
        itself(methods), [(Query(PGD), Query(attack), detail)], rules.at_most(MASKING_GAP)
    )


_TO_AUTOATTACK, _TO_CW = f"PGD-20 {MINUS} AutoAttack", f"PGD-20 {MINUS} C&W"
_STEPS = Family(
    itself(CAT), [(Query("pgd-10"), Query("pgd-500"), "")], rules.at_most(rules.STEPS_COST)
)
_RANGE = "highest minus lowest"
FAMILIES: Mapping[str, Sequence[Family] | Callable[[Study], Sequence[Family]]] = {
    "1a": [Family(CAT_VS_BASELINES, [same(Query(PGD))], better)],
    "1b": [Family(CAT_VS_BASELINES, [same(Query(CW))], better)],
    "1c": [Family(CAT_VS_BASELINES, [same(Query(AUTOATTACK))], better)],
    "2": [Family(CAT_VS_BASELINES, [same(Query(None, kind="clean"))], better)],
    "3": [
        _gap(AUTOATTACK, CAT, _TO_AUTOATTACK)._replace(doubt=masked_or_unchecked),
        _gap(AUTOATTACK, OTHERS, _TO_AUTOATTACK)._replace(decides=False),
        _gap(CW, (*CAT, *OTHERS), _TO_CW)._replace(decides=False),
    ],
    "4a": best_under_transfer,
    "4b": transfer_is_weaker,
    "6a": partial(curve_above, PGD),
    "6b": partial(curve_above, CW),
    "6c": flat_curve,
    "7a": _smoother(partial(highest_minus_lowest, "ce"), _RANGE),
    "7b": [
        *_smoother(relative_rise, "rise over the margin at x"),
        *(
            family._replace(decides=False)
            for family in _smoother(partial(highest_minus_lowest, "margin"), _RANGE)
        ),
    ],
    "8": [_STEPS, _STEPS._replace(pairs=itself(OTHERS), decides=False)],
    "9a": [Family(RADIUS_PAIRS, [same(Query(PGD))], better)],
    "9b": [Family(RADIUS_PAIRS, [same(Query(AUTOATTACK))], better)],
    "9c": [Family(LABEL_PAIRS, [same(Query(PGD))], better)],
    "9d": [Family(LABEL_PAIRS, [same(Query(AUTOATTACK))], better)],
    "9e": [_gap(AUTOATTACK, [NATURAL_SOFT])],
    "10b": [
        _margins("both", "input and layers"),
        _margins("input", "input"),
        _margins("layers", "layers"),
    ],
}
"""By the claim's key: comparisons that differ only in models, attacks and rule."""


def _at_small_radius(model: TrainedModel, split: str = "test") -> Query:
    """Return Table 1's attack: at its suite's one radius, on the last epoch's model."""
    eps = attack_radii(model.study, PGD)[0]
    return Query(PGD, eps=eps, checkpoint=LAST, split=split)


def _by_radius(found: Sequence[TrainedModel]) -> list[TrainedModel]:
    fixed = [model for model in found if model.method == REFERENCE]
    return sorted(fixed, key=lambda model: model.study.eps)


def no_gain_from_radius(suite: SuiteRuns) -> Assessment:
    """Test each larger training radius against the smallest."""
    found = _by_radius(models(suite))
    smallest, *larger = (model.label for model in found)
    family = Family(
        [(label, smallest) for label in larger],
        [same(_at_small_radius(found[0]))],
        rules.at_most(rules.SMALL, refuted_above=0.0),
    )
    own = {model.label: model for model in found}
    return assess(compare(own, family), found, checkpoint=LAST)


def high_train_accuracy(suite: SuiteRuns) -> Assessment:
    """Test the accuracy on train images under the small radius."""
    found: list[Evidence | str] = []
    concerned = _by_radius(models(suite))
    for model in concerned:
        train, test = (
            [one for f in model.evaluated(query)[0] if (one := accuracy(f))]
            for query in (_at_small_radius(model, "train"), _at_small_radius(model))
        )
        if not train:
            found.append(model.lacks("attack on the train split"))
            continue
        mean = fmean(one.value for one in train)
        train_accuracy = Evidence(
            what=model.label,
            first=mean,
            second=fmean(one.value for one in test) if test else None,
            value=mean,
            low=min(one.low for one in train),
            high=max(one.high for one in train),
            n=min(one.n for one in train),
            seeds=(len(train), len(train)),
        )
        found.append(rules.at_least(rules.HIGH_TRAIN)(train_accuracy))
    return assess(found, concerned, checkpoint=LAST)


def beyond_margin(suite: SuiteRuns) -> Assessment:
    """Test a fixed radius beyond the margin against one within it, and CAT against both."""
    found = [
        replace(model, label=f"{model.method} (radius {model.study.eps * UNIT:g})")
        for model in models(suite)
    ]
    clean = Query(None, checkpoint=LAST, kind="clean")
    small, *_, large = (model.label for model in _by_radius(found))
    cats = [model.label for model in found if model.method in CAT]
    parts = (
        ([(small, large)], "the large radius harms", better),
        ([(cat, large) for cat in cats], "CAT avoids the harm", better),
        ([(small, cat) for cat in cats], "what CAT loses", rules.at_most(rules.SMALL)),
    )
    own = {model.label: model for model in found}
    families = (Family(pairs, [same(clean, detail)], rule) for pairs, detail, rule in parts)
    return assess(one for family in families for one in compare(own, family))


TESTS: Mapping[str, Callable[[SuiteRuns], Assessment]] = {
    **{key: partial(assess_families, declared=own) for key, own in FAMILIES.items()},
    "5a": no_gain_from_radius,
    "5b": high_train_accuracy,
    "10a": larger_norms,
    "10b": partial(assess_families, declared=FAMILIES["10b"], measure="margins"),
    "11": faster_convergence,
    "12": equal_cost,
    "13": beyond_margin,
}
"""By the claim's key; a claim without a test is not tested."""
