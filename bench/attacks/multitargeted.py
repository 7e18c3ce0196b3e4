"""MultiTargeted (Gowal et al., arXiv 1910.09338): one ascent for every class other than y.

The ascent on max_j Z_j - Z_y follows whichever class leads at the moment; here every class has its
own run, so that the one which can overtake is found even if it never leads on the way.

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from bench.attacks.attack import Definitions
from bench.attacks.maximise import Objective, attack_mode, check_choice
from bench.attacks.restarts import Aim, Ascent
from bench.losses import cross_entropy, targeted_dlr, targeted_margin

Loss = Literal["margin", "dlr", "ce"]
LOSSES: dict[Loss, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "margin": targeted_margin,
    "dlr": targeted_dlr,
    "ce": lambda logits, y, target: -cross_entropy(logits, target),
}
TYPICAL_TARGETS = 9
"""Targets with ten classes, for the estimate of the cost."""


@dataclass(frozen=True, kw_only=True)
class MultiTargeted(Ascent):
    """PGD by signed steps towards each of the K - 1 other classes; any of them may break an image.

    Targets are visited in descending order of the clean logits. Runs start from uniform noise
    clipped to the pixel range; an image that an earlier run broke is not attacked again; the first
    misclassified iterate of a run counts, whatever its class.

    Differs from the paper: signed steps in place of Adam, and 20 of them.
    """

    steps: int = 20
    """Gradient steps per run."""
    relative_step: float = 1 / 5
    """Step length, in units of eps."""
    restarts: int = 1
    """Runs from fresh noise per target."""
    loss: Loss = "margin"
    """Z_t - Z_y, its ratio to the spread of the logits (targeted DLR; from four classes on), or
    minus the cross entropy of the target."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss", self.loss, Loss)

    @property
    def passes(self) -> tuple[int, int]:
        runs = TYPICAL_TARGETS * self.restarts
        return runs * self.steps, 2 * runs

    def aims(self, model: nn.Module, x: Tensor, y: Tensor) -> Sequence[Aim]:
        targets = other_classes(model, x, y)
        turns = [k for k in range(targets.shape[1]) for _ in range(self.restarts)]
        return [partial(self._aim, targets[:, k]) for k in turns]

    def _aim(self, target: Tensor, left: Tensor) -> Objective:
        loss = LOSSES[self.loss]
        return lambda logits, y, _: loss(logits, y, target[left])


def other_classes(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(B, K - 1): the classes other than y, in descending order of their logits at x."""
    with attack_mode(model, "eval"), torch.no_grad():
        logits = model(x)
    rivals: Tensor = logits.nan_to_num().scatter(1, y[:, None], -torch.inf)
    return rivals.argsort(dim=1, descending=True, stable=True)[:, :-1]


DEFINITIONS: Definitions = {
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
