"""MMA: Ding et al., "MMA Training: Direct Input Space Margin Maximization through Adversarial
Training" (arXiv 1812.02637).

    min_theta  2/3 mean { CE(Z(x_i + t_i u_i), y_i) if right and t_i < d_max, 0 if right and beyond,
                          CE(Z(x_i), y_i) if wrong }  +  1/3 mean CE(Z(x_i), y_i)

Training at the margin t_i, the distance to the decision boundary along the attack's direction u_i,
pushes the boundary away. Right means SLM < 0, where SLM = log sum_{j != y} exp Z_j - Z_y, which is
stricter than arg max. For images that are right, with r = max(floor, the last margin):

    x' = PGD on SLM within r, uniform start, steps of 2.5 r / m;   u = (x' - x) / r
    t: bisection of SLM(clip(x + t u, 0, 1)) = 0 in [0, 1.05 d_max], from t = r
    margin_i = t, or 0 where the image is wrong

It trains beyond eps: a radius or margin may reach 1.05 d_max, 12.6/255 at eps = 8/255, and x + t u
is not clipped to the pixel range. d_max = 12/255 is the authors' choice for eps = 8/255; for larger
eps they choose 20/255 and 32/255.

Agrees with the authors' code (BorealisAI/mma_training) on all of this, the weights 2/3 and 1/3
included; on means over the whole batch; on BatchNorm: eval mode in PGD, train mode in every other
forward, in the order clean, x' and ten bisections of the images that are right, x + t u. The
eleven forwards of the bisection move the running averages (`bisection_bn="eval"` stops that).
Differs from it: the clean forward is computed twice, to select the images and for its gradient;
the second moves no running average. A single image that is right is bisected in eval mode, since
BatchNorm could be left with one value per channel. On a GPU wrong images are moved too, and left
out of BatchNorm's statistics and of the result, so that no shape depends on values.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from bench.api import (
    Batch,
    ConfigError,
    Method,
    Threat,
    TrainState,
    attack_mode,
    losses,
    param,
    register,
    rowwise,
    statistics_of,
)

REACH = 1.05
"""Upper end of the bisection, in units of d_max."""
RELATIVE_STEP = 2.5
"""Total length of the attack's steps, in units of its radius."""


@register("mma")
@dataclass(frozen=True, kw_only=True)
class MMA(Method):
    """Cross entropy at each image's own margin."""

    d_max: float = param(12 / 255, gt=0)
    """Margin beyond which only the clean term trains on an image, at eps = 8/255."""
    floor: float = param(0.005, gt=0)
    """Least radius of the attack, at eps = 8/255; at most d_max."""
    steps: int = param(10, ge=1)
    """Gradient steps of the attack, m."""
    bisections: int = param(10, ge=1)
    """Halvings of the interval in which the margin lies."""
    clean_weight: float = param(1 / 3, ge=0, le=1)
    """Weight of the clean cross entropy; the rest goes to the margin term."""
    bisection_bn: Literal["train", "eval"] = "train"
    """Mode of BatchNorm in the bisection."""

    title = "MMA"
    paper = "arXiv 1812.02637"
    objective = "2/3 CE(Z(x + t u), y) where t < d_max + 1/3 CE(Z(x), y)"
    inner = "u: max SLM(x'); t: SLM(x + t u) = 0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor > self.d_max:
            raise ConfigError(f"floor = {self.floor} is out of range: above 0 and at most d_max")

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        """Return the last margin of every image, in pixels."""
        return {"margin": torch.zeros(n)}

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """Return correct images moved to the boundary, the others as they are."""
        with torch.no_grad():
            right = soft_margin(state.model(batch.x), batch.y) < 0
        x_adv, margin = batch.x.clone(), batch.x.new_zeros(len(batch.x))
        tried = torch.arange(len(right), device=right.device)
        if self._selects(state, right):
            tried = tried[right]
        if state.count(len(tried)) > 0:
            part = Batch(batch.x[tried], batch.y[tried], batch.index[tried])
            with state.subset(right):
                x_adv[tried], margin[tried] = self._boundary(state, part, right[tried])
        stored = state.examples["margin"]
        stored[batch.index] = margin.to(stored.dtype)
        state.scratch["counts"] = ~right | (margin < state.threat.scale(self.d_max))
        return x_adv

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        # on copies of BatchNorm's averages: the clean batch has moved them in `perturb`
        buffers = {name: buffer.clone() for name, buffer in state.model.named_buffers()}
        clean = losses.cross_entropy(functional_call(state.model, buffers, (batch.x,)), batch.y)
        near = losses.cross_entropy(state.model(x_adv), batch.y) * state.scratch["counts"]
        return (1 - self.clean_weight) * near.mean() + self.clean_weight * clean.mean()

    def _selects(self, state: TrainState, right: Tensor) -> bool:
        """Whether only the images that are right are tried; the host waits for their number."""
        return right.is_cpu or state.ranks.size > 1

    def _boundary(self, state: TrainState, batch: Batch, right: Tensor) -> tuple[Tensor, Tensor]:
        """x + t u, and t (B,), of the images that are right (B,) bool; x and 0 of the others."""
        last = state.examples["margin"][batch.index].to(batch.x.dtype)
        radius = last.clamp(min=state.threat.scale(self.floor))
        # the draws of the images that are right do not depend on the others
        draws = state.threat.uniform(batch.x, state.generator("start"))
        noise = draws[(right.cumsum(0) - 1).clamp(min=0)] * rowwise(radius, batch.x)
        x_adv = state.maximise(
            lambda logits, y, _: soft_margin(logits, y),
            state.attack_model("eval"),
            batch.x,
            batch.y,
            radius=radius,
            steps=self.steps,
            step_size=RELATIVE_STEP * radius / self.steps,
            start=(batch.x + noise).clamp(0.0, 1.0),
        )
        unit = (x_adv - batch.x) / rowwise(radius + 1e-12, batch.x)
        margin = self._bisect(state, batch, right, x_adv, unit, radius)
        return batch.x + rowwise(margin, unit) * unit, margin

    def _bisect(
        self,
        state: TrainState,
        batch: Batch,
        right: Tensor,
        x_adv: Tensor,
        unit: Tensor,
        t: Tensor,
    ) -> Tensor:
        """(B,): t at which SLM crosses 0, in [0, REACH d_max]; x_adv is x + t u at first."""
        mode = self.bisection_bn if state.count(len(batch.x)) > 1 else "eval"
        model = state.attack_model(mode)
        low, high = torch.zeros_like(t), torch.full_like(t, REACH * state.threat.scale(self.d_max))
        selected = self._selects(state, right)
        counted = nullcontext() if selected else statistics_of(model, right)
        with attack_mode(model, mode), counted, torch.no_grad():
            inside = soft_margin(model(x_adv), batch.y) < 0
            for _ in range(self.bisections):
                low, high = torch.where(inside, t, low), torch.where(inside, high, t)
                t = (low + high) / 2
                # the last forward decides nothing, but moves the running averages like theirs
                point = (batch.x + rowwise(t, unit) * unit).clamp(0.0, 1.0)
                inside = soft_margin(model(point), batch.y) < 0
        return torch.where(right, t, 0.0)


def soft_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return SLM, (B, K), (B,) -> (B,): above 0 before the arg max is wrong."""
    others = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)
    return others - losses.true_logit(logits, y)
