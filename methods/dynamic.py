"""Dynamic adversarial training: Wang et al., "On the Convergence and Robustness of Adversarial
Training" (ICML 2019, arXiv 2112.08304).

    min_theta  mean  max_{|d| <= eps} CE(Z(x + d), y),   by PGD that ends for an image as soon as
    c(x') = max_{|z - x| <= eps} <z - x', g> = eps |g|_1 - <x' - x, g> <= c_t,   g = grad CE at x'
    c_t = c_max max(0, 1 - epoch / T')

c is the first-order stationary condition (FOSC): 0 where x' is a stationary point of the ball.
Attacks converge better as the training goes on. The first step is unconditional; an image that
has stopped keeps its iterate.

c_max does not scale with eps. FOSC is a loss, not a length: the most that one more linear step
could add to the cross entropy, the same number whatever the unit of a pixel. For a given network
it is linear in eps, but training against a larger eps shrinks the gradient about as much, so a
c_max that grew with eps would stop nearly every image after its first step.

Agrees with the authors' code (YisenWang/dynamic_adv_training) on: the model in eval mode in the
attack; a start that is not clipped to the pixel range before the first gradient; T' = 100 of 120
epochs, here a share of the training.
Differs from it, where it departs from the text: x in c is the centre of the ball
(`reference="start"`: the point where PGD started, though the radius stays eps), and images weigh
the same (`weighted=True`: from the second epoch each by its own adversarial cross entropy, a
constant taken in eval mode). Lengths are stated at eps = 8/255 (the code's eps is 0.031).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    register,
)


@register("dynamic")
@dataclass(frozen=True, kw_only=True)
class Dynamic(Method):
    """Cross entropy on the outcome of PGD that stops at a falling FOSC."""

    c_max: float = 0.5
    """FOSC at which PGD stops in the first epoch, in nats."""
    control: float = 100 / 120
    """Share of the epochs after which PGD no longer stops, T' / T."""
    steps: int = 10
    """Gradient steps of the attack, if it is not stopped."""
    step_size: float = 2 / 255
    """Length of a step, at eps = 8/255."""
    reference: Literal["centre", "start"] = "centre"
    """The point from which FOSC measures x': the image, or the start of PGD."""
    weighted: bool = False
    """Whether an image weighs as much as its adversarial cross entropy, from the second epoch."""

    title = "Dynamic AT"
    paper = "arXiv 2112.08304"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y) until FOSC(x') <= c_t"

    def __post_init__(self) -> None:
        allowed = (
            ("c_max", self.c_max >= 0, "at least 0"),
            ("control", 0 < self.control <= 1, "above 0 and at most 1"),
            ("steps", self.steps >= 1, "at least 1"),
            ("step_size", self.step_size > 0, "above 0"),
        )
        for name, good, text in allowed:
            if not good:
                raise ConfigError(f"{name} = {getattr(self, name)} is out of range: {text}")

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """PGD on cross entropy, image by image until FOSC is low enough."""
        model = state.attack_model("eval")
        threshold = self._threshold(state)
        reference = batch.x

        def unconverged(
            step: int, x_adv: Tensor, logits: Tensor, gradient: Tensor
        ) -> Tensor | None:
            nonlocal reference
            if step == 0:
                reference = batch.x if self.reference == "centre" else x_adv
                return None
            gained = ((x_adv - reference) * gradient).flatten(1).sum(1)
            return state.threat.eps * state.threat.dual_norm(gradient) - gained > threshold

        x_adv = maximise(
            lambda logits, y, _: losses.cross_entropy(logits, y),
            model,
            batch.x,
            batch.y,
            threat=state.threat,
            radius=state.threat.eps,
            steps=self.steps,
            step_size=state.threat.scale(self.step_size),
            start="uniform-unclipped",
            on_step=unconverged,
            generator=state.generator("start"),
        )
        if self.weighted and state.epoch > 0:
            with attack_mode(model, "eval"), torch.no_grad():
                state.scratch["weight"] = losses.cross_entropy(model(x_adv), batch.y)
        return x_adv

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        """Mean cross entropy of the adversarial images, weighted where `perturb` left weights."""
        each = losses.cross_entropy(state.model(x_adv), batch.y)
        weight = state.scratch.get("weight")
        return each.mean() if weight is None else (weight * each).mean()

    def _threshold(self, state: TrainState) -> float:
        """c_t, in nats."""
        return self.c_max * max(0.0, 1 - state.epoch / (self.control * state.n_epochs))
