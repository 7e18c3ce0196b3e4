"""IAAT: Balaji, Goldstein, Hoffman, "Instance adaptive adversarial training: Improved accuracy
tradeoffs in neural nets" (arXiv 1910.08051).

    min_theta  mean  max_{|d| <= r_i} CE(Z(x_i + d), y_i)

Every training image has a radius r_i, updated at each visit before the attack that trains. With
e = r_i and ok = (argmax Z(x_i) == y_i):

    first epochs:  r_i = eps if ok else 0
    afterwards:    c = e + gamma if PGD at e + gamma fails, else e if PGD at e fails, else e - gamma
                   r_i = beta max(0, c ok) + (1 - beta) e
    update on CE(Z(PGD at r_i), y_i)

The two probes and the attack that trains are independent runs of PGD, each from uniform noise in
its own ball, with steps of max(step_size, 2 radius / steps).

Agrees with the authors' code (yogeshbalaji/Instance_Adaptive_Adversarial_Training) on all of this,
on no upper bound of r_i (`eps_max` sets one), on a start that is not clipped to the pixel range
before the first gradient, and on the order of forwards: clean, both probes, both checks, attack.
Differs from it: BatchNorm is in eval mode in check, probes and attack (theirs is in train mode, so
all of them move the running averages; `attack_bn="train"` restores that); the warm-up is a share
of the training, the code's 10 of 110 epochs, so that shorter training also leaves it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.api import Batch, Method, Threat, TrainState, losses, param, predict, register


@register("iaat")
@dataclass(frozen=True, kw_only=True)
class Iaat(Method):
    """Cross entropy on images found by PGD within a radius per image, which grows and shrinks."""

    gamma: float = param(1.9 / 255, ge=0)
    """How far beyond the radius the probe looks, at eps = 8/255."""
    beta: float = param(0.1, ge=0, le=1)
    """Weight of the new radius against the old."""
    warmup: float = param(10 / 110, ge=0, le=1)
    """Share of the epochs, rounded up to whole ones, in which the radius is eps or 0."""
    eps_max: float | None = param(None, gt=0)
    """Largest radius, at eps = 8/255; None for no bound."""
    steps: int = param(10, ge=1)
    """Gradient steps of each attack."""
    step_size: float = param(2 / 255, gt=0)
    """Least length of a step, at eps = 8/255."""
    attack_bn: Literal["eval", "train"] = "eval"
    """Mode of BatchNorm in the clean check, the probes and the attack."""

    title = "IAAT"
    paper = "arXiv 1910.08051"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y) within r_i"

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        """Return the radius of every image, in pixels."""
        return {"radius": torch.zeros(n)}

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        stored = state.examples["radius"]
        right = self._is_correct(state, batch.x, batch.y)
        if state.epoch < math.ceil(self.warmup * state.n_epochs - 1e-9):
            radius = state.threat.eps * right.to(batch.x.dtype)
        else:
            before = stored[batch.index].to(batch.x.dtype)
            wanted = (self._candidate(state, batch, before) * right).clamp(min=0.0)
            radius = self.beta * wanted + (1 - self.beta) * before
        if self.eps_max is not None:
            radius = radius.clamp(max=state.threat.scale(self.eps_max))
        stored[batch.index] = radius.to(stored.dtype)
        return self._attack(state, batch, radius)

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()

    def _candidate(self, state: TrainState, batch: Batch, before: Tensor) -> Tensor:
        """(B,): c, the radius that the two probes suggest."""
        beyond = before + state.threat.scale(self.gamma)
        near, far = self._attack(state, batch, before), self._attack(state, batch, beyond)
        holds_near = self._is_correct(state, near, batch.y)
        holds_far = self._is_correct(state, far, batch.y)
        within = torch.where(holds_near, before, before - state.threat.scale(self.gamma))
        return torch.where(holds_far, beyond, within)

    def _attack(self, state: TrainState, batch: Batch, radius: Tensor) -> Tensor:
        shortest = state.threat.scale(self.step_size)
        return state.maximise(
            lambda logits, y, _: losses.cross_entropy(logits, y),
            state.attack_model(self.attack_bn),
            batch.x,
            batch.y,
            radius=radius,
            steps=self.steps,
            step_size=(2 * radius / self.steps).clamp(min=shortest),
            start="uniform-unclipped",
            model_mode=self.attack_bn,
        )

    def _is_correct(self, state: TrainState, x: Tensor, y: Tensor) -> Tensor:
        logits = predict(state.attack_model(self.attack_bn), x, self.attack_bn)
        return logits.argmax(1) == y
