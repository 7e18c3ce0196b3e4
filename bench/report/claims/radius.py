"""Claim 5: what a larger radius in training does (Table 1)."""

from __future__ import annotations

from bench.report.aggregate import PGD
from bench.report.claims.claim import Claim, Finding, Tested, at_least, conclude
from bench.report.claims.evidence import LAST, Attack, Model, models, over_seeds, radii
from bench.report.claims.paper import HIGH_TRAIN, SMALL
from bench.report.claims.points import at_most, point_findings, versus
from bench.report.published import TABLE_1
from bench.report.suite_runs import SuiteRuns
from bench.report.units import percent


def _larger(chosen: SuiteRuns) -> Tested:
    """Each larger training radius against the smallest."""
    found = sorted(models(chosen), key=lambda model: model.study.eps)
    findings, lacks = point_findings(
        versus(found[1:], found[:1], _small_eps(found[0], "test")), at_most(SMALL, beyond=0.0)
    )
    concerned = [model.concerned(LAST) for model in found if model.runs]
    return conclude(findings, lacks=lacks, notes=[_published()], models=concerned)


def _train(chosen: SuiteRuns) -> Tested:
    """Accuracy on training images under the small radius, beside that on test images."""
    findings: list[Finding] = []
    lacks: list[str] = []
    found = sorted(models(chosen), key=lambda model: model.study.eps)
    for model in found:
        train = over_seeds(model, _small_eps(model, "train"))
        test = over_seeds(model, _small_eps(model, "test"))
        if train is None:
            lacks.append(f"{model.label}: {model.reason or 'no attack on the train split'}")
            continue
        findings.append(
            Finding(
                what=model.label,
                first=train.value,
                second=None if test is None else test.value,
                value=train.value,
                low=train.low,
                high=train.high,
                n=train.n,
                seeds=(train.seeds, train.seeds),
                verdict=at_least(train.low, train.high, HIGH_TRAIN),
                favour=train.value,
            )
        )
    concerned = [model.concerned(LAST) for model in found if model.runs]
    return conclude(findings, lacks=lacks, notes=[_published()], models=concerned)


def _small_eps(model: Model, split: str) -> Attack:
    """Table 1's attack: at the one radius that its suite asks for, on the last epoch's model."""
    return Attack(name=PGD, eps=radii(model.study, PGD)[0], checkpoint=LAST, split=split)


def _published() -> str:
    rows = [
        f"eps {eps:g}: test {percent(test, 2)}, train {percent(train, 2)}"
        for eps, test, train in TABLE_1
    ]
    return f"The paper's Table 1 (CIFAR-10, VGG-16, attacked at 0.01): {'; '.join(rows)}."


CLAIMS = (
    Claim(
        key="5a",
        title="A larger fixed radius in training gives no more robustness at a small one",
        says=(
            "Training at 0.02 and 0.03 leaves no higher robust test accuracy at 0.01 than "
            "training at 0.01 itself."
        ),
        source="Table 1",
        measured=(
            "Madry AT at the three radii, accuracy under PGD-20 at the smallest, on the same test "
            "images; last checkpoints, since the paper selects none."
        ),
        rule=(
            "Of each larger radius: does not hold if the 95% interval of its gain is above 0; "
            f"holds if the interval ends at or below {percent(SMALL, 0)} point; otherwise not "
            "decidable. The claim holds if both hold."
        ),
        columns=("Larger radius", "Smallest", "Gain"),
        suite="table1",
        test=_larger,
    ),
    Claim(
        key="5b",
        title="Train accuracy stays high at every fixed radius",
        says="On training images the same attack leaves nearly 100% at all three radii.",
        source="Table 1",
        measured=(
            "Madry AT at the three radii, accuracy under PGD-20 at the smallest, on images of the "
            "train split; test accuracy beside; last checkpoints."
        ),
        rule=(
            "Of each radius: holds if Wilson's 95% interval of the train accuracy is at or above "
            f"{percent(HIGH_TRAIN, 0)}%, does not hold if it is below; otherwise not decidable."
        ),
        columns=("Train", "Test", "Train accuracy"),
        suite="table1",
        test=_train,
    ),
)
