"""PGD adversarial training: Madry et al., "Towards Deep Learning Models Resistant to Adversarial
Attacks" (arXiv 1706.06083).

    min_theta  mean  max_{|d| <= eps} CE(Z(x + d), y)

The outer loss sees adversarial images only.

Differs from the authors' code (MadryLab/cifar10_challenge): BatchNorm is in eval mode in the
attack (theirs has one graph in train mode, so that every attack forward moves the running
averages; `attack_bn="train"` restores that); the random start is clipped to [0, 1] as theirs; the
number of steps is the code's 10, not the 7 with which the published network is said to be trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bench.api import Batch, ConfigError, Method, TrainState, losses, maximise, register


@register("madry")
@dataclass(frozen=True, kw_only=True)
class Madry(Method):
    """Cross entropy on the outcome of PGD."""

    steps: int = 10
    """Gradient steps of the attack."""
    step_size: float = 2 / 255
    """Length of a step, at eps = 8/255."""
    start: Literal["uniform", "zero"] = "uniform"
    """Start of the attack, uniform in the ball and clipped to the pixel range."""
    attack_bn: Literal["eval", "train"] = "eval"
    """Mode of BatchNorm in the attack."""

    title = "Madry AT"
    paper = "arXiv 1706.06083"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y)"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps = {self.steps} is out of range: at least 1")
        if self.step_size <= 0:
            raise ConfigError(f"step_size = {self.step_size} is out of range: above 0")

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """PGD on cross entropy."""
        return maximise(
            lambda logits, y, _: losses.cross_entropy(logits, y),
            state.attack_model(self.attack_bn),
            batch.x,
            batch.y,
            threat=state.threat,
            radius=state.threat.eps,
            steps=self.steps,
            step_size=state.threat.scale(self.step_size),
            start=self.start,
            generator=state.generator("start"),
            model_mode=self.attack_bn,
        )

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        """Mean cross entropy of the adversarial images."""
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()
