"""Dynamic adversarial training: Wang et al., "On the Convergence and Robustness of Adversarial
Training" (ICML 2019, arXiv 2112.08304).

    min_theta  mean  max_{|d| <= eps} CE(Z(x + d), y),   by PGD that stops for an image as soon as
    c(x') = max_{|z - x| <= eps} <z - x', g> = eps |g|_1 - <x' - x, g> <= c_t,   g = grad CE at x'
    c_t = c_max max(0, 1 - epoch / T')

c is the first-order stationary condition (FOSC): 0 where x' is a stationary point of the ball.
Attacks converge better as training proceeds. The first step is unconditional; an image that has
stopped keeps its iterate.

c_max does not scale with eps. FOSC is a loss, not a length: the most that one more linear step
could add to the cross entropy, whatever the unit of a pixel. For a fixed network it is linear in
eps, but training against a larger eps shrinks the gradient about as much, so a c_max that grew
with eps would stop nearly every image after its first step.

Agrees with the authors' code (YisenWang/dynamic_adv_training) on: eval mode in the attack; a start
that is not clipped to the pixel range before the first gradient; T' = 100 of 120 epochs, here a
share of the training.
Differs from it where it departs from the text: x in c is the centre of the ball
(`reference="start"`: the point where PGD started, though the radius stays eps), and all images have
equal weight (`weighted=True`: from the second epoch each has its own adversarial cross entropy, a
constant taken in eval mode). Lengths are stated at eps = 8/255 (the code's eps is 0.031).
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bench.api import Batch, Method, TrainState, losses, param, predict, register


@register("dynamic")
@dataclass(frozen=True, kw_only=True)
class Dynamic(Method):
    """Cross entropy on images found by PGD that stops at a FOSC, which falls over the epochs."""

    c_max: float = param(0.5, ge=0)
    """FOSC at which PGD stops in the first epoch, in nats."""
    control: float = param(100 / 120, gt=0, le=1)
    """Share of the epochs after which PGD no longer stops early, T' / T."""
    steps: int = param(10, ge=1)
    """Gradient steps of the attack where it is not stopped."""
    step_size: float = param(2 / 255, gt=0)
    """Length of a step, at eps = 8/255."""
    reference: Literal["centre", "start"] = "centre"
    """The point from which FOSC measures x': the image, or the start of PGD."""
    weighted: bool = False
    """Whether, from the second epoch, an image is weighted by its adversarial cross entropy."""

    title = "Dynamic AT"
    paper = "arXiv 2112.08304"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y) until FOSC(x') <= c_t"

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        model = state.attack_model("eval")
        falling = max(0.0, 1 - state.epoch / (self.control * state.n_epochs))
        threshold = self.c_max * falling  # c_t, in nats
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

        x_adv = state.maximise(
            lambda logits, y, _: losses.cross_entropy(logits, y),
            model,
            batch.x,
            batch.y,
            steps=self.steps,
            step_size=state.threat.scale(self.step_size),
            start="uniform-unclipped",
            on_step=unconverged,
        )
        if self.weighted and state.epoch > 0:
            state.scratch["weight"] = losses.cross_entropy(predict(model, x_adv), batch.y)
        return x_adv

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        each = losses.cross_entropy(state.model(x_adv), batch.y)
        weight = state.scratch.get("weight")
        return each.mean() if weight is None else (weight * each).mean()
