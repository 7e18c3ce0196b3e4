"""IAAT: Balaji, Goldstein, Hoffman, "Instance adaptive adversarial training: Improved accuracy
tradeoffs in neural nets" (arXiv 1910.08051).

    min_theta  mean  max_{|d| <= r_i} CE(Z(x_i + d), y_i)

Every training image has a radius r_i, moved at each visit before the attack that trains. With
e = r_i and ok = (argmax Z(x_i) == y_i):

    first epochs:  r_i = eps if ok else 0
    afterwards:    c = e + gamma if PGD at e + gamma fails, else e if PGD at e fails, else e - gamma
                   r_i = beta max(0, c ok) + (1 - beta) e
    update on CE(Z(PGD at r_i), y_i)

The two probes and the attack that trains are three independent runs of PGD, each from uniform
noise in its own ball, with steps of max(step_size, 2 radius / steps).

Agrees with the authors' code (yogeshbalaji/Instance_Adaptive_Adversarial_Training) on all of this,
on no bound above r_i (`eps_max` sets one), on a start that is not clipped to the pixel range
before the first gradient, and on the order of forwards: clean, both probes, both checks, attack.
Differs from it: BatchNorm is in eval mode in check, probes and attack (theirs is in train mode, so
that all of them move the running averages; `attack_bn="train"` restores that); the warm-up is a
share of the training, the code's 10 of 110 epochs, so that a shorter training also leaves it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.api import (
    Batch,
    ConfigError,
    Method,
    Threat,
    TrainState,
    attack_mode,
    losses,
    maximise,
    register,
)


@register("iaat")
@dataclass(frozen=True, kw_only=True)
class Iaat(Method):
    """Cross entropy on the outcome of PGD at a radius per image, which grows and shrinks."""

    gamma: float = 1.9 / 255
    """How far beyond the radius the probe looks, at eps = 8/255."""
    beta: float = 0.1
    """Weight of the new radius against the old."""
    warmup: float = 10 / 110
    """Share of the epochs, rounded up to whole ones, in which the radius is eps or 0."""
    eps_max: float | None = None
    """Largest radius, at eps = 8/255; None for no bound."""
    steps: int = 10
    """Gradient steps of each attack."""
    step_size: float = 2 / 255
    """Least length of a step, at eps = 8/255."""
    attack_bn: Literal["eval", "train"] = "eval"
    """Mode of BatchNorm in the clean check, the probes and the attack."""

    title = "IAAT"
    paper = "arXiv 1910.08051"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y) within r_i"

    def __post_init__(self) -> None:
        allowed = (
            ("gamma", self.gamma >= 0, "at least 0"),
            ("beta", 0 <= self.beta <= 1, "0 to 1"),
            ("warmup", 0 <= self.warmup <= 1, "0 to 1"),
            ("eps_max", self.eps_max is None or self.eps_max > 0, "above 0, or none"),
            ("steps", self.steps >= 1, "at least 1"),
            ("step_size", self.step_size > 0, "above 0"),
        )
        for name, good, text in allowed:
            if not good:
                raise ConfigError(f"{name} = {getattr(self, name)} is out of range: {text}")

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        """The radius of every image, in pixels."""
        return {"radius": torch.zeros(n)}

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """The new radii, then PGD within them."""
        stored = state.examples["radius"]
        right = self._right(state, batch.x, batch.y)
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
        """Mean cross entropy of the adversarial images."""
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()

    def _candidate(self, state: TrainState, batch: Batch, before: Tensor) -> Tensor:
        """(B,): the radius that two probes suggest for images that are right when clean."""
        beyond = before + state.threat.scale(self.gamma)
        near, far = self._attack(state, batch, before), self._attack(state, batch, beyond)
        holds_near = self._right(state, near, batch.y)
        holds_far = self._right(state, far, batch.y)
        within = torch.where(holds_near, before, before - state.threat.scale(self.gamma))
        return torch.where(holds_far, beyond, within)

    def _attack(self, state: TrainState, batch: Batch, radius: Tensor) -> Tensor:
        """PGD on cross entropy; radius (B,)."""
        shortest = state.threat.scale(self.step_size)
        return maximise(
            lambda logits, y, _: losses.cross_entropy(logits, y),
            state.attack_model(self.attack_bn),
            batch.x,
            batch.y,
            threat=state.threat,
            radius=radius,
            steps=self.steps,
            step_size=(2 * radius / self.steps).clamp(min=shortest),
            start="uniform-unclipped",
            generator=state.generator("start"),
            model_mode=self.attack_bn,
        )

    def _right(self, state: TrainState, x: Tensor, y: Tensor) -> Tensor:
        """(B,) whether the model is right."""
        model = state.attack_model(self.attack_bn)
        with attack_mode(model, self.attack_bn), torch.no_grad():
            predicted: Tensor = model(x).argmax(1)
        return predicted == y
