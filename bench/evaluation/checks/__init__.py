"""Fourteen checks for gradient masking, each with an indicator, a threshold and a verdict.

Athalye et al. (arXiv 1802.00420) and Carlini et al. (arXiv 1902.06705) name the symptoms. Only
Square's 0.2 points have a source of their own (AutoAttack); every other threshold is a proposal of
ours that Madry AT does not exceed on digits. An alarm on another honest method can happen and says
where to look. The absence of all alarms is necessary, not sufficient. Accuracies are over the
images that are correct without an attack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bench.errors import refuse_unknown
from bench.evaluation.check import Check
from bench.evaluation.checks.black_box import black_box, random_points, transfer, undefended
from bench.evaluation.checks.budget import iterations, restarts, sweep, unbounded
from bench.evaluation.checks.context import CheckBudget, CheckContext
from bench.evaluation.checks.gradients import convergence, fixed, vanishing
from bench.evaluation.checks.losses import labels, logit_scale, loss_dependence
from bench.evaluation.prediction import evaluating
from bench.threat import Threat


@dataclass(frozen=True, kw_only=True)
class MaskingCheck:
    """A check, and its description in words for the documentation."""

    run: Callable[[CheckContext], Check]
    looks_for: str
    compute: str
    raises: str
    """What raises an alarm."""
    budget: tuple[str, ...] = ()
    """Fields of CheckBudget that its outcome depends on."""
    uses_surrogate: bool = False
    needs_surrogate: bool = False
    least_classes: int = 2


CHECKS: dict[str, MaskingCheck] = {
    "C1": MaskingCheck(
        run=black_box,
        looks_for="black box beats white box",
        compute="images that survive PGD-20, C&W and APGD-CE, and then fall to Square (5000 "
        "queries), to random search or to transfer",
        raises="more than 0.2 points (AutoAttack's own threshold) and 2 images",
        budget=("samples",),
        uses_surrogate=True,
        least_classes=4,
    ),
    "C2": MaskingCheck(
        run=transfer,
        looks_for="transfer beats white box",
        compute="of those survivors, the images that fall to PGD-20 or C&W made on a naturally "
        "trained network of the same arch",
        raises="more than 2 images",
        uses_surrogate=True,
        needs_surrogate=True,
        least_classes=4,
    ),
    "C3": MaskingCheck(
        run=unbounded,
        looks_for="unbounded attack",
        compute="200 steps of 2.5 eps / 200 on cross entropy and on the margin at eps 0.25, 0.5, 1",
        raises="more than chance and 2 images at 0.5; any image at 1",
    ),
    "C4": MaskingCheck(
        run=iterations,
        looks_for="iterations",
        compute="PGD of 1 to 1000 steps of eps/5; FGSM",
        raises="FGSM breaks over 2 images more than PGD-20; over 100 steps break 0.5 points and 2 "
        "images more than 100",
        budget=("steps",),
    ),
    "C5": MaskingCheck(
        run=sweep,
        looks_for="budget sweep",
        compute="PGD-20 at a quarter of eps to 16 eps, and at 1",
        raises="a larger eps breaks over 2 images fewer; a doubled eps keeps over 95% of an "
        "accuracy between 20% and 90%; any image at 1",
    ),
    "C6": MaskingCheck(
        run=random_points,
        looks_for="random search",
        compute="of the survivors of PGD-20, C&W and APGD-CE, those that fall to 10,000 random "
        "points, half of them corners of the ball",
        raises="more than 2 images",
        budget=("samples",),
        least_classes=4,
    ),
    "C7": MaskingCheck(
        run=loss_dependence,
        looks_for="loss dependence",
        compute="accuracy under PGD-20 on cross entropy, margin and DLR with K - 1 restarts, under "
        "MultiTargeted with margin and with targeted DLR, and under MD",
        raises="a spread of more than 5 points and 2 images",
        least_classes=4,
    ),
    "C8": MaskingCheck(
        run=logit_scale,
        looks_for="logit scale",
        compute="PGD-20 from five starts on logits times 0.01, 0.1, 10, 100",
        raises="one of them breaks over 5 points and 2 images more than PGD-20",
    ),
    "C9": MaskingCheck(
        run=vanishing,
        looks_for="gradient health",
        compute="images whose gradient of cross entropy is below 1e-12 (L1) at the image or at a "
        "random start",
        raises="more than 2 images",
    ),
    "C10": MaskingCheck(
        run=restarts,
        looks_for="restarts",
        compute="PGD-20 from 20 random starts; accuracy under 1 and 5 of them, averaged over "
        "their choices",
        raises="20 break over 1 point and 3 images more than 5",
        budget=("restarts",),
    ),
    "C11": MaskingCheck(
        run=convergence,
        looks_for="convergence",
        compute="FOSC of the margin after 100 steps, relative to its value at the image, mean over "
        "the images that survive",
        raises="more than 0.5",
    ),
    "C12": MaskingCheck(
        run=undefended,
        looks_for="the attack works at all",
        compute="PGD-20 and C&W on a naturally trained network of the same arch",
        raises="over 1 point and 2 images survive",
        uses_surrogate=True,
        needs_surrogate=True,
    ),
    "C13": MaskingCheck(
        run=fixed,
        looks_for="BatchNorm mode and chance",
        compute="five calls on the same images; PGD-20 made with the model in train mode",
        raises="logits differ by more than 0.0001; the attack in train mode breaks over 1 point "
        "and 2 images more",
    ),
    "C14": MaskingCheck(
        run=labels,
        looks_for="surrogate labels",
        compute="PGD-20 from five starts against labels that give 31% to a random draw of classes, "
        "as CAT trains with; PGD on the cross entropy of each other class, against as many "
        "restarts of PGD-20",
        raises="either breaks over 5 points and 2 images more",
    ),
}


def check_params(number: str, budget: CheckBudget) -> dict[str, Any]:
    """Return the parameters that the outcome of a check depends on, for its record."""
    return {name: getattr(budget, name) for name in CHECKS[number].budget}


def left_out(n_surrogates: int, n_classes: int) -> dict[str, str]:
    """Map the number of each check that cannot run to the reason."""
    reasons = {}
    for number, check in CHECKS.items():
        if n_classes < check.least_classes:
            reasons[number] = f"needs at least {check.least_classes} classes"
        elif check.needs_surrogate and not n_surrogates:
            reasons[number] = "needs a naturally trained network of the same arch as a surrogate"
    return reasons


def run_checks(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    batch_size: int = 256,
    budget: CheckBudget | None = None,
    surrogates: Sequence[nn.Module] = (),
    numbers: Sequence[str] = tuple(CHECKS),
) -> list[Check]:
    """Run the checks `numbers` that can run (see left_out) on x (n, C, H, W) in [0, 1], y (n,).

    All tensors are on the model's device. A model without any correct image has no checks. Raises
    ConfigError for an unknown number.
    """
    refuse_unknown("check", numbers, CHECKS)
    with evaluating(model):
        ctx = CheckContext.of(
            *(model, x, y, threat),
            seed=seed,
            batch_size=batch_size,
            budget=budget,
            surrogates=surrogates,
        )
        if len(ctx.y) == 0:
            return []
        absent = left_out(len(surrogates), ctx.n_classes)
        return [CHECKS[number].run(ctx) for number in numbers if number not in absent]


__all__ = [
    "CHECKS",
    "Check",
    "CheckBudget",
    "CheckContext",
    "check_params",
    "left_out",
    "run_checks",
]
