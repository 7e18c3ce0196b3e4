"""Margin decomposition (Ma et al., arXiv 2006.13726), for models with imbalanced gradients.

Where one term of the margin max_{j != y} Z_j - Z_y has a much larger gradient than the other, the
ascent follows that term alone, often the wrong way. So each run first climbs one of the terms and
then, from where that led, the whole margin.

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.attacks.attack import Attack, Search
from bench.attacks.maximise import Objective
from bench.attacks.search import searched
from bench.attacks.sequence import ascend_in_turn
from bench.errors import ConfigError
from bench.losses import best_other, margin, true_logit
from bench.threat import Threat

Term = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class MD(Attack):
    """Two runs: -Z_y for the first steps of one, max_{j != y} Z_j for those of the other.

    The remaining steps of both are on the margin. Step i of a stage of n steps is
    `relative_step` eps (1 + cos(pi i / n)) / 2, so each stage begins with jumps across the ball and
    ends with small steps. Both runs start from uniform noise; an image that the first run broke is
    not attacked again; the first misclassified iterate of a run counts.

    Differs from the authors' code: there the very first step climbs Z_y, away from an error; the
    cosines lag a step behind; and that of the first stage is as long as the second's, so that the
    stage ends with a step of 0.7 eps and the first step on the margin is one of 0.6 eps.
    """

    steps: int = 50
    """Gradient steps of a run."""
    first_steps: int = 20
    """How many of them are on one term."""
    relative_step: float = 2.0
    """Length of the first step of a stage, in units of eps."""

    def __post_init__(self) -> None:
        if not 1 <= self.first_steps < self.steps:
            raise ConfigError(
                f"first_steps = {self.first_steps} is out of range: "
                f"at least 1 and below steps = {self.steps}"
            )
        if not self.relative_step > 0:
            raise ConfigError(f"relative_step = {self.relative_step} is out of range: above 0")

    @property
    def search(self) -> Search:
        """A copy in the model's own dtype."""
        return "fp32"

    @property
    def passes(self) -> tuple[int, int]:
        """Gradients and plain forwards, about, of an image that nothing breaks."""
        return 2 * self.steps, 3

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
        terms: tuple[Term, ...] = (lambda logits, y: -true_logit(logits, y), best_other)
        return ascend_in_turn(
            [partial(self._aim, term) for term in terms],
            searched(model, self.search),
            x,
            y,
            threat,
            steps=self.steps,
            step_size=lambda step: self._relative_step(step) * threat.eps,
            start="uniform-unclipped",
            keep="first",
            generator=generator,
            rows=rows,
        )

    def _aim(self, term: Term, left: Tensor) -> Objective:
        return lambda logits, y, step: (term if step < self.first_steps else margin)(logits, y)

    def _relative_step(self, step: int) -> float:
        first = step < self.first_steps
        done = step if first else step - self.first_steps
        length = self.first_steps if first else self.steps - self.first_steps
        return self.relative_step * (1 + math.cos(math.pi * done / length)) / 2
