"""Bilateral adversarial training: Wang and Zhang, "Bilateral Adversarial Training: Towards Fast
Training of More Robust Models Against Adversarial Attacks" (arXiv 1811.10716).

    min_theta  mean CE(Z(x'), y')
    x' = Proj(x0 - step_size sign(grad CE(Z(x0), t))),   x0 = x + U(-eps, eps)
    t  = argmax_{k != y} Z_k(x)
    y'_k = share (L_k - a + gamma) / D  for k != y,   y'_y = 1 - share,   L_k = -log p_k(x)
    a, b = min, max of L_k over k != y,   D = sum_{k != y} (L_k - a + gamma)
    share = 1 / (1 + ratio (b - a + gamma) / D)

One targeted step towards the most confusing class, and a closed-form label that gives the least
likely classes the most; so y'_y is `ratio` times the largest other entry. Target and label come
from one forward of the clean image.

Agrees with the authors' code (wjyouch/bilateral-adversarial-training, its row R-MC-LA) on: eval
mode for target, label and attack; x0 clipped only after the step; a step of eps; 1e-8 inside the
logarithm.
Differs from it: pixels are in [0, 1], not [-1, 1] with doubled lengths. Its other targets are left
out (a random class; the nearest by logit gap over the distance of the last layer's weights).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import REFERENCE_EPS, Batch, Method, TrainState, losses, param, predict, register


@register("bilateral")
@dataclass(frozen=True, kw_only=True)
class Bilateral(Method):
    """Cross entropy of a one-step targeted image with a closed-form adversarial label."""

    step_size: float = param(REFERENCE_EPS, gt=0)
    """Length of the one step, at eps = 8/255."""
    ratio: float = param(9.0, gt=0)
    """Entry of the true class over the largest other entry of the label."""
    gamma: float = param(0.01, gt=0)
    """Weight of the most confusing class, in units of a log probability."""

    title = "Bilateral AT"
    paper = "arXiv 1811.10716"
    objective = "CE(Z(x'), y'(p(x)))"
    inner = "one step of min CE(Z(x'), argmax_{k != y} Z_k(x))"

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        model = state.attack_model("eval")
        clean = predict(model, batch.x)
        state.scratch["label"] = self._label(clean, batch.y)
        return state.maximise(
            lambda logits, target, _: -losses.cross_entropy(logits, target),
            model,
            batch.x,
            clean.scatter(1, batch.y[:, None], -torch.inf).argmax(1),
            steps=1,
            step_size=state.threat.scale(self.step_size),
            start="uniform-unclipped",
        )

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return losses.cross_entropy(state.model(x_adv), state.scratch["label"]).mean()

    def _label(self, clean: Tensor, y: Tensor) -> Tensor:
        """y': (B, K), (B,) -> (B, K) probabilities."""
        true = y[:, None]
        surprise = -(clean.softmax(1) + 1e-8).log()
        least = surprise.scatter(1, true, torch.inf).amin(1, keepdim=True)
        excess = (surprise - least + self.gamma).scatter(1, true, 0.0)
        total = excess.sum(1, keepdim=True)
        share = 1 / (1 + self.ratio * excess.amax(1, keepdim=True) / total)
        return (share * excess / total).scatter(1, true, 1 - share)
