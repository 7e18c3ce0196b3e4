"""MLCAT-WP: Yu et al., "Understanding Robust Overfitting of Adversarial Training and Beyond"
(ICML 2022), the variant that perturbs weights.

    min_w  mean CE(Z_{w+v}(x'), y)
    v raises  mean 1[CE(Z(x'), y) < threshold] CE(Z(x'), y),   ||v|| <= gamma ||w||

Robust overfitting comes from images whose adversarial loss is small, so only these say where the
weights are moved. With x' from PGD on cross entropy, the sum u and v 0 at first, ten times:

    u += grad_w mean 1[CE_{w+v} < threshold] CE_{w+v};   v = gamma ||w|| u / ||u||

then one update at w + v on the cross entropy of all images, and w -= v. Unlike in AWP, w, u and v
are those of all layers in one vector, which keeps the layers' shares of the gradient.

Agrees with the authors' code (ChaojianYu/Understanding-Robust-Overfitting) on all of this, on the
images being chosen anew at each w + v, and on an ascent in train mode that moves no running
statistics of BatchNorm.
Differs from it: BatchNorm is in eval mode in the attack (theirs is in train mode for all but the
first batch of an epoch; `attack_bn="train"`); the random start is the attack's only candidate
(theirs looks once more at the end, which moves running averages and nothing else).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import Batch, ConfigError, TrainState, losses, register
from methods.awp import TINY, AWPMadry, Proxy, layers


@register("mlcat-wp")
@dataclass(frozen=True, kw_only=True)
class MLCAT(AWPMadry):
    """PGD adversarial training at weights that were moved against the images it fits well."""

    threshold: float = 1.5
    """Adversarial cross entropy, in nats, below which an image takes part in the ascent."""
    ascents: int = 10
    """Steps of the ascent."""

    title = "MLCAT-WP"
    paper = "ICML 2022"
    objective = "CE(Z_{w+v}(x'), y), v against images with CE < threshold"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold < 0:
            raise ConfigError(f"threshold = {self.threshold} is out of range: at least 0")
        if self.ascents < 1:
            raise ConfigError(f"ascents = {self.ascents} is out of range: at least 1")

    def ascent(self, state: TrainState, batch: Batch, x_adv: Tensor) -> dict[str, Tensor]:
        """Layer -> its part of v."""
        weights = {name: weight.detach() for name, weight in layers(state.model).items()}
        length = self.gamma * _norm(weights)
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        step = total
        for _ in range(self.ascents):
            at = {name: (weights[name] + step[name]).requires_grad_() for name in weights}
            each = losses.cross_entropy(Proxy(state.model, at)(x_adv), batch.y)
            loss = (each * (each < self.threshold)).mean()
            gradients = torch.autograd.grad(loss, list(at.values()), materialize_grads=True)
            total = {
                name: before + gradient
                for (name, before), gradient in zip(total.items(), gradients, strict=True)
            }
            scale = length / (_norm(total) + TINY)
            step = {name: scale * direction for name, direction in total.items()}
        return step


def _norm(values: dict[str, Tensor]) -> Tensor:
    """Of all tensors in one vector."""
    norm: Tensor = torch.stack([value.norm() for value in values.values()]).norm()
    return norm
