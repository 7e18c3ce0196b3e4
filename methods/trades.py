"""TRADES: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy"
(arXiv 1901.08573).

    min_theta  mean [ CE(Z(x), y) + beta * max_{|d| <= eps} KL(p(x) || p(x + d)) ]

Agrees with the authors' code (yaodongyu/TRADES) on: the start x + 0.001 N(0, 1), clipped neither
to the ball nor to the pixel range before the first gradient; the model in eval mode in the attack;
KL summed over classes and averaged over the batch; a gradient through both arguments of KL; the
running statistics of BatchNorm, which see the natural batch, the adversarial one and the natural
one again.
Differs from it: p(x) is computed once in the attack and not at every step, and of the third
forward, whose logits are those of the first, only what it does to the running statistics is done:
the same result for less work. Lengths are stated at eps = 8/255 (the code's eps is 0.031).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import (
    Batch,
    ConfigError,
    Method,
    TrainState,
    attack_mode,
    losses,
    maximise,
    recorded_statistics,
    register,
)


@register("trades")
@dataclass(frozen=True, kw_only=True)
class Trades(Method):
    """Clean cross entropy plus beta times the KL divergence that the attack reaches."""

    beta: float = 6.0
    """Weight of the robust term, 1/lambda in the paper."""
    steps: int = 10
    """Gradient steps of the attack."""
    step_size: float = 0.007
    """Length of a step, at eps = 8/255."""

    title = "TRADES"
    paper = "arXiv 1901.08573"
    objective = "CE(Z(x), y) + beta KL(p(x) || p(x'))"
    inner = "max KL(p(x) || p(x'))"

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ConfigError(f"beta = {self.beta} is out of range: at least 0")
        if self.steps < 1:
            raise ConfigError(f"steps = {self.steps} is out of range: at least 1")
        if self.step_size <= 0:
            raise ConfigError(f"step_size = {self.step_size} is out of range: above 0")

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """PGD on the KL divergence from the clean prediction."""
        model = state.attack_model("eval")
        with attack_mode(model, "eval"), torch.no_grad():
            clean = model(batch.x)
        return maximise(
            lambda logits, target, _: losses.kl_divergence(target, logits),
            model,
            batch.x,
            clean,
            threat=state.threat,
            radius=state.threat.eps,
            steps=self.steps,
            step_size=state.threat.scale(self.step_size),
            start="gaussian",
            generator=state.generator("start"),
        )

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        """Mean of both terms."""
        with recorded_statistics(state.model) as again:
            clean = state.model(batch.x)
        adversarial = state.model(x_adv)
        again()  # all that is left of the code's third forward
        natural = losses.cross_entropy(clean, batch.y).mean()
        return natural + self.beta * losses.kl_divergence(clean, adversarial).mean()
