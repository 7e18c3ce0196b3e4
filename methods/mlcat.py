"""MLCAT-WP: Yu et al., "Understanding Robust Overfitting of Adversarial Training and Beyond"
(ICML 2022), the variant that perturbs weights.

    min_w  mean CE(Z_{w+v}(x'), y)
    v raises  mean 1[CE(Z(x'), y) < threshold] CE(Z(x'), y),   ||v|| <= gamma ||w||

Robust overfitting comes from images with a small adversarial loss, so only these determine the
weight perturbation. With x' from PGD on cross entropy, and u = v = 0 at first, ten times:

    u += grad_w mean 1[CE_{w+v} < threshold] CE_{w+v};   v = gamma ||w|| u / ||u||

then one update at w + v on the cross entropy of all images, and w -= v. Unlike AWP, w, u and v
hold all layers in one vector, which preserves the layers' shares of the gradient.

Agrees with the authors' code (ChaojianYu/Understanding-Robust-Overfitting) on all of this, on
selecting the images anew at each w + v, and on an ascent in train mode that moves no running
statistics of BatchNorm.
Differs from it: BatchNorm is in eval mode in the attack (theirs is in train mode for all but the
first batch of an epoch; `attack_bn="train"`); the attack has one random start (theirs makes one
more forward to compare restarts, which only moves running averages).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import Batch, TrainState, losses, param, register
from methods.awp import TINY, AWPMadry, Proxy, layers


@register("mlcat-wp")
@dataclass(frozen=True, kw_only=True)
class MLCAT(AWPMadry):
    """PGD adversarial training at weights perturbed against well-fitted images."""

    threshold: float = param(1.5, ge=0)
    """Adversarial cross entropy, in nats, below which an image takes part in the ascent."""
    ascents: int = param(10, ge=1)
    """Steps of the ascent in the weights."""

    title = "MLCAT-WP"
    paper = "ICML 2022"
    objective = "CE(Z_{w+v}(x'), y), v against images with CE < threshold"

    def ascent(self, state: TrainState, batch: Batch, x_adv: Tensor) -> dict[str, Tensor]:
        """Return v, by layer."""
        names, parameters = zip(*layers(state.model).items(), strict=True)
        weights = [weight.detach() for weight in parameters]
        length = self.gamma * _norm(weights)
        step = total = [torch.zeros_like(weight) for weight in weights]
        for _ in range(self.ascents):
            at = [point.requires_grad_() for point in torch._foreach_add(weights, step)]
            proxy = Proxy(state.model, dict(zip(names, at, strict=True)))
            each = losses.cross_entropy(proxy(x_adv), batch.y)
            loss = (each * (each < self.threshold)).mean()
            gradients = state.gradients(loss, at)
            total = list(torch._foreach_add(total, gradients))
            step = list(torch._foreach_mul(total, length / (_norm(total) + TINY)))
        return dict(zip(names, step, strict=True))


def _norm(values: Sequence[Tensor]) -> Tensor:
    """L2 norm of all tensors as one vector."""
    norm: Tensor = torch.stack(torch._foreach_norm(list(values))).norm()
    return norm
