"""What is compared for each claim: declared families of comparisons, and tests of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from math import log10
from statistics import fmean
from typing import Any

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
from bench.papers.cat.claim_rules import ABOVE, BELOW, NO_BOOST, VERSUS, Evidence, Rule
from bench.papers.cat.complexity import COLUMNS, PAPER_RATIOS
from bench.papers.cat.gaussians import UNIT
from bench.papers.cat.stated import CAT
from bench.records import RunRecord
from bench.report.accuracy import accuracy, shared
from bench.report.cost import SAME, costs
from bench.report.formatting import MINUS, eps_text, percent
from bench.report.published import REFERENCE
from bench.report.rows import MASKING_GAP, sections
from bench.report.suite_runs import SuiteRuns
from bench.report.titles import AUTOATTACK, CW, PGD
from bench.study import Study

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


CLEAN = same(Query(None, kind="clean"))


def masked_or_unchecked(first: Side, _: Side) -> str:
    """Say that a check for masked gradients raises an alarm, or that none was run."""
    model, query = first
    found = model.masking(query.checkpoint)
    if found.alarms:
        return f"masking alarm on {model.label} ({', '.join(found.codes)})"
    return "" if found.made else f"{model.label}: no masking checks on record"


def at_chance(_: Side, far: Side) -> str:
    """Say that a seed may be at chance at the larger radius, where any curve is flat."""
    model, query = far
    assert isinstance(query, Query)
    lows = [one.low for seed in model.evaluated(query)[0].values() if (one := accuracy(seed))]
    return f"{model.label} may be at chance" if min(lows, default=0.0) <= model.chance else ""


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
            ABOVE,
            decides=name == "transfer",
            readings=True,
        )
        for name, eps, source in _transferred(study)
    ]


def transfer_is_weaker(study: Study) -> list[Family]:
    """Compare transferred attacks with the white-box attack on the same model."""
    under = [
        (Query(name, eps), Query(PGD, eps), source) for name, eps, source in _transferred(study)
    ]
    return [Family(itself((*OTHERS, *CAT)), under, ABOVE)]


def curve_above(attack: str, study: Study) -> list[Family]:
    """Compare at every radius at which one of the two is above chance."""
    under = [
        same(Query(attack, eps), f"eps {eps_text(eps)}") for eps in attack_radii(study, attack)
    ]
    family = Family(CAT_VS_FIGURE_2, under, ABOVE, above_chance=True)
    others = [(cat, name) for cat, name in CAT_VS_BASELINES if name not in FIGURE_2]
    return [family, family._replace(pairs=others, decides=False)]


def flat_curve(study: Study) -> list[Family]:
    """Compare the radii 0.05 and 0.07, the last but two and the last."""
    near, far = attack_radii(study, PGD)[-3::2]
    detail = f"eps {eps_text(near)} to {eps_text(far)}"
    under = [(Query(PGD, near), Query(PGD, far), detail)]
    family = Family(itself(CAT), under, rules.at_most(rules.FLAT), doubt=at_chance, readings=True)
    return [family, family._replace(pairs=itself(BASELINES), decides=False)]


def surface_range(surface: str, record: MeasureRecord) -> np.ndarray:
    """Return (n,) the range of a surface, `ce` or `margin`, over the patch around each image."""
    z = record.arrays[surface].astype(np.float64)
    height: np.ndarray = z.max((1, 2)) - z.min((1, 2))
    return height


def highest(record: MeasureRecord) -> np.ndarray:
    """Return (n,) the highest cross entropy on the patch around each image."""
    top: np.ndarray = record.arrays["ce"].astype(np.float64).max((1, 2))
    return top


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


def _surface(
    value: Callable[[MeasureRecord], np.ndarray], detail: str, decides: bool = True
) -> list[Family]:
    under = [same(ImageValue("landscape", value), detail)]
    family = Family(CAT_VS_BASELINES, under, BELOW, decides, readings=True)
    return [family, family._replace(pairs=[(cat, NATURAL) for cat in CAT], decides=False)]


def _margins(measure: str, array: str, detail: str) -> Family:
    under = [same(ImageValue(measure, lambda record: record.arrays[array]), detail)]
    return Family(CAT_VS_BASELINES, under, ABOVE, measure == "bilateral", readings=True)


def _gap(attack: str, methods: Sequence[str], rule: Rule = _NO_GAP) -> Family:
    detail = f"PGD-20 {MINUS} {'C&W' if attack == CW else 'AutoAttack'}"
    return Family(itself(methods), [(Query(PGD), Query(attack), detail)], rule)


def _against_baselines(attack: str, column: str = "") -> list[Family]:
    return [Family(CAT_VS_BASELINES, [same(Query(attack))], ABOVE, column=column)]


_LOSS = Family(
    itself(CAT),
    [(Query("pgd-10"), Query("pgd-500"), "")],
    rules.at_most(rules.STEPS_COST),
    readings=True,
)
_CE_CLEAN = [(CAT_CE, other) for other in BASELINES]
_BOTH = [(CAT_CE, other) for other in (REFERENCE, ADAPTIVE_HARD, FIXED_SOFT)]
_EARLIER = [(method, REFERENCE) for method in ("mma", "iaat")]
FAMILIES: Mapping[str, Sequence[Family] | Callable[[Study], Sequence[Family]]] = {
    "1a": _against_baselines(PGD, "pgd"),
    "1b": _against_baselines(CW, "cw"),
    "1c": _against_baselines(AUTOATTACK),
    "1d": [Family([(CAT_MIX, CAT_CE)], [same(Query(CW))], ABOVE, column="cw")],
    "1e": [
        _gap(CW, [CAT_CE], ABOVE),
        _gap(CW, [CAT_MIX, *OTHERS], ABOVE)._replace(decides=False),
    ],
    "2a": [
        Family(_CE_CLEAN, [CLEAN], ABOVE, column="clean"),
        Family([(CAT_MIX, b) for b in BASELINES], [CLEAN], ABOVE, decides=False, column="clean"),
    ],
    "2b": [Family([(NATURAL, CAT_CE)], [CLEAN], rules.at_most(rules.CLEAN_COST))],
    "3": [
        _gap(AUTOATTACK, CAT)._replace(doubt=masked_or_unchecked),
        _gap(AUTOATTACK, OTHERS)._replace(decides=False),
    ],
    "4a": best_under_transfer,
    "4b": transfer_is_weaker,
    "6a": partial(curve_above, PGD),
    "6b": partial(curve_above, CW),
    "6c": flat_curve,
    "6d": [Family(CAT_VS_FIGURE_2, [CLEAN], ABOVE)],
    "7a": [
        *_surface(highest, "lower: the highest point"),
        *_surface(partial(surface_range, "ce"), "smoother: highest minus lowest"),
    ],
    "7b": [
        *_surface(relative_rise, "rise over the margin at x"),
        *_surface(partial(surface_range, "margin"), "highest minus lowest", decides=False),
    ],
    "8a": [_LOSS, _LOSS._replace(pairs=itself(OTHERS), decides=False)],
    "8b": [
        Family(
            CAT_VS_FIGURE_2,
            [same(Query(f"pgd-{n}"), f"{n} steps") for n in STEPS],
            ABOVE,
            readings=True,
        )
    ],
    "9a": [Family([(ADAPTIVE_HARD, REFERENCE)], [same(Query(PGD))], NO_BOOST)],
    "9b": [Family([(FIXED_SOFT, REFERENCE)], [same(Query(PGD))], NO_BOOST)],
    "9c": [Family(_BOTH, [same(Query(PGD))], ABOVE)],
    "9d": [
        Family(
            [(ADAPTIVE_HARD, REFERENCE), (FIXED_SOFT, REFERENCE)],
            [same(Query(AUTOATTACK))],
            NO_BOOST,
        ),
        Family(_BOTH, [same(Query(AUTOATTACK))], ABOVE),
    ],
    "9e": [_gap(AUTOATTACK, [NATURAL_SOFT])],
    "10b": [
        _margins("bilateral", "margin", "Definition 3.1"),
        _margins("margins", "margin_both", "input and all layers, test images"),
    ],
    "14b": [
        Family(_EARLIER, [CLEAN], ABOVE, column="clean"),
        Family(_EARLIER, [same(Query(PGD))], NO_BOOST),
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


def harm_of_a_large_radius(suite: SuiteRuns) -> Assessment:
    """Test each smaller training radius against the largest, on test images."""
    found = _by_radius(models(suite))
    *smaller, largest = (model.label for model in found)
    under = [same(_at_small_radius(found[0]))]
    family = Family([(label, largest) for label in smaller], under, ABOVE)
    own = {model.label: model for model in found}
    return assess(suite, compare(own, family), found, checkpoint=LAST)


def high_train_accuracy(suite: SuiteRuns) -> Assessment:
    """Test the accuracy on train images under the small radius."""
    concerned = _by_radius(models(suite))
    return assess(suite, map(_train_accuracy, concerned), concerned, checkpoint=LAST)


def _train_accuracy(model: TrainedModel) -> Evidence | str:
    train, test = (
        list(model.evaluated(_at_small_radius(model, split))[0].values())
        for split in ("train", "test")
    )
    if not train:
        return model.lacks("attack on the train split")
    index = shared(train)
    right = np.stack([seed.at(index) for seed in train]).astype(np.int8)
    return Evidence(
        what=model.label,
        first=float(right.mean()),
        second=fmean(float(seed.correct.mean()) for seed in test) if test else None,
        value=float(right.mean()),
        sample=right,
        n=len(index),
        seeds=(len(train), len(train)),
        rule=Rule(rules.HIGH_TRAIN),
        untrained=model.untrained,
        alarms=(model.alarm(_at_small_radius(model)),) * 2,
    )


def beyond_margin(suite: SuiteRuns) -> Assessment:
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
    families = [Family(pairs, [same(clean, detail)], rule) for pairs, detail, rule in parts]
    evidence = [one for family in families for one in compare(own, family)]
    return assess(suite, evidence, own.values(), checkpoint=LAST)


def larger_norms(suite: SuiteRuns) -> Assessment:
    """Test each fixed radius over each CAT in every norm, a reading each; cat-ce decides."""
    found = models(suite, "complexity")
    fixed = _by_radius(found)
    cats = [model for model in found if model.method in CAT]
    evidence = [
        row
        for (model, published), cat in product(
            zip(fixed, PAPER_RATIOS.values(), strict=False), cats
        )
        for row in _norm_ratios(model, cat, published)
    ]
    missing = [
        model.lacks("weight norms")
        for model in (*fixed, *cats[:1])
        if not model.measures("complexity")
    ]
    return assess(suite, [*evidence, *missing], found)


def _norm_ratios(fixed: TrainedModel, cat: TrainedModel, published: float) -> Iterator[Evidence]:
    for name, heading in COLUMNS.items():
        ones, others = (
            np.array(
                [
                    float(value)
                    for record in model.measures("complexity").values()
                    if (value := record.values.get(f"log10_product_{name}")) is not None
                ]
            )
            for model in (fixed, cat)
        )
        if len(ones) and len(others):
            yield Evidence(
                what=f"{fixed.label}{VERSUS}{cat.label}",
                detail=f"{heading[0].lower()}{heading[1:]}; paper: {published:g}",
                reading=name,
                unit="times",
                first=float(ones.mean()),
                second=float(others.mean()),
                value=float(ones.mean() - others.mean()),
                sample=ones[:, None] - others[None],
                seeds=(len(ones), len(others)),
                limit=log10(max(SAME, published)),
                decides=cat.method == CAT_CE,
                untrained=fixed.untrained or cat.untrained,
            )


def epochs_to_level(history: Sequence[Mapping[str, Any]], level: float) -> int:
    """Return the first epoch, from 1, at which the robust validation accuracy reaches a level.

    One more than the number of epochs where none does.
    """
    reached = (int(e["epoch"]) + 1 for e in history if (e.get("val_robust") or 0.0) >= level)
    return next(reached, len(history) + 1)


def faster_convergence(suite: SuiteRuns) -> Assessment:
    """Test each CAT against Madry AT; the other baselines are context."""
    found = {model.method: model for model in models(suite, "margins")}
    scored = {name: model for name, model in found.items() if _best(model.runs)}
    missing = [
        f"{name}: no robust validation accuracy" for name in (REFERENCE, *CAT) if name not in scored
    ]
    if REFERENCE not in scored:
        return assess(suite, missing)
    level = rules.LEVEL_SHARE * fmean(_best(scored[REFERENCE].runs))
    epochs = {
        name: np.array([epochs_to_level(run.history, level) for run in model.runs], float)
        for name, model in scored.items()
    }
    evidence = [
        Evidence(
            what=f"{cat}{VERSUS}{other}",
            reading=cat,
            unit="epochs",
            first=float(epochs[cat].mean()),
            second=float(epochs[other].mean()),
            value=float(epochs[other].mean() - epochs[cat].mean()),
            sample=epochs[other][None] - epochs[cat][:, None],
            seeds=(len(epochs[cat]), len(epochs[other])),
            limit=len(scored[REFERENCE].runs[0].history) / 10,
            decides=other == REFERENCE,
            untrained=scored[cat].untrained or scored[other].untrained,
            # the side that is sooner at the level may owe it to masked gradients
            alarms=(scored[cat].alarm(Query(PGD)), scored[other].alarm(Query(PGD))),
        )
        for other, cat in product(BASELINES, CAT)
        if cat in scored and other in scored
    ]
    note = (
        f"The level: {percent(level)}% robust validation accuracy, "
        f"{percent(rules.LEVEL_SHARE, 0)}% of {REFERENCE}'s best epoch (mean over its seeds)."
    )
    concerned = [m for name, m in scored.items() if name in (*BASELINES, *CAT)]
    return assess(suite, [*evidence, *missing], concerned, notes=[note])


def _best(runs: Sequence[RunRecord]) -> list[float]:
    """Return the best robust validation accuracy of each run that has any."""
    found = ([e["val_robust"] for e in r.history if e.get("val_robust") is not None] for r in runs)
    return [max(values) for values in found if values]


def equal_cost(suite: SuiteRuns) -> Assessment:
    """Test the passes relative to Madry AT's, which are counted; seconds are context."""
    runs = [r for m in models(suite) if m.method in (REFERENCE, *CAT) for r in m.runs]
    evidence: list[Evidence | str] = []
    for section in sections(runs):
        for cost in costs(section):
            if cost.group.method not in CAT or not cost.reference_passes:
                continue
            for detail, ratio in (
                ("passes per image and epoch", cost.passes_relative),
                ("seconds per image", cost.seconds_relative),
            ):
                if ratio is not None:
                    counted = Evidence(
                        what=cost.group.method,
                        detail=detail,
                        unit="times",
                        value=log10(ratio),
                        seeds=(len(cost.runs), 1),
                        rule=rules.at_most(log10(SAME)),
                        decides=detail.startswith("passes"),
                    )
                    evidence.append(counted)
    known = {one.what for one in evidence if isinstance(one, Evidence)}
    evidence += [f"{name}: no cost relative to {REFERENCE}" for name in CAT if name not in known]
    return assess(suite, evidence)


TESTS: Mapping[str, Callable[[SuiteRuns], Assessment]] = {
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
