"""Fourteen checks for gradient masking, each with an indicator, a threshold and a verdict.

Athalye et al. (arXiv 1802.00420) and Carlini et al. (arXiv 1902.06705) name the symptoms. Only
Square's 0.2 points have a source of their own (AutoAttack); every other threshold is a proposal of
ours that Madry AT does not exceed on digits. An alarm on another honest method can happen and says
where to look. The absence of all alarms is necessary, not sufficient. Accuracies are over the
images that are correct without an attack.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from bench.errors import refuse_unknown
from bench.evaluation.checks import black_box, gradients, white_box
from bench.evaluation.checks.context import Check, CheckBudget, CheckContext, MaskingCheck
from bench.evaluation.prediction import evaluating
from bench.threat import Threat

_DECLARED = [
    check
    for module in (black_box, gradients, white_box)
    for check in vars(module).values()
    if isinstance(check, MaskingCheck)
]
CHECKS = {check.number: check for check in sorted(_DECLARED, key=lambda c: int(c.number[1:]))}


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
    surrogates: Sequence[nn.Module] = (),
    numbers: Sequence[str] = tuple(CHECKS),
    **options: Any,
) -> list[Check]:
    """Run the checks `numbers` that can run (see left_out) on x (n, C, H, W) in [0, 1], y (n,).

    All tensors are on the model's device; `options`: seed, batch_size and budget, as of
    CheckContext.of. A model without any correct image has no checks. Raises ConfigError for an
    unknown number.
    """
    refuse_unknown("check", numbers, CHECKS)
    with evaluating(model):
        ctx = CheckContext.of(model, x, y, threat, surrogates=surrogates, **options)
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
