"""Margin decomposition (Ma et al., arXiv 2006.13726), for models with imbalanced gradients.

If one term of the margin max_{j != y} Z_j - Z_y has a much larger gradient than the other, the
ascent follows that term only, often the wrong way. So each run first climbs one of the terms and
then, from there, the whole margin.

Shapes: B batch, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from bench.attacks.attack import Definitions
from bench.attacks.maximise import Objective
from bench.attacks.restarts import Aim, Ascent
from bench.errors import ConfigError
from bench.losses import best_other, margin, true_logit
from bench.threat import Threat

Term = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class MD(Ascent):
    """Two runs: one begins on -Z_y, the other on max_{j != y} Z_j; both end on the margin.

    Step i of a stage of n steps is `relative_step` eps (1 + cos(pi i / n)) / 2, so each stage
    begins with jumps across the ball and ends with small steps. Both runs start from uniform noise;
    an image that the first run broke is not attacked again; the first misclassified iterate of a
    run counts.

    Differs from the authors' code: there the very first step climbs Z_y, away from an error; the
    cosines lag a step behind; and that of the first stage is as long as the second's, so that the
    stage ends with a step of 0.7 eps and the first step on the margin is one of 0.6 eps.
    """

    steps: int = 50
    """Gradient steps per run."""
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
        terms: tuple[Term, ...] = (lambda logits, y: -true_logit(logits, y), best_other)
        return [partial(self._aim, term) for term in terms]

    def _aim(self, term: Term, left: Tensor) -> Objective:
        return lambda logits, y, step: (term if step < self.first_steps else margin)(logits, y)

    def step_size(self, threat: Threat) -> Callable[[int], float]:
        return lambda step: self._relative_step(step) * threat.eps

    def _relative_step(self, step: int) -> float:
        first = step < self.first_steps
        done = step if first else step - self.first_steps
        length = self.first_steps if first else self.steps - self.first_steps
        return self.relative_step * (1 + math.cos(math.pi * done / length)) / 2


DEFINITIONS: Definitions = {
    "md": (
        MD(),
        "margin decomposition: 20 steps on -Z_y in one run and on max_{j != y} Z_j in another, "
        "then 30 on the margin, each stage by a cosine from 2 eps down, uniform start, not "
        "clipped to the pixel range, any iterate counts (Ma et al., arXiv 2006.13726)",
    ),
}
