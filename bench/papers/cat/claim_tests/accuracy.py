"""Claims 1 to 6, 8 and 9: accuracies under attacks (Tables 1, 3, 4, Figures 2, 4a, 4b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from bench.papers.cat.claim_evidence import (
    BASELINES,
    LAST,
    NATURAL_SOFT,
    Query,
    Side,
    TrainedModel,
    assess,
    attack_radii,
    compare,
    distinct_studies,
    estimates,
    models,
    versus,
    within,
)
from bench.papers.cat.claim_rules import (
    FLAT,
    HIGH_TRAIN,
    SMALL,
    STEPS_COST,
    Assessment,
    Evidence,
    Family,
    at_least,
    at_most,
    better,
    doubted,
    tally,
)
from bench.report.aggregate import MASKING_GAP
from bench.report.formatting import MINUS, eps_text
from bench.report.masking import masking
from bench.report.published import CAT
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import AUTOATTACK, CW, PGD


def more_accurate(suite: SuiteRuns, query: Query) -> Assessment:
    """Test each CAT against each baseline under one attack."""
    cats, baselines = _of(models(suite), CAT), _of(models(suite), BASELINES)
    return assess([compare(versus(cats, baselines, query), better)], [*cats, *baselines])


def genuine(suite: SuiteRuns) -> Assessment:
    """Test the gap from PGD-20 to AutoAttack, and the checks for masked gradients."""
    found = models(suite)
    cats, others = _of(found, CAT), [m for m in found if m.method not in CAT and m.runs]
    pgd, gap = Query(PGD), at_most(MASKING_GAP)
    strong = f"PGD-20 {MINUS} AutoAttack"
    families = [
        compare(within(cats, pgd, Query(AUTOATTACK)), gap, detail=strong, adjust=_open_if_masked),
        compare(within(others, pgd, Query(AUTOATTACK)), gap, detail=strong, decides=False),
        compare(
            within([*cats, *others], pgd, Query(CW)),
            gap,
            detail=f"PGD-20 {MINUS} C&W",
            decides=False,
        ),
    ]
    return assess(families, [*cats, *others])


def _open_if_masked(evidence: Evidence, first: Side, _: Side) -> Evidence:
    """A small gap does not suffice where a check raises an alarm, or none was run."""
    model, query = first
    found = masking(model.runs, query.checkpoint, model.study.eps)
    doubt = bool(found.alarms) or not found.made
    return replace(evidence, result=doubted(evidence.result, doubt))


def best_under_transfer(suite: SuiteRuns) -> Assessment:
    """Test each CAT against each other method on all images; the natural source decides."""
    families = []
    found = models(suite, distinct_studies(suite))
    for own in _by_study(found):
        cats, others = _of(own, CAT), [model for model in own if model.method not in CAT]
        for name, eps in _transferred(own[0]):
            query = Query(name, eps=eps, kind="after")
            families.append(
                compare(
                    versus(cats, others, query),
                    better,
                    detail=_source(query),
                    decides=name == "transfer",
                )
            )
    return assess(families, found)


def transfer_is_weaker(suite: SuiteRuns) -> Assessment:
    """Test each model under each transferred attack against the white-box attack."""
    families = []
    found = models(suite, distinct_studies(suite))
    for own in _by_study(found):
        pairs: list[tuple[Side, Side]] = []
        for name, eps in _transferred(own[0]):
            pairs += within(own, Query(name, eps=eps), Query(PGD, eps=eps))
        families.append(compare(pairs, better, detail=_source))
    return assess(families, found)


def _transferred(model: TrainedModel) -> list[tuple[str, float]]:
    """Return name and radius of the transferred attacks of the model's study."""
    return [
        (attack.name, attack.eps)
        for attack in model.study.attacks
        if attack.name.partition(":")[0] == "transfer" and attack.eps is not None
    ]


def _source(query: Query) -> str:
    return query.title.removeprefix("transfer ").partition(" at ")[0]


def no_gain_from_radius(suite: SuiteRuns) -> Assessment:
    """Test each larger training radius against the smallest."""
    found = sorted(models(suite), key=lambda model: model.study.eps)
    pairs = versus(found[1:], found[:1], _at_small_radius(found[0], "test"))
    family = compare(pairs, at_most(SMALL, refuted_above=0.0))
    return assess([family], found, checkpoint=LAST)


def high_train_accuracy(suite: SuiteRuns) -> Assessment:
    """Test the accuracy on train images under the small radius."""
    evidence: list[Evidence] = []
    missing: list[str] = []
    found = sorted(models(suite), key=lambda model: model.study.eps)
    for model in found:
        train = estimates(model, _at_small_radius(model, "train"))
        test = estimates(model, _at_small_radius(model, "test"))
        if not train:
            missing.append(model.lacks("attack on the train split"))
            continue
        mean = fmean(one.value for one in train)
        accuracy = Evidence(
            what=model.label,
            first=mean,
            second=fmean(one.value for one in test) if test else None,
            value=mean,
            low=min(one.low for one in train),
            high=max(one.high for one in train),
            n=min(one.n for one in train),
            seeds=(len(train), len(train)),
        )
        evidence.append(at_least(HIGH_TRAIN)(accuracy))
    family = Family(evidence=tuple(evidence), missing=tuple(missing))
    return assess([family], found, checkpoint=LAST)


def _at_small_radius(model: TrainedModel, split: str) -> Query:
    """Return Table 1's attack: at its suite's one radius, on the last epoch's model."""
    eps = attack_radii(model.study, PGD)[0]
    return Query(PGD, eps=eps, checkpoint=LAST, split=split)


def curve_above(suite: SuiteRuns, attack: str) -> Assessment:
    """Test each CAT against each baseline at every radius."""
    families = []
    found = models(suite, distinct_studies(suite))
    for own in _by_study(found):
        pairs = [
            pair
            for eps in attack_radii(own[0].study, attack)
            for pair in versus(_of(own, CAT), _of(own, BASELINES), Query(attack, eps=eps))
        ]
        family = compare(pairs, better, detail=_at, adjust=partial(_above_chance, _chance(own)))
        families.append(replace(family, evidence=tuple(_weakest_shown(family.evidence))))
    return assess(families, found)


def _above_chance(chance: float, evidence: Evidence, _: Side, __: Side) -> Evidence:
    """Where both are at chance, neither can be better."""
    highest = max(evidence.first or 0.0, evidence.second or 0.0)
    return evidence if highest > chance else replace(evidence, decides=False)


def _chance(found: Sequence[TrainedModel]) -> float:
    """Return the accuracy of a guess; 0 without a training."""
    classes = (int(run.spec["num_classes"]) for model in found for run in model.runs)
    return next((1 / n for n in classes), 0.0)


def _weakest_shown(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Show each pair only at its least favourable radius, with the counts over all radii."""
    pairs: dict[str, list[Evidence]] = {}
    for one in evidence:
        pairs.setdefault(one.what, []).append(one)
    found = []
    for own in pairs.values():
        deciding = [one for one in own if one.decides]
        least = min(deciding or own, key=lambda one: one.favour)
        counts = f"of {len(deciding)} radii: {tally(deciding)}"
        found += [
            replace(one, remark=counts) if one is least else replace(one, shown=False)
            for one in own
        ]
    return found


def _at(query: Query) -> str:
    return "" if query.eps is None else f"eps {eps_text(query.eps)}"


def flat_curve(suite: SuiteRuns) -> Assessment:
    """Test the loss over the last part of the curve, and the accuracy that remains."""
    families = []
    found = models(suite, distinct_studies(suite))
    for own in _by_study(found):
        near, far = (Query(PGD, eps=eps) for eps in attack_radii(own[0].study, PGD)[-3::2])
        detail = f"{_at(near)} to {eps_text(far.eps or 0.0)}"
        for methods, decides in ((CAT, True), (BASELINES, False)):
            pairs = within(_of(own, methods), near, far)
            families.append(
                compare(pairs, at_most(FLAT), detail=detail, adjust=_open_at_floor, decides=decides)
            )
    return assess(families, found)


def _open_at_floor(evidence: Evidence, _: Side, far: Side) -> Evidence:
    """A curve that has reached chance is trivially flat."""
    model, query = far
    lows = [one.low for one in estimates(model, query)]
    at_floor = min(lows, default=0.0) <= _chance([model])
    return replace(evidence, result=doubted(evidence.result, at_floor))


def few_steps_suffice(suite: SuiteRuns) -> Assessment:
    """Test the loss from 10 to 500 steps of PGD."""
    found = models(suite)
    few, many = Query("pgd-10"), Query("pgd-500")
    others = [model for model in found if model.method not in CAT]
    families = [
        compare(within(_of(found, CAT), few, many), at_most(STEPS_COST)),
        compare(within(others, few, many), at_most(STEPS_COST), decides=False),
    ]
    return assess(families, found)


def ablation(suite: SuiteRuns, pairs: Sequence[tuple[str, str]], attack: str) -> Assessment:
    """Test pairs of methods, with one part of CAT and without it."""
    by_method = {model.method: model for model in models(suite)}
    query = Query(attack)
    sides = [((by_method[one], query), (by_method[other], query)) for one, other in pairs]
    family = compare(sides, better)
    return assess([family], [by_method[name] for pair in pairs for name in pair])


def labels_alone(suite: SuiteRuns) -> Assessment:
    """Test the gap from PGD-20 to AutoAttack of training on only the labels."""
    found = _of(models(suite), (NATURAL_SOFT,))
    pairs = within(found, Query(PGD), Query(AUTOATTACK))
    return assess([compare(pairs, at_most(MASKING_GAP))], found)


def _of(found: Sequence[TrainedModel], methods: Sequence[str]) -> list[TrainedModel]:
    return [model for model in found if model.method in methods]


def _by_study(found: Sequence[TrainedModel]) -> list[list[TrainedModel]]:
    """Return the models of each study."""
    studies = []
    for model in found:
        if model.study not in studies:
            studies.append(model.study)
    return [[model for model in found if model.study == study] for study in studies]
