"""YOPO-m-n: Zhang et al., "You Only Propagate Once: Accelerating Adversarial Training via Maximal
Principle" (arXiv 1905.00877).

    min_theta  mean  max_{|d| <= eps} CE(Z(x + d), y)

Only the first layer sees the perturbation itself. m times, from x' = x + U(-eps, eps):

    h = layer1(x');   p = -dCE(rest(h), y)/dh                     one full propagation
    n times: x' = Proj(x' - s sign(grad H)),   H = <layer1(x'), p>     first layer only, p fixed
    gradients: of CE for the rest, at the x' before the n steps; of -H for layer 1, after them

The gradients of the m passes are summed and applied once.

Agrees with the authors' code (a1600012888/YOPO-You-Only-Propagate-Once) on all of this, on a start
that is not clipped to the pixel range before the first propagation, on clip(x', 0, 1) inside the
gradient of H, and on BatchNorm in train mode throughout.
Differs from it: layer 1 learns from H only, as intended. The code has two versions. The one for
WRN-34 (wide34.yopo-5-3) restores the layer's earlier gradient after each propagation, but autograd
adds in place to that same tensor: from the second pass on, layer 1 also receives the gradient of
CE, and in the first pass only where `zero_grad` leaves a tensor of zeros (before PyTorch 2.0). In
the one for ResNet-18 (pre-res18.yopo-5-3) these lines are commented out: layer 1 receives the
gradients of CE and of -H in every pass. The two are equal where x' has not moved in between, so
that gradient is about twice as long as here. The train-mode forward that both versions add for
their log is left out. Gradients are summed, so the code's learning rates are those of PGD training
times 4/m for WRN-34 and 2/m for ResNet-18: a matter of the recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.api import Batch, Method, TrainState, losses, param, register


class FirstLayer(nn.Module):
    """The first layer of an arch, on images clipped to the pixel range."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.model.stem(x.clamp(0.0, 1.0))
        return h


@register("yopo")
@dataclass(frozen=True, kw_only=True)
class YOPO(Method):
    """Cross entropy where most steps of the attack cost one layer."""

    passes: int = param(5, ge=1)
    """Full propagations per minibatch, m."""
    inner_steps: int = param(3, ge=1)
    """Steps through the first layer after each propagation, n."""
    step_size: float = param(2 / 255, gt=0)
    """Length of a step, at eps = 8/255."""

    title = "YOPO"
    paper = "arXiv 1905.00877"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y), linear beyond the first layer between propagations"

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        """Make m propagations and one update; return the mean of the losses."""
        model: Any = state.model
        layer = FirstLayer(model)
        noise = state.threat.uniform(batch.x, state.generator("start"))
        x_adv = batch.x + state.threat.eps * noise
        total = torch.zeros((), dtype=batch.x.dtype, device=batch.x.device)
        for _ in range(self.passes):
            with torch.no_grad():
                h = model.stem(x_adv)
            h.requires_grad_()
            loss = losses.cross_entropy(model.rest(h), batch.y).mean()
            state.backward(loss)
            p = -h.grad
            x_adv = state.maximise(
                lambda h, p, _: -(h * p).flatten(1).sum(1),  # -H
                layer,
                batch.x,
                p,
                steps=self.inner_steps,
                step_size=state.threat.scale(self.step_size),
                start=x_adv,
                model_mode="train",
            )
            state.backward(-(layer(x_adv) * p).sum(), reduction="sum")
            total += loss.detach()
        state.step()
        return {"loss": total / self.passes}
