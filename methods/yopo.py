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
Differs from it: layer 1 learns from H alone, as is meant. There are two versions of the code.
The one for WRN-34 (wide34.yopo-5-3) puts the layer's earlier gradient back after each propagation,
but autograd adds in place to that same tensor: from the second pass on, layer 1 receives the
gradient of CE as well, and in the first only where `zero_grad` leaves a tensor of zeros (before
PyTorch 2.0). In the one for ResNet-18 (pre-res18.yopo-5-3) these lines are commented out: layer 1
receives the gradients of CE and of -H in every pass. Since the two are equal where x' did not move
in between, that is about twice the length of the gradient here. The forward that both add for their
log, in train mode, is left out. Since gradients are summed, the code's learning rates are those of
PGD training times 4/m for WRN-34 and 2/m for ResNet-18: a recipe's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.api import Batch, ConfigError, Method, TrainState, losses, maximise, register


class FirstLayer(nn.Module):
    """The first layer of an arch, on images cut to the pixel range."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> what `rest` takes."""
        h: Tensor = self.model.stem(x.clamp(0.0, 1.0))
        return h


@register("yopo")
@dataclass(frozen=True, kw_only=True)
class YOPO(Method):
    """Cross entropy where most steps of the attack cost one layer."""

    passes: int = 5
    """Full propagations a minibatch, m."""
    inner_steps: int = 3
    """Steps through the first layer after each, n."""
    step_size: float = 2 / 255
    """Length of a step, at eps = 8/255."""

    title = "YOPO"
    paper = "arXiv 1905.00877"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y), linear beyond the first layer between propagations"

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ConfigError(f"passes = {self.passes} is out of range: at least 1")
        if self.inner_steps < 1:
            raise ConfigError(f"inner_steps = {self.inner_steps} is out of range: at least 1")
        if self.step_size <= 0:
            raise ConfigError(f"step_size = {self.step_size} is out of range: above 0")

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        """m propagations and one update; returns the mean of their losses."""
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
            x_adv = self._descend(state, layer, batch.x, x_adv, p)
            state.backward(-(layer(x_adv) * p).sum())
            total += loss.detach()
        state.step()
        return {"loss": total / self.passes}

    def _descend(
        self, state: TrainState, layer: FirstLayer, x: Tensor, x_adv: Tensor, p: Tensor
    ) -> Tensor:
        """x_adv after n steps down H."""
        return maximise(
            lambda h, p, _: -(h * p).flatten(1).sum(1),
            layer,
            x,
            p,
            threat=state.threat,
            radius=state.threat.eps,
            steps=self.inner_steps,
            step_size=state.threat.scale(self.step_size),
            start=x_adv,
            model_mode="train",
        )
