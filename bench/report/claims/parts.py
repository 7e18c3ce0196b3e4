"""Claims 8 and 9: the attack's steps (Figure 4a), and which part of CAT does it (Figure 4b)."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.aggregate import AUTOATTACK, MASKING_GAP, PGD
from bench.report.claims.claim import Claim, Tested, conclude
from bench.report.claims.evidence import Attack, models
from bench.report.claims.paper import LABEL_PAIRS, NATURAL_SOFT, RADIUS_PAIRS, STEPS_COST
from bench.report.claims.points import alone, at_most, better, point_findings, within
from bench.report.claims.wording import BETTER
from bench.report.published import CAT
from bench.report.suite_runs import SuiteRuns
from bench.report.units import MINUS, percent

_FEW, _MANY = "pgd-10", "pgd-500"
_RADIUS_ALSO = (
    "The attack of the training changes too: with the adaptive radius it starts at the image and "
    "takes steps of 0.007 at eps 8/255 (cat-ce, adp-adv), else it starts at random and takes steps "
    "of 2/255 (madry, adv-ls). So the difference is of all three, radius, start and step; the "
    "paper states neither start nor step."
)


def _steps(chosen: SuiteRuns) -> Tested:
    """Each CAT under few and many steps; the others beside."""
    found = models(chosen)
    findings, lacks = point_findings(
        within([m for m in found if m.method in CAT], Attack(name=_FEW), Attack(name=_MANY)),
        at_most(STEPS_COST),
        what=alone,
    )
    others, _ = point_findings(
        within([m for m in found if m.method not in CAT], Attack(name=_FEW), Attack(name=_MANY)),
        at_most(STEPS_COST),
        what=alone,
        decides=False,
    )
    concerned = [model.concerned() for model in found if model.runs]
    return conclude([*findings, *others], lacks=lacks, models=concerned)


def _with_and_without(chosen: SuiteRuns, pairs: Sequence[tuple[str, str]], attack: str) -> Tested:
    by_method = {model.method: model for model in models(chosen)}
    findings, lacks = point_findings(
        [
            ((by_method[one], Attack(name=attack)), (by_method[other], Attack(name=attack)))
            for one, other in pairs
        ],
        better,
    )
    concerned = [
        by_method[name].concerned() for pair in pairs for name in pair if by_method[name].runs
    ]
    return conclude(findings, lacks=lacks, models=concerned)


def _labels_alone(chosen: SuiteRuns) -> Tested:
    found = [model for model in models(chosen) if model.method == NATURAL_SOFT]
    findings, lacks = point_findings(
        within(found, Attack(name=PGD), Attack(name=AUTOATTACK)), at_most(MASKING_GAP), what=alone
    )
    return conclude(findings, lacks=lacks, models=[m.concerned() for m in found if m.runs])


def _part(key: str, attack: str, name: str, part: str) -> Claim:
    radius = part == "radius"
    pairs = RADIUS_PAIRS if radius else LABEL_PAIRS
    fixed = "labels" if radius else "rule for the radius"
    own = "" if attack == PGD else "; the AutoAttack column is ours"
    besides = f" {_RADIUS_ALSO}" if radius else ""
    return Claim(
        key=key,
        title=f"The adaptive {'radius' if radius else 'labels'} alone help{'s' * radius} ({name})",
        says=f"Both parts of CAT matter: adapting the {part} raises robust accuracy by itself.",
        source=f"section 4.4, Figure 4b{own}",
        measured=(
            f"Accuracy under {name} with the part and without it, the {fixed} being the same, on "
            f"the same test images; best checkpoints.{besides}"
        ),
        rule=BETTER,
        columns=("With", "Without", "Difference"),
        suite="figure4b",
        test=lambda chosen: _with_and_without(chosen, pairs, attack),
    )


STEPS = (
    Claim(
        key="8",
        title="Many more attack steps cost CAT little",
        says="Going from 10 to 500 steps of PGD lowers its accuracy by about 2 points only.",
        source="section 4.4, Figure 4a",
        measured=(
            "Accuracy under PGD with 10 steps minus with 500, on the same test images; best "
            "checkpoints. The other methods stand beside and decide nothing."
        ),
        rule=(
            f"Of each CAT: holds if the 95% interval of the loss is not above "
            f"{percent(STEPS_COST, 0)} points, does not hold if it is above; otherwise not "
            "decidable. A small loss shows that PGD has converged, not that it has found all."
        ),
        columns=("10 steps", "500 steps", "Loss"),
        suite="figure4a",
        test=_steps,
    ),
)
ABLATION = (
    _part("9a", PGD, "PGD-20", "radius"),
    _part("9b", AUTOATTACK, "AutoAttack", "radius"),
    _part("9c", PGD, "PGD-20", "label"),
    _part("9d", AUTOATTACK, "AutoAttack", "label"),
    Claim(
        key="9e",
        title="Labels alone look no more robust to PGD-20 than to AutoAttack",
        says=(
            "Not a claim of the paper's but what its comparison needs: training on CAT's labels "
            "without any adversary must not look robust to PGD-20 and be broken by AutoAttack."
        ),
        source="a condition on Figure 4b (label smoothing alone: arXiv 2009.08233)",
        measured=(
            f"Natural training on CAT's labels: accuracy under PGD-20 {MINUS} under AutoAttack on "
            "the same test images; best checkpoint."
        ),
        rule=(
            "Holds if the 95% interval of the gap is not above "
            f"{percent(MASKING_GAP, 0)} points, does not hold if it is above; otherwise not "
            "decidable."
        ),
        columns=("PGD-20", "AutoAttack", "Gap"),
        suite="figure4b",
        test=_labels_alone,
    ),
)
