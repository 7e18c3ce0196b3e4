"""Does a model hide its gradients? Fourteen symptoms, each with a figure, a threshold, a verdict.

Athalye et al. (arXiv 1802.00420) and Carlini et al. (arXiv 1902.06705) say what to look for; only
Square's 0.2 points have a source of their own (AutoAttack), every other threshold is a proposal
of ours, which Madry AT does not exceed on digits; an alarm on another honest method can happen and
says where to look. Absence of all of them is necessary, not sufficient. Accuracies are of
clean-correct images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from bench.attacks.maximise import attack_mode
from bench.errors import unknown_name
from bench.evaluation.check import Check
from bench.evaluation.checks.black_box import black_box, random_points, transfer
from bench.evaluation.checks.budget import iterations, restarts, sweep, unbounded
from bench.evaluation.checks.gradients import convergence, fixed, vanishing
from bench.evaluation.checks.lab import Effort, Lab
from bench.evaluation.checks.losses import labels, logit_scale, loss_dependence
from bench.evaluation.checks.twin import undefended
from bench.evaluation.chunk import exact_arithmetic
from bench.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A check by its number."""

    run: Callable[[Lab], Check]
    asks: str
    """What it looks for."""
    compute: str
    alarm: str
    """In words, for the documentation."""
    effort: tuple[str, ...] = ()
    """Fields of Effort that it depends on."""
    uses_surrogate: bool = False
    needs_surrogate: bool = False
    least_classes: int = 2


CHECKS: dict[str, Definition] = {
    "C1": Definition(
        run=black_box,
        asks="black box beats white box",
        compute="images that survive PGD-20, C&W and APGD-CE, and then fall to Square (5000 "
        "queries), to random search or to transfer",
        alarm="more than 0.2 points (AutoAttack's own threshold) and 2 images",
        effort=("samples",),
        uses_surrogate=True,
        least_classes=4,
    ),
    "C2": Definition(
        run=transfer,
        asks="transfer beats white box",
        compute="of those survivors, the images that fall to PGD-20 or C&W made on a naturally "
        "trained network of the same arch",
        alarm="more than 2 images",
        uses_surrogate=True,
        needs_surrogate=True,
        least_classes=4,
    ),
    "C3": Definition(
        run=unbounded,
        asks="unbounded attack",
        compute="200 steps of 2.5 eps / 200 on cross entropy and on the margin at eps 0.25, 0.5, 1",
        alarm="more than chance and 2 images at 0.5; any image at 1",
    ),
    "C4": Definition(
        run=iterations,
        asks="iterations",
        compute="PGD of 1 to 1000 steps of eps/5; FGSM",
        alarm="FGSM breaks over 2 images more than PGD-20; over 100 steps break 0.5 points and 2 "
        "images more than 100",
        effort=("steps",),
    ),
    "C5": Definition(
        run=sweep,
        asks="budget sweep",
        compute="PGD-20 at a quarter of eps to 16 eps, and at 1",
        alarm="a larger eps breaks over 2 images fewer; a doubled eps keeps over 95% of an "
        "accuracy between 20% and 90%; any image at 1",
    ),
    "C6": Definition(
        run=random_points,
        asks="random search",
        compute="of the survivors of PGD-20, C&W and APGD-CE, those that fall to 10,000 random "
        "points, half of them corners of the ball",
        alarm="more than 2 images",
        effort=("samples",),
        least_classes=4,
    ),
    "C7": Definition(
        run=loss_dependence,
        asks="loss dependence",
        compute="accuracy under PGD-20 on cross entropy, margin and DLR with K - 1 restarts, under "
        "MultiTargeted with margin and with targeted DLR, and under MD",
        alarm="a spread of more than 5 points and 2 images",
        least_classes=4,
    ),
    "C8": Definition(
        run=logit_scale,
        asks="logit scale",
        compute="PGD-20 from five starts on logits times 0.01, 0.1, 10, 100",
        alarm="one of them breaks over 5 points and 2 images more than PGD-20",
    ),
    "C9": Definition(
        run=vanishing,
        asks="gradient health",
        compute="images whose gradient of cross entropy is below 1e-12 (L1) at the image or at a "
        "random start",
        alarm="more than 2 images",
    ),
    "C10": Definition(
        run=restarts,
        asks="restarts",
        compute="PGD-20 from 20 random starts; accuracy under 1 and 5 of them, averaged over "
        "their choices",
        alarm="20 break over 1 point and 3 images more than 5",
        effort=("restarts",),
    ),
    "C11": Definition(
        run=convergence,
        asks="convergence",
        compute="FOSC of the margin after 100 steps, relative to its value at the image, mean over "
        "the images that survive",
        alarm="more than 0.5",
    ),
    "C12": Definition(
        run=undefended,
        asks="the attack works at all",
        compute="PGD-20 and C&W on a naturally trained network of the same arch",
        alarm="over 1 point and 2 images survive",
        uses_surrogate=True,
        needs_surrogate=True,
    ),
    "C13": Definition(
        run=fixed,
        asks="BatchNorm mode and chance",
        compute="five calls on the same images; PGD-20 made with the model in train mode",
        alarm="logits differ by more than 0.0001; the attack in train mode breaks over 1 point and "
        "2 images more",
    ),
    "C14": Definition(
        run=labels,
        asks="surrogate labels",
        compute="PGD-20 from five starts against labels that give 31% to a random draw of classes, "
        "as CAT trains with; PGD on the cross entropy of each other class, against as many "
        "restarts of PGD-20",
        alarm="either breaks over 5 points and 2 images more",
    ),
}


def check_params(number: str, effort: Effort) -> dict[str, Any]:
    """The parameters that the outcome of a check depends on, for its record."""
    return {name: asdict(effort)[name] for name in definition(number).effort}


def definition(number: str) -> Definition:
    """Raises ConfigError for a number that no check has."""
    if number not in CHECKS:
        raise unknown_name("check", number, CHECKS)
    return CHECKS[number]


def left_out(n_surrogates: int, n_classes: int) -> dict[str, str]:
    """Checks that cannot be made, and why."""
    reasons = {}
    for number, found in CHECKS.items():
        if n_classes < found.least_classes:
            reasons[number] = f"needs at least {found.least_classes} classes"
        elif found.needs_surrogate and not n_surrogates:
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
    effort: Effort | None = None,
    surrogates: Sequence[nn.Module] = (),
    numbers: Sequence[str] = tuple(CHECKS),
) -> list[Check]:
    """The checks `numbers`, as far as they can be made (see left_out), on these images.

    x (n, C, H, W) in [0, 1], y (n,), on the model's device. A model that gets no image right has
    no checks. Raises ConfigError for an unknown number.
    """
    for number in numbers:
        definition(number)
    with attack_mode(model, "eval"), exact_arithmetic():
        lab = Lab.of(
            model,
            x,
            y,
            threat,
            seed=seed,
            batch_size=batch_size,
            effort=effort,
            surrogates=surrogates,
        )
        if len(lab.y) == 0:
            return []
        absent = left_out(len(surrogates), lab.n_classes)
        return [CHECKS[number].run(lab) for number in numbers if number not in absent]


__all__ = [
    "CHECKS",
    "Check",
    "Effort",
    "Lab",
    "check_params",
    "definition",
    "left_out",
    "run_checks",
]
