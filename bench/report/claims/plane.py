"""Claim 13: a radius beyond the classes' margin (Figure 1), and claims that nothing measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.data.gaussians import MARGIN, UNIT
from bench.report.claims.claim import Claim, Tested, conclude
from bench.report.claims.evidence import LAST, Attack, Model, Side, measures, models
from bench.report.claims.paper import SMALL
from bench.report.claims.points import at_most, better, point_findings
from bench.report.published import CAT, REFERENCE
from bench.report.scored import CLEAN
from bench.report.suite_runs import SuiteRuns
from bench.report.units import MINUS, percent

_CLEAN = Attack(name=CLEAN, checkpoint=LAST)


def _beyond(chosen: SuiteRuns) -> Tested:
    """Fixed radius beyond the margin against one within it, and CAT against both."""
    found = [_in_units(model) for model in models(chosen)]
    fixed = sorted((m for m in found if m.method == REFERENCE), key=lambda m: m.study.eps)
    small, large = fixed[0], fixed[-1]
    cats = [model for model in found if model.method in CAT]
    harm, lacks = point_findings(_pairs([small], large), better, detail="the large radius harms")
    helped, more = point_findings(_pairs(cats, large), better, detail="CAT avoids the harm")
    lost, most = point_findings(
        [((small, _CLEAN), (cat, _CLEAN)) for cat in cats],
        at_most(SMALL, beyond=SMALL),
        detail="what CAT loses",
    )
    return conclude(
        [*harm, *helped, *lost], lacks=[*lacks, *more, *most], notes=list(_lines(found))
    )


def _in_units(model: Model) -> Model:
    return replace(model, label=f"{model.method} (radius {model.study.eps * UNIT:g})")


def _pairs(firsts: list[Model], second: Model) -> list[tuple[Side, Side]]:
    return [((first, _CLEAN), (second, _CLEAN)) for first in firsts]


def _lines(found: list[Model]) -> Iterator[str]:
    """Where each line is, and what it keeps under attack at its own training radius."""
    for model in found:
        for run, record in measures(model, "boundary", LAST):
            values = record.values
            at = ", ".join(
                f"{percent(accuracy)}% at radius {eps:g}"
                for eps, accuracy in zip(values["eps"], values["robust_accuracy"], strict=True)
            )
            offset = values["offset"]
            crosses = "nowhere" if offset is None else f"{offset:.2f}".replace("-", MINUS)
            yield (
                f"{model.label}, seed {run.seed}: the line is turned by {values['angle']:.1f} "
                f"degrees and crosses the axis at {crosses}; clean accuracy "
                f"{percent(values['clean_accuracy'])}%, robust {at}."
            )


CLAIMS = (
    Claim(
        key="13",
        title="A fixed radius beyond the margin harms, and CAT avoids it",
        says=(
            "On two separable classes in the plane, fixed-radius training at a radius far above "
            "the margin spoils the linear classifier; CAT at the same radius does not."
        ),
        source="Figure 1",
        measured=(
            f"Clean accuracy of linear models on test points, whose margin is {MARGIN:g}, last "
            "checkpoints. Radii are in the plane's units. The notes say where each line is: the "
            "true one is turned by 0 degrees and crosses at 0. No classifier is robust at a radius "
            "beyond the margin on every point."
        ),
        rule=(
            "Three parts, all of which must hold. Harm: Madry AT at the small radius is above "
            "Madry AT at the large one. CAT avoids it: CAT at the large radius is above Madry AT "
            "there. Of both: 95% interval above 0, and p below 5%; below 0: does not hold. What "
            f"CAT loses against Madry AT at the small radius: interval not above "
            f"{percent(SMALL, 0)} point; does not hold if all of it is above."
        ),
        columns=("First", "Second", "Difference"),
        suite="figure1",
        test=_beyond,
    ),
)
UNTESTED = (
    Claim(
        key="14",
        title="MMA and IAAT are special cases of CAT",
        says="With hard labels the formulation reduces to earlier adaptive-radius methods.",
        source="the text on the formulation",
        measured=(
            "Nothing: it is a statement about formulas. It is loose besides: IAAT also lowers "
            "radii, smooths them, and probes two of them, so CAT with hard labels is not IAAT's "
            "algorithm."
        ),
        rule="",
    ),
    Claim(
        key="15",
        title="The generalisation bound of Theorem 3.2",
        says="The gap between train and test error is bounded in terms of the mean of 1 / margin.",
        source="section 3.5, Theorem 3.2, proof in the appendix",
        measured=(
            "Nothing: a bound is proved, not measured. What it predicts of CAT is claim 10b."
        ),
        rule="",
    ),
)
