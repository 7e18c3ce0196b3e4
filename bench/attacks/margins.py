"""Ascents on the margin for models on which the plain ascent goes astray: MD and MultiTargeted.

Shapes: B batch, n remaining images, C H W image, K classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from bench import losses
from bench.attacks.attack import Definitions
from bench.attacks.maximise import Objective, attack_mode, check_choice
from bench.attacks.pgd import Aim, Ascent
from bench.errors import ConfigError
from bench.threat import Threat

TargetedLoss = Literal["margin", "dlr", "ce"]
LOSSES: dict[TargetedLoss, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "margin": losses.targeted_margin,
    "dlr": losses.targeted_dlr,
    "ce": lambda logits, y, target: -losses.cross_entropy(logits, target),
}
TYPICAL_TARGETS = 9
"""Targets with ten classes, for the estimate of the cost."""


@dataclass(frozen=True, kw_only=True)
class MD(Ascent):
    """Margin decomposition (Ma et al., arXiv 2006.13726), for models with imbalanced gradients.

    If one term of the margin max_{j != y} Z_j - Z_y has a much larger gradient than the other, the
    ascent follows that term only, often the wrong way. So there are two runs: one begins on -Z_y,
    the other on max_{j != y} Z_j; both end on the margin.

    Step i of a stage of n steps is `relative_step` eps (1 + cos(pi i / n)) / 2, so each stage
    begins with jumps across the ball and ends with small steps. Both runs start from uniform noise;
    an image that the first run broke is not attacked again; the first misclassified iterate of a
    run counts.

    Differs from the authors' code: there the very first step climbs Z_y, away from an error; the
    cosines lag a step behind; and that of the first stage is as long as the second's, so that the
    stage ends with a step of 0.7 eps and the first step on the margin is one of 0.6 eps.
    """

    steps: int = 50
    first_steps: int = 20
    """Steps on one term."""
    relative_step: float = 2.0
    """Length of the first step of a stage, in units of eps."""

    start = "uniform-unclipped"

    def __post_init__(self) -> None:
        if not 1 <= self.first_steps < self.steps:
            raise ConfigError(
                f"first_steps = {self.first_steps} is out of range: "
                f"at least 1 and below steps = {self.steps}"
            )
        super().__post_init__()

    @property
    def passes(self) -> tuple[int, int]:
        return 2 * self.steps, 3

    def aims(self, model: nn.Module, x: Tensor, y: Tensor) -> Sequence[Aim]:
        def aim(term: Callable[[Tensor, Tensor], Tensor], left: Tensor) -> Objective:
            return lambda logits, y, step: (
                term(logits, y) if step < self.first_steps else losses.margin(logits, y)
            )

        terms = (lambda logits, y: -losses.true_logit(logits, y), losses.best_other)
        return [partial(aim, term) for term in terms]

    def step_size(self, threat: Threat) -> Callable[[int], float]:
        def size(step: int) -> float:
            done, length = step, self.first_steps
            if step >= length:
                done, length = step - length, self.steps - length
            relative = self.relative_step * (1 + math.cos(math.pi * done / length)) / 2
            return relative * threat.eps

        return size


@dataclass(frozen=True, kw_only=True)
class MultiTargeted(Ascent):
    """PGD by signed steps towards each of the K - 1 other classes; any of them may break an image.

    The ascent on max_j Z_j - Z_y follows whichever class leads at the moment; here every class has
    its own run, so that the one which can overtake is found even if it never leads on the way
    (Gowal et al., arXiv 1910.09338).

    Targets are visited in descending order of the clean logits. Runs start from uniform noise
    clipped to the pixel range; an image that an earlier run broke is not attacked again; the first
    misclassified iterate of a run counts, whatever its class.

    Differs from the paper: signed steps in place of Adam, and 20 of them.
    """

    steps: int = 20
    relative_step: float = 1 / 5
    restarts: int = 1
    """Runs from fresh noise per target."""
    loss: TargetedLoss = "margin"
    """Z_t - Z_y, its ratio to the spread of the logits (targeted DLR; from four classes on), or
    minus the cross entropy of the target."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss", self.loss, TargetedLoss)

    @property
    def passes(self) -> tuple[int, int]:
        runs = TYPICAL_TARGETS * self.restarts
        return runs * self.steps, 2 * runs

    def aims(self, model: nn.Module, x: Tensor, y: Tensor) -> Sequence[Aim]:
        loss, targets = LOSSES[self.loss], other_classes(model, x, y)

        def aim(target: Tensor, left: Tensor) -> Objective:
            return lambda logits, y, _: loss(logits, y, target[left])

        turns = [k for k in range(targets.shape[1]) for _ in range(self.restarts)]
        return [partial(aim, targets[:, k]) for k in turns]


def other_classes(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(B, K - 1): the classes other than y, in descending order of their logits at x."""
    with attack_mode(model, "eval"), torch.no_grad():
        logits = model(x)
    rivals: Tensor = logits.nan_to_num().scatter(1, y[:, None], -torch.inf)
    return rivals.argsort(dim=1, descending=True, stable=True)[:, :-1]


DEFINITIONS: Definitions = {
    "md": (
        MD(),
        "margin decomposition: 20 steps on -Z_y in one run and on max_{j != y} Z_j in another, "
        "then 30 on the margin, each stage by a cosine from 2 eps down, uniform start, not "
        "clipped to the pixel range, any iterate counts (Ma et al., arXiv 2006.13726)",
    ),
    "multitargeted": (
        MultiTargeted(),
        "20 steps of eps/5 on Z_t - Z_y for each other class t, uniform start, one restart a "
        "class, any iterate counts (Gowal et al., arXiv 1910.09338, with steps of our own)",
    ),
    "multitargeted-dlr": (
        MultiTargeted(loss="dlr"),
        "multitargeted on the targeted DLR loss of AutoAttack; from four classes on",
    ),
}
