"""Claim 6: robust accuracy against the radius of the attack (Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.report.aggregate import CW, PGD
from bench.report.claims.claim import Claim, Finding, Tested, conclude, counted, doubted
from bench.report.claims.evidence import Attack, Model, distinct, models, over_seeds, radii
from bench.report.claims.paper import FLAT, RIVALS
from bench.report.claims.points import alone, at_most, better, point_findings, versus, within
from bench.report.claims.wording import BETTER
from bench.report.published import CAT
from bench.report.suite_runs import SuiteRuns
from bench.report.units import eps_text, percent


def _curve(chosen: SuiteRuns, attack: str) -> Tested:
    """Each CAT against each other at every radius; a row a pair, at its least favourable radius."""
    findings: list[Finding] = []
    lacks: list[str] = []
    parts = distinct(chosen)
    found = models(chosen, parts)
    for part in parts:
        own = [model for model in found if model.study == part.study]
        cats = [model for model in own if model.method in CAT]
        rivals = [model for model in own if model.method in RIVALS]
        pairs = [
            pair
            for eps in radii(part.study, attack)
            for pair in versus(cats, rivals, Attack(name=attack, eps=eps))
        ]
        rows, missing = point_findings(pairs, better, detail=lambda a, b: _at(a[1]))
        findings += _weakest_shown([_undecided_at_chance(row, own) for row in rows])
        lacks += missing
    return conclude(
        findings, lacks=lacks, models=[model.concerned() for model in found if model.runs]
    )


def _undecided_at_chance(finding: Finding, found: Sequence[Model]) -> Finding:
    """Where both have nothing left, neither can be better."""
    best = max(finding.first or 0.0, finding.second or 0.0)
    return finding if best > _chance(found) else replace(finding, decides=False)


def _chance(found: Sequence[Model]) -> float:
    """Accuracy of a guess."""
    return 1 / next(int(run.spec["num_classes"]) for model in found for run in model.runs)


def _weakest_shown(rows: Sequence[Finding]) -> list[Finding]:
    """Of each pair only the radius that speaks least for the claim is shown, with the counts."""
    pairs: dict[str, list[Finding]] = {}
    for row in rows:
        pairs.setdefault(row.what, []).append(row)
    result = []
    for own in pairs.values():
        deciding = [row for row in own if row.decides]
        least = min(deciding or own, key=lambda row: row.favour)
        counts = f"of {len(deciding)} radii: {counted(deciding)}"
        result += [
            replace(row, remark=counts) if row is least else replace(row, shown=False)
            for row in own
        ]
    return result


def _at(attack: Attack) -> str:
    return "" if attack.eps is None else f"eps {eps_text(attack.eps)}"


def _flat(chosen: SuiteRuns) -> Tested:
    """What each CAT loses over the last part of the curve, and whether it is above chance there."""
    findings: list[Finding] = []
    lacks: list[str] = []
    parts = distinct(chosen)
    found = models(chosen, parts)
    for part in parts:
        last = radii(part.study, PGD)[-3::2]
        near, far = (Attack(name=PGD, eps=eps) for eps in last)
        detail = f"eps {eps_text(last[0])} to {eps_text(last[1])}"
        for decides in (True, False):
            own = [
                model
                for model in found
                if model.study == part.study
                and (model.method in CAT if decides else model.method in RIVALS)
            ]
            rows, missing = point_findings(
                within(own, near, far), at_most(FLAT), detail=detail, what=alone, decides=decides
            )
            by_label = {model.label: model for model in own}
            findings += [_above_chance(row, by_label[row.what], far) for row in rows]
            lacks += missing if decides else []
    return conclude(
        findings, lacks=lacks, models=[model.concerned() for model in found if model.runs]
    )


def _above_chance(finding: Finding, model: Model, far: Attack) -> Finding:
    """A curve that has reached the floor is flat without saying anything."""
    there = over_seeds(model, far)
    at_floor = there is None or there.low <= _chance([model])
    return replace(finding, verdict=doubted(finding.verdict, at_floor))


def _figure_2(key: str, attack: str, name: str) -> Claim:
    return Claim(
        key=key,
        title=f"CAT is more robust at every radius of the attack ({name})",
        says="The curve of robust accuracy against the radius lies above those of the others.",
        source="Figure 2 and its text",
        measured=(
            f"Accuracy under {name} at each radius of the figure, best checkpoints, each CAT "
            "against each other adversarial training method on the same test images. A row shows "
            "a pair at the radius that speaks least for CAT; claims.csv has all radii. A radius at "
            "which neither of two is above chance decides nothing. Holm's correction is over all "
            "pairs and radii of one network."
        ),
        rule=BETTER,
        suite="figure2",
        test=lambda chosen: _curve(chosen, attack),
    )


CLAIMS = (
    _figure_2("6a", PGD, "PGD-20"),
    _figure_2("6b", CW, "C&W"),
    Claim(
        key="6c",
        title="CAT's curve flattens at large radii",
        says=(
            "As the radius grows, CAT's curve flattens. A curve that does not fall to 0 is also a "
            "sign of masked gradients."
        ),
        source="Figure 2 and its text",
        measured=(
            "Accuracy under PGD-20 at radius 0.05 minus at 0.07 (scaled with the size's eps) on "
            "the same test images, best checkpoints. The paper gives no number for flat: ours. "
            "The other methods stand beside and decide nothing."
        ),
        rule=(
            "Of each CAT: holds if the 95% interval of the loss is not above "
            f"{percent(FLAT, 0)} points and the accuracy that is left is above chance, by Wilson's "
            f"95% interval; does not hold if the interval is above {percent(FLAT, 0)} points; "
            "otherwise not decidable."
        ),
        columns=("Nearer radius", "Farther", "Loss"),
        suite="figure2",
        test=_flat,
    ),
)
