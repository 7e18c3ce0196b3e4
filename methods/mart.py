"""MART: Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples"
(ICLR 2020).

    min_theta  mean [ BCE(p(x'), y) + beta * KL(p(x) || p(x')) * (1 - p_y(x)) ]
    BCE(p', y) = -log p'_y - log(1 - max_{k != y} p'_k),   x' = argmax_{|d| <= eps} CE(Z(x + d), y)

Misclassified images weigh more in the KL term. beta is lambda in the paper.

Agrees with the authors' code (YisenWang/MART) on: an attack on cross entropy from
x + 0.001 N(0, 1), clipped neither to the ball nor to the pixel range before the first gradient,
with the model in eval mode; the constants 1e-12, 1.0001 and 1.0000001 inside logarithms and
weight; a gradient through everything: both arguments of KL, its weight and the runner-up; two
train-mode forwards per step, natural then adversarial.
Differs from it: log p(x) in KL is a log-softmax, the same value, whose gradient stays finite where
p(x) underflows to 0. Lengths are stated at eps = 8/255 (the code's eps is 0.031). beta is the
function's default and the WRN-34-10 script's; the script for ResNet-18 passes 5.
"""

from dataclasses import dataclass

from torch import Tensor

from bench.api import Batch, Method, TrainState, losses, param, register

TINY = 1e-12
"""Keeps a logarithm finite."""


@register("mart")
@dataclass(frozen=True, kw_only=True)
class Mart(Method):
    """Boosted cross entropy plus a KL divergence that weighs misclassified images more."""

    beta: float = param(6.0, ge=0)
    """Weight of the KL term, lambda in the paper."""
    steps: int = param(10, ge=1)
    """Gradient steps of the attack."""
    step_size: float = param(0.007, gt=0)
    """Length of a step, at eps = 8/255."""

    title = "MART"
    paper = "ICLR 2020"
    objective = "BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x))"
    inner = "max CE(Z(x'), y)"

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return state.maximise(
            lambda logits, y, _: losses.cross_entropy(logits, y),
            state.attack_model("eval"),
            batch.x,
            batch.y,
            steps=self.steps,
            step_size=state.threat.scale(self.step_size),
            start="gaussian",
        )

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        clean = state.model(batch.x)
        adversarial = state.model(x_adv)
        p_clean, p_adv = clean.softmax(1), adversarial.softmax(1)
        true = batch.y[:, None]
        # max picks one class where several tie, as the code's sort does; amax would share
        runner_up = p_adv.scatter(1, true, -1.0).max(1).values
        boosted = losses.cross_entropy(adversarial, batch.y) - (1.0001 + TINY - runner_up).log()
        kl = (p_clean * (clean.log_softmax(1) - (p_adv + TINY).log())).sum(1)
        weight: Tensor = 1.0000001 - p_clean.gather(1, true).squeeze(1)
        each: Tensor = boosted + self.beta * kl * weight
        return each.mean()
