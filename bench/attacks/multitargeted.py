"""MultiTargeted (Gowal et al., arXiv 1910.09338): one ascent for every class that y is not.

The ascent on max_j Z_j - Z_y follows whichever class leads at the moment; here each class has its
turn, so that the one which can overtake is found even where it never leads on the way.

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from bench.attacks.attack import Attack, Search
from bench.attacks.maximise import Objective, attack_mode, check_choice
from bench.attacks.search import searched
from bench.attacks.sequence import ascend_in_turn
from bench.errors import ConfigError
from bench.losses import cross_entropy, targeted_dlr, targeted_margin
from bench.threat import Threat

Loss = Literal["margin", "dlr", "ce"]
LOSSES: dict[Loss, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "margin": targeted_margin,
    "dlr": targeted_dlr,
    "ce": lambda logits, y, target: -cross_entropy(logits, target),
}
TYPICAL_TARGETS = 9
"""Targets of ten classes, for the estimate of the cost."""


@dataclass(frozen=True, kw_only=True)
class MultiTargeted(Attack):
    """PGD by signed steps towards each of the K - 1 other classes; any of them may break an image.

    The targets of an image come in falling order of its clean logits. Runs start from uniform
    noise clipped to the pixel range; an image that an earlier run broke is not attacked again; the
    first misclassified iterate of a run counts, whatever its class.

    Differs from the paper: signed steps in place of Adam, and 20 of them.
    """

    steps: int = 20
    """Gradient steps of a run."""
    relative_step: float = 1 / 5
    """Length of a step, in units of eps."""
    restarts: int = 1
    """Runs from fresh noise for each target."""
    loss: Loss = "margin"
    """Z_t - Z_y, its ratio to the spread of the logits (targeted DLR; from four classes on), or
    minus the cross entropy of the target."""

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} is out of range: at least 1")
        if not self.relative_step > 0:
            raise ConfigError(f"relative_step = {self.relative_step} is out of range: above 0")
        check_choice("loss", self.loss, Loss)

    @property
    def search(self) -> Search:
        """A copy in the model's own dtype."""
        return "fp32"

    @property
    def passes(self) -> tuple[int, int]:
        """Gradients and plain forwards, about, of an image that nothing breaks; ten classes."""
        runs = TYPICAL_TARGETS * self.restarts
        return runs * self.steps, 2 * runs

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) in [0, 1], (B,) -> x_adv (B, C, H, W), detached, inside the threat.

        rows: (B,) places of these images in a frame of 256, which the noise is drawn for.
        """
        if len(x) == 0:
            return x.detach().clone()
        model = searched(model, self.search)
        targets = other_classes(model, x, y)
        turns = [k for k in range(targets.shape[1]) for _ in range(self.restarts)]
        return ascend_in_turn(
            [partial(self._aim, targets[:, k]) for k in turns],
            model,
            x,
            y,
            threat,
            steps=self.steps,
            step_size=self.relative_step * threat.eps,
            start="uniform",
            keep="first",
            generator=generator,
            rows=rows,
        )

    def _aim(self, target: Tensor, left: Tensor) -> Objective:
        loss = LOSSES[self.loss]
        return lambda logits, y, _: loss(logits, y, target[left])


def other_classes(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(B, K - 1): the classes that y is not, in falling order of their logits at x."""
    with attack_mode(model, "eval"), torch.no_grad():
        logits = model(x)
    rivals: Tensor = logits.nan_to_num().scatter(1, y[:, None], -torch.inf)
    return rivals.argsort(dim=1, descending=True, stable=True)[:, :-1]
