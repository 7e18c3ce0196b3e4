"""Fast adversarial training: Wong, Rice, Kolter, "Fast is better than free: Revisiting adversarial
training" (arXiv 2001.03994).

    min_theta  mean CE(Z(x'), y)
    x' = Proj(x0 + step_size sign(grad CE(Z(x0), y))),   x0 = clip(x + U(-eps, eps), 0, 1)

One step from a random start, longer than eps. Training may collapse: within an epoch the network
becomes robust to this step and to nothing else. The guard: after each epoch, the accuracy under
PGD on the epoch's first minibatch; where it is more than `max_drop` below the previous epoch's,
the weights go back to those of the previous epoch and learning ends.

Agrees with the authors' code (locuslab/fast_adversarial, `--early-stop`) on: the guard's PGD from
a uniform start, where an image that is misclassified stops; the previous accuracy 0 at first;
both its own and the training's attack in one mode of BatchNorm.
Differs from it: that mode is eval (theirs is train, so that each pass moves the running averages,
the guard's too; `attack_bn="train"` restores that). Where theirs ends the training, this one
freezes: later steps compute nothing and move nothing, and the history shows `frozen` = 1 with, as
`loss`, the cross entropy of the kept weights on the guard's attack. The guard's attack of theirs
ends with one more forward, to compare restarts, of which there is one; it is left out here. Theirs
works on normalised images and divides each length by the channel's standard deviation, so that in
pixels the noise, the step and the ball are those of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.api import (
    Batch,
    ConfigError,
    Method,
    TrainState,
    attack_mode,
    losses,
    maximise,
    register,
)

GUARD_STEPS = 5
"""Gradient steps of the guard's attack."""
GUARD_STEP_SIZE = 2 / 255
"""Length of its steps, at eps = 8/255."""


@register("fast")
@dataclass(frozen=True, kw_only=True)
class Fast(Method):
    """Cross entropy on the outcome of one long step, with a guard against collapse."""

    step_size: float = 10 / 255
    """Length of the step, at eps = 8/255."""
    max_drop: float = 0.2
    """Fall of the guard's accuracy in one epoch that ends learning; 1 for no guard."""
    attack_bn: Literal["eval", "train"] = "eval"
    """Mode of BatchNorm in the attack and in the guard."""

    title = "Fast AT"
    paper = "arXiv 2001.03994"
    objective = "CE(Z(x'), y)"
    inner = "one step of max CE(Z(x'), y), from a random start"

    def __post_init__(self) -> None:
        if self.step_size <= 0:
            raise ConfigError(f"step_size = {self.step_size} is out of range: above 0")
        if not 0 <= self.max_drop <= 1:
            raise ConfigError(f"max_drop = {self.max_drop} is out of range: 0 to 1")

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """The one step; the first batch of an epoch is kept for the guard."""
        if self.max_drop < 1 and "guard_x" not in state.memory:
            state.memory |= {"guard_x": batch.x.clone(), "guard_y": batch.y.clone()}
        return maximise(
            lambda logits, y, _: losses.cross_entropy(logits, y),
            state.attack_model(self.attack_bn),
            batch.x,
            batch.y,
            threat=state.threat,
            radius=state.threat.eps,
            steps=1,
            step_size=state.threat.scale(self.step_size),
            start="uniform",
            generator=state.generator("start"),
            model_mode=self.attack_bn,
        )

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        """Mean cross entropy of the adversarial images."""
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        """The usual step, or none once the guard has frozen the weights."""
        if "frozen" in state.memory:
            return {"loss": state.memory["guard_loss"], "frozen": state.memory["frozen"]}
        done = super().train_step(state, batch)
        return {**done, "frozen": torch.zeros_like(done["loss"])}

    def end_epoch(self, state: TrainState) -> None:
        """Keep these weights, or go back to the last kept and freeze."""
        memory = state.memory
        if "guard_x" not in memory:  # no guard, or frozen
            return
        accuracy, loss = self._guard(state, memory.pop("guard_x"), memory.pop("guard_y"))
        if memory.get("guard_accuracy", 0.0) - accuracy > self.max_drop:
            for name, tensor in state.model.state_dict().items():
                tensor.copy_(memory.pop(f"kept.{name}"))
            memory["frozen"] = torch.ones_like(loss)
            return
        memory |= {"guard_accuracy": accuracy, "guard_loss": loss}
        memory |= {f"kept.{name}": t.clone() for name, t in state.model.state_dict().items()}

    def _guard(self, state: TrainState, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Accuracy and mean cross entropy under a short PGD that stops at the first success."""
        model = state.attack_model(self.attack_bn)
        x_adv = maximise(
            lambda logits, labels, _: losses.cross_entropy(logits, labels),
            model,
            x,
            y,
            threat=state.threat,
            radius=state.threat.eps,
            steps=GUARD_STEPS,
            step_size=state.threat.scale(GUARD_STEP_SIZE),
            start="uniform",
            on_step=lambda step, x_adv, logits, gradient: logits.argmax(1) == y,
            generator=state.generator("guard"),
            model_mode=self.attack_bn,
        )
        with attack_mode(model, self.attack_bn), torch.no_grad():
            logits = model(x_adv)
            right = (logits.argmax(1) == y).to(logits.dtype)
            return right.mean(), losses.cross_entropy(logits, y).mean()
