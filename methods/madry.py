"""PGD adversarial training: Madry et al., "Towards Deep Learning Models Resistant to Adversarial
Attacks" (arXiv 1706.06083).

    min_theta  mean  max_{|d| <= eps} CE(Z(x + d), y)

The outer loss sees adversarial images only.

Agrees with the authors' code (MadryLab/cifar10_challenge) on: a random start that is clipped to
[0, 1].
Differs from it: BatchNorm is in eval mode in the attack (theirs has one graph in train mode, so
every forward of the attack moves the running averages; `attack_bn="train"` restores that); the
number of steps is the code's 10, not the 7 stated for the published network.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bench.api import Batch, Method, TrainState, losses, param, register


@register("madry")
@dataclass(frozen=True, kw_only=True)
class Madry(Method):
    """Cross entropy on images found by PGD."""

    steps: int = param(10, ge=1)
    """Gradient steps of the attack."""
    step_size: float = param(2 / 255, gt=0)
    """Length of a step, at eps = 8/255."""
    start: Literal["uniform", "zero"] = "uniform"
    """Start of the attack: uniform in the ball and clipped to the pixel range, or the image."""
    attack_bn: Literal["eval", "train"] = "eval"
    """Mode of BatchNorm in the attack."""

    title = "Madry AT"
    paper = "arXiv 1706.06083"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y)"

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return state.maximise(
            lambda logits, y, _: losses.cross_entropy(logits, y),
            state.attack_model(self.attack_bn),
            batch.x,
            batch.y,
            steps=self.steps,
            step_size=state.threat.scale(self.step_size),
            start=self.start,
            model_mode=self.attack_bn,
        )

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()
