"""What is compared for each claim: declared families of comparisons, and tests of their own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from math import log10
from statistics import fmean
from typing import Any

import numpy as np

from bench.errors import RecordError
from bench.experiments.study import Study
from bench.papers.cat import claim_rules as rules
from bench.papers.cat.claim_evidence import (
    BASELINES,
    LAST,
    NATURAL,
    Compared,
    Family,
    ImageValue,
    Query,
    Side,
    TrainedModel,
    Versus,
    assess_families,
    common_values,
    compare,
    evidence,
    models,
)
from bench.papers.cat.claim_rules import ABOVE, BELOW, NO_BOOST, Evidence, Rule
from bench.papers.cat.complexity import COLUMNS, PAPER_RATIOS
from bench.papers.cat.gaussians import UNIT
from bench.papers.cat.stated import CAT
from bench.records import RunRecord
from bench.report.accuracy import accuracy
from bench.report.cost import SAME, group_costs
from bench.report.formatting import MINUS, eps_text, percent
from bench.report.published import REFERENCE, shown_name
from bench.report.rows import MASKING_GAP, sections
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import AUTOATTACK, CW, PGD

CAT_CE, CAT_MIX = CAT
FIXED_SOFT, ADAPTIVE_HARD, NATURAL_SOFT = "adv-ls", "adp-adv", "natural-ls"
"""Ablations: fixed radius, CAT's labels; CAT's radius, hard labels; only the labels."""
TRADES = "trades"
FIGURE_2 = (REFERENCE, TRADES)
"""The other adversarial training methods of Figures 2 and 4a and of Table 4."""
OTHERS = (NATURAL, *BASELINES)
CAT_VS_BASELINES = tuple(product(CAT, BASELINES))
CAT_VS_FIGURE_2 = tuple(product(CAT, FIGURE_2))
STEPS = (10, 20, 50, 100, 500)
"""Of PGD in Figure 4a."""
_NO_GAP = rules.at_most(MASKING_GAP)


def itself(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of each method with itself, for two attacks on one model."""
    return [(method, method) for method in methods]


def same(query: Query | ImageValue, detail: str = "") -> Versus:
    """Return that both sides are compared under one query."""
    return query, query, detail


def masked_or_unchecked(first: Side, _: Side) -> str:
    """Say that a check for masked gradients raises an alarm, or that none was run."""
    model, query = first
    found = model.masking(query.checkpoint)
    if found.alarms:
        return f"masking alarm on {shown_name(model.label)} ({', '.join(found.names)})"
    return "" if found.made else f"{shown_name(model.label)}: no masking checks on record"


def at_chance(_: Side, far: Side) -> str:
    """Say that a seed may be at chance at the larger radius, where any curve is flat."""
    model, query = far
    assert isinstance(query, Query)
    lows = [
        one.low or 0.0 for seed in model.evaluated(query)[0].values() if (one := accuracy(seed))
    ]
    return (
        f"{shown_name(model.label)} may be at chance"
        if min(lows, default=0.0) <= model.chance
        else ""
    )


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
    return [
        Family(
            CAT_VS_FIGURE_2,
            [same(Query(name, eps, kind="after"), source)],
            decides=name == "transfer",
            readings=True,
        )
        for name, eps, source in _transferred(study)
    ]


def transfer_is_weaker(study: Study) -> list[Family]:
    """Compare transferred attacks with the white-box attack on the same model."""
    found = _transferred(study)
    under = [(Query(name, eps), Query(PGD, eps), source) for name, eps, source in found]
    return [Family(itself((*OTHERS, *CAT)), under)]


def curve_above(attack: str, study: Study) -> list[Family]:
    """Compare at every radius at which one of the two is above chance."""
    under = [
        same(Query(attack, eps), f"eps {eps_text(eps)}") for eps in attack_radii(study, attack)
    ]
    family = Family(CAT_VS_FIGURE_2, under, above_chance=True)
    others = [(cat, name) for cat, name in CAT_VS_BASELINES if name not in FIGURE_2]
    return [family, family._replace(pairs=others, decides=False)]


def flat_curve(study: Study) -> list[Family]:
    """Compare the radii 0.05 and 0.07, the last but two and the last."""
    near, far = attack_radii(study, PGD)[-3::2]
    detail = f"eps {eps_text(near)} to {eps_text(far)}"
    under = [(Query(PGD, near), Query(PGD, far), detail)]
    family = Family(itself(CAT), under, rules.at_most(rules.FLAT), doubt=at_chance, readings=True)
    return [family, family._replace(pairs=itself(BASELINES), decides=False)]


def highest(z: np.ndarray) -> np.ndarray:
    """Return (n,) the highest point of each surface, (n, s, s)."""
    return np.asarray(z.max((1, 2)))


def height(z: np.ndarray) -> np.ndarray:
    """Return (n,) the highest point of each surface minus the lowest."""
    return np.asarray(z.max((1, 2)) - z.min((1, 2)))


def relative_rise(z: np.ndarray) -> np.ndarray:
    """Return (n,) the rise from x to the highest point over |z at x|, free of the logits' scale."""
    at_x = z[:, z.shape[1] // 2, z.shape[1] // 2]
    with np.errstate(divide="ignore"):
        return np.asarray((highest(z) - at_x) / np.abs(at_x))


def _surface(value: ImageValue, detail: str, decides: bool = True) -> list[Family]:
    family = Family(CAT_VS_BASELINES, [same(value, detail)], BELOW, decides, readings=True)
    return [family, family._replace(pairs=[(cat, NATURAL) for cat in CAT], decides=False)]


def _margins(value: ImageValue, detail: str, decides: bool = True) -> Family:
    return Family(CAT_VS_BASELINES, [same(value, detail)], decides=decides, readings=True)


def _under(
    attack: str | None,
    pairs: Sequence[tuple[str, str]],
    rule: Rule = ABOVE,
    detail: str = "",
    **others: Any,
) -> Family:
    """Return comparisons under one attack at the study's radius; None: without an attack."""
    query = Query(attack, kind="correct" if attack else "clean")
    return Family(pairs, [same(query, detail)], rule, **others)


def _gap(attack: str, methods: Sequence[str], rule: Rule = _NO_GAP, **others: Any) -> Family:
    detail = f"PGD-20 {MINUS} {'C&W' if attack == CW else 'AutoAttack'}"
    return Family(itself(methods), [(Query(PGD), Query(attack), detail)], rule, **others)


_BOTH = [(CAT_CE, other) for other in (REFERENCE, ADAPTIVE_HARD, FIXED_SOFT)]
_ALONE = [(ADAPTIVE_HARD, REFERENCE), (FIXED_SOFT, REFERENCE)]
_EARLIER = [(method, REFERENCE) for method in ("mma", "iaat")]
_MANY_STEPS = [(Query("pgd-10"), Query("pgd-500"), "")]
FAMILIES: Mapping[str, Sequence[Family] | Callable[[Study], Sequence[Family]]] = {
    "1a": [_under(PGD, CAT_VS_BASELINES, column="pgd")],
    "1b": [_under(CW, CAT_VS_BASELINES, column="cw")],
    "1c": [_under(AUTOATTACK, CAT_VS_BASELINES)],
    "1d": [_under(CW, [(CAT_MIX, CAT_CE)], column="cw")],
    "1e": [_gap(CW, [CAT_CE], ABOVE), _gap(CW, [CAT_MIX, *OTHERS], ABOVE, decides=False)],
    "2a": [
        _under(None, CAT_VS_BASELINES[: len(BASELINES)], column="clean"),
        _under(None, CAT_VS_BASELINES[len(BASELINES) :], column="clean", decides=False),
    ],
    "2b": [_under(None, [(NATURAL, CAT_CE)], rules.at_most(rules.CLEAN_COST))],
    "3": [
        _gap(AUTOATTACK, CAT, doubt=masked_or_unchecked),
        _gap(AUTOATTACK, OTHERS, decides=False),
    ],
    "4a": best_under_transfer,
    "4b": transfer_is_weaker,
    "6a": partial(curve_above, PGD),
    "6b": partial(curve_above, CW),
    "6c": flat_curve,
    "6d": [_under(None, CAT_VS_FIGURE_2)],
    "7a": [
        *_surface(ImageValue("landscape", "ce", highest), "lower: the highest point"),
        *_surface(ImageValue("landscape", "ce", height), "smoother: highest minus lowest"),
    ],
    "7b": [
        *_surface(ImageValue("landscape", "margin", relative_rise), "rise over the margin at x"),
        *_surface(ImageValue("landscape", "margin", height), "highest minus lowest", decides=False),
    ],
    "8a": [
        Family(itself(CAT), _MANY_STEPS, rules.at_most(rules.STEPS_COST), readings=True),
        Family(itself(OTHERS), _MANY_STEPS, rules.at_most(rules.STEPS_COST), decides=False),
    ],
    "8b": [
        Family(CAT_VS_FIGURE_2, [same(Query(f"pgd-{n}"), f"{n} steps")], readings=True)
        for n in STEPS
    ],
    "9a": [_under(PGD, _ALONE[:1], NO_BOOST)],
    "9b": [_under(PGD, _ALONE[1:], NO_BOOST)],
    "9c": [_under(PGD, _BOTH)],
    "9d": [_under(AUTOATTACK, _ALONE, NO_BOOST), _under(AUTOATTACK, _BOTH)],
    "9e": [_gap(AUTOATTACK, [NATURAL_SOFT])],
    "10b": [
        _margins(ImageValue("bilateral", "margin"), "Definition 3.1"),
        _margins(ImageValue("margins", "margin_both"), "input and all layers, test images", False),
    ],
    "14b": [
        _under(None, _EARLIER, detail="clean", column="clean"),
        _under(PGD, _EARLIER, NO_BOOST, "PGD-20"),
    ],
}
"""By the claim's key: comparisons that differ only in models, attacks and rule."""


def _at_small_radius(model: TrainedModel, split: str = "test") -> Query:
    """Return Table 1's attack: at its suite's one radius, on the last epoch's model."""
    eps = attack_radii(model.study, PGD)[0]
    return Query(PGD, eps=eps, checkpoint=LAST, split=split)


def _by_radius(found: Sequence[TrainedModel]) -> list[TrainedModel]:
    return sorted((m for m in found if m.method == REFERENCE), key=lambda m: m.study.eps)


def harm_of_a_large_radius(suite: SuiteRuns) -> Compared:
    """Test each smaller training radius against the largest, on test images."""
    found = _by_radius(models(suite))
    *smaller, largest = (model.label for model in found)
    under = [same(_at_small_radius(found[0]))]
    family = Family([(label, largest) for label in smaller], under)
    own = {model.label: model for model in found}
    return Compared([*compare(own, family)], found, checkpoint=LAST)


def high_train_accuracy(suite: SuiteRuns) -> Compared:
    """Test the accuracy on train images under the small radius against a limit."""
    concerned = _by_radius(models(suite))
    found: list[Evidence | str] = []
    for model in concerned:
        side = model, _at_small_radius(model, "train")
        try:
            (right,), n = common_values([side])
            found.append(evidence(side, side, right, np.full(right.shape, rules.HIGH_TRAIN), n=n))
        except RecordError as error:
            found.append(str(error))
    return Compared(found, concerned, checkpoint=LAST)


def beyond_margin(suite: SuiteRuns) -> Compared:
    """Test a fixed radius beyond the margin against one within it, and CAT against both."""
    found = models(suite)
    own = {f"{model.method} (radius {model.study.eps * UNIT:g})": model for model in found}
    own = {label: replace(model, label=label) for label, model in own.items()}
    small, *_, large = (model.label for model in _by_radius(list(own.values())))
    cats = [label for label, model in own.items() if model.method in CAT]
    clean = Query(None, checkpoint=LAST, kind="clean")
    parts = (
        ([(small, large)], "the large radius harms", ABOVE),
        ([(cat, large) for cat in cats], "CAT avoids the harm", ABOVE),
        ([(small, cat) for cat in cats], "what CAT loses", rules.at_most(rules.SMALL)),
    )
    families = (Family(pairs, [same(clean, detail)], rule) for pairs, detail, rule in parts)
    compared = [one for family in families for one in compare(own, family)]
    return Compared(compared, own.values(), checkpoint=LAST)


def larger_norms(suite: SuiteRuns) -> Compared:
    """Test each fixed radius over each CAT in every norm, a reading each; cat-ce decides."""
    found = models(suite, "complexity")
    fixed = zip(_by_radius(found), PAPER_RATIOS.values(), strict=False)
    cats = [model for model in found if model.method in CAT]
    made: list[Evidence | str] = []
    for (model, published), cat, (name, heading) in product(fixed, cats, COLUMNS.items()):
        ours, theirs = (_log10_products(one, name) for one in (model, cat))
        if len(ours) and len(theirs):
            facts = {
                "unit": "times",
                "detail": f"{heading[0].lower()}{heading[1:]}; paper: {published:g}",
                "reading": name,
                "limit": log10(max(SAME, published)),
                "decides": cat.method == CAT_CE,
            }
            made.append(evidence((model, None), (cat, None), ours, theirs, **facts))
    lacking = (m for m in (*_by_radius(found), *cats[:1]) if not m.measures("complexity"))
    return Compared([*made, *(m.lacks("weight norms") for m in lacking)], found)


def _log10_products(model: TrainedModel, norm: str) -> np.ndarray:
    """Return (s,) those that are on record."""
    found = (m.values.get(f"log10_product_{norm}") for m in model.measures("complexity").values())
    return np.array([float(value) for value in found if value is not None])


def epochs_to_level(history: Sequence[Mapping[str, Any]], level: float) -> int:
    """Return the first epoch, from 1, at which the robust validation accuracy reaches a level.

    One more than the number of epochs where none does.
    """
    reached = (int(e["epoch"]) + 1 for e in history if (e.get("val_robust") or 0.0) >= level)
    return next(reached, len(history) + 1)


def faster_convergence(suite: SuiteRuns) -> Compared:
    """Test each CAT against Madry AT; the other baselines are context."""
    scored = {m.method: m for m in models(suite, "margins") if _best(m.runs)}
    lacking = [name for name in (REFERENCE, *CAT) if name not in scored]
    found: list[Evidence | str] = [f"{name}: no robust validation accuracy" for name in lacking]
    if REFERENCE not in scored:
        return Compared(found)
    level = rules.LEVEL_SHARE * fmean(_best(scored[REFERENCE].runs))
    query, limit = Query("pgd-10"), len(scored[REFERENCE].runs[0].history) / 10
    epochs = {
        name: np.array([epochs_to_level(run.history, level) for run in model.runs], float)
        for name, model in scored.items()
    }
    for other, cat in product(BASELINES, CAT):
        if cat in scored and other in scored:
            sides = (scored[cat], query), (scored[other], query)
            facts: dict[str, Any] = {"reading": cat, "limit": limit, "decides": other == REFERENCE}
            values = epochs[cat], epochs[other]
            found.append(evidence(*sides, *values, unit="epochs", rule=BELOW, **facts))
    note = (
        f"The level: {percent(level)}% robust validation accuracy, "
        f"{percent(rules.LEVEL_SHARE, 0)}% of {REFERENCE}'s best epoch (mean over its seeds)."
    )
    concerned = [m for name, m in scored.items() if name in (*BASELINES, *CAT)]
    return Compared(found, concerned, notes=(note,))


def _best(runs: Sequence[RunRecord]) -> list[float]:
    """Return the best robust validation accuracy of each run that has any."""
    found = ([e["val_robust"] for e in r.history if e.get("val_robust") is not None] for r in runs)
    return [max(values) for values in found if values]


def equal_cost(suite: SuiteRuns) -> Compared:
    """Test the passes relative to Madry AT's, which are counted; seconds are context."""
    runs = [r for m in models(suite) if m.method in (REFERENCE, *CAT) for r in m.runs]
    names = {"passes": "passes per image and epoch", "seconds": "seconds per image"}
    found = [
        Evidence(
            what=str(cost["method"]),
            detail=detail,
            unit="times",
            value=log10(cost[f"{name}_relative"]),
            seeds=(int(cost["n_seeds"]), 1),
            rule=rules.at_most(log10(SAME)),
            decides=name == "passes",
        )
        for section in sections(runs)
        for cost in group_costs(section).to_dict("records")
        for name, detail in names.items()
        if cost["method"] in CAT and cost[f"{name}_relative"] > 0
    ]
    lacking = [name for name in CAT if name not in {one.what for one in found}]
    return Compared([*found, *(f"{m}: no cost relative to {REFERENCE}" for m in lacking)])


TESTS: Mapping[str, Callable[[SuiteRuns], Compared]] = {
    **{key: partial(assess_families, declared=own) for key, own in FAMILIES.items()},
    "5a": harm_of_a_large_radius,
    "5b": high_train_accuracy,
    "10a": larger_norms,
    "10b": partial(assess_families, declared=FAMILIES["10b"], measure="margins"),
    "11": faster_convergence,
    "12": equal_cost,
    "13": beyond_margin,
}
"""By the claim's key; a claim without a test is not tested."""
