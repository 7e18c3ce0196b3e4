"""Free adversarial training: Shafahi et al., "Adversarial Training for Free!" (arXiv 1904.12843).

    min_theta  mean  max_{|d| <= eps} CE(Z(x + d), y)

Every minibatch is replayed m times, and one backward pass serves both players:

    g_theta, g_d = grad CE(Z(clip(x + d, 0, 1)), y)
    d = clip(d + eps sign(g_d), -eps, eps);   SGD on theta with g_theta

d belongs to positions in a minibatch, not to images. It is 0 at first and never reset: each
minibatch starts from the perturbation that the previous one left.

Agrees with the authors' code (ashafahi/free_adv_train) on all of this, on the clip inside the
graph (a pixel that d drives out of range has no gradient, and its d stays), and on train mode.
A smaller last minibatch uses the first rows of d (theirs has none: its batches cross epochs).

One epoch here is one pass over the images, with m optimiser steps per minibatch, which share one
learning rate: the schedule counts minibatches. The code's 80,000 steps at m = 8 are 10,000
minibatches, 25.6 epochs, with drops at one half and three quarters. So a recipe for this method
divides the epochs of other methods by m; at equal epochs it makes m times as many updates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import REFERENCE_EPS, Batch, Method, TrainState, losses, param, register


@register("free")
@dataclass(frozen=True, kw_only=True)
class Free(Method):
    """Cross entropy on replayed minibatches; each replay is one step of both players."""

    replays: int = param(8, ge=1)
    """Times that a minibatch is used in a row, m."""
    step_size: float = param(REFERENCE_EPS, gt=0)
    """Length of a step of the perturbation, at eps = 8/255."""

    title = "Free AT"
    paper = "arXiv 1904.12843"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y), one step per replay, from the previous minibatch's d"

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """Return the images under the present perturbation."""
        return (batch.x + self._rows(state, batch)).clamp(0.0, 1.0)

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        """Replay the minibatch m times; return the mean of the losses."""
        rows = self._rows(state, batch)
        total = torch.zeros((), dtype=rows.dtype, device=rows.device)
        for _ in range(self.replays):
            d = rows.clone().requires_grad_()
            loss = self.loss(state, batch, (batch.x + d).clamp(0.0, 1.0))
            state.backward(loss)
            assert d.grad is not None
            step = state.threat.scale(self.step_size) * state.threat.direction(d.grad)
            rows.copy_((rows + step).clamp(-state.threat.eps, state.threat.eps))
            state.step()
            total += loss.detach()
        if (whole := state.whole(rows)) is not rows:  # where ranks share it
            state.memory["perturbation"][: len(whole)] = whole
        return {"loss": total / self.replays}

    def _rows(self, state: TrainState, batch: Batch) -> Tensor:
        """The rows of the perturbation that this minibatch uses: a view to write to."""
        stored, n = state.memory.get("perturbation", batch.x[:0]), state.whole_size(len(batch.x))
        if len(stored) < n:
            new = batch.x.new_zeros((n - len(stored), *batch.x.shape[1:]))
            stored = state.memory["perturbation"] = torch.cat([stored, new])
        return state.own(stored[:n])
