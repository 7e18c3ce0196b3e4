"""Fast adversarial training: Wong, Rice, Kolter, "Fast is better than free: Revisiting adversarial
training" (arXiv 2001.03994).

    min_theta  mean CE(Z(x'), y)
    x' = Proj(x0 + step_size sign(grad CE(Z(x0), y))),   x0 = clip(x + U(-eps, eps), 0, 1)

One step from a random start, longer than eps. Training may collapse: within one epoch the network
becomes robust to this step and nothing else. A guard measures, after each epoch, the accuracy under
PGD on the epoch's first minibatch. Where it is more than `max_drop` below the previous epoch's, the
weights of the previous epoch are restored and learning ends.

Agrees with the authors' code (locuslab/fast_adversarial, `--early-stop`) on: the guard's PGD from
a uniform start, where a misclassified image stops; a previous accuracy of 0 at first; the same mode
of BatchNorm in the guard's attack and the training's.
Differs from it: that mode is eval (theirs is train, so each forward moves the running averages,
the guard's too; `attack_bn="train"` restores that). Where theirs ends the training, this one
freezes: later steps compute and move nothing, and the history shows `frozen` = 1 and, as `loss`,
the cross entropy of the kept weights under the guard's attack. Their guard makes one more forward
at the end, to compare restarts, of which there is one; it is left out here. Theirs works on
normalised images and divides each length by the channel's standard deviation: in pixels, noise,
step and ball are those of this file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.api import Batch, Method, TrainState, losses, param, predict, register

GUARD_STEPS = 5
"""Gradient steps of the guard's attack."""
GUARD_STEP_SIZE = 2 / 255
"""Length of its steps, at eps = 8/255."""


@register("fast")
@dataclass(frozen=True, kw_only=True)
class Fast(Method):
    """Cross entropy on images found by one long step, with a guard against collapse."""

    step_size: float = param(10 / 255, gt=0)
    """Length of the step, at eps = 8/255."""
    max_drop: float = param(0.2, ge=0, le=1)
    """Drop of the guard's accuracy in one epoch beyond which learning ends; 1 for no guard."""
    attack_bn: Literal["eval", "train"] = "eval"
    """Mode of BatchNorm in the attack and in the guard."""

    title = "Fast AT"
    paper = "arXiv 2001.03994"
    objective = "CE(Z(x'), y)"
    inner = "one step of max CE(Z(x'), y), from a random start"

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """Take the one step; keep the first batch of an epoch for the guard."""
        if self.max_drop < 1 and "guard_x" not in state.memory:
            whole = state.whole(batch.x), state.whole(batch.y)
            state.memory |= {"guard_x": whole[0].clone(), "guard_y": whole[1].clone()}
        return state.maximise(
            lambda logits, y, _: losses.cross_entropy(logits, y),
            state.attack_model(self.attack_bn),
            batch.x,
            batch.y,
            steps=1,
            step_size=state.threat.scale(self.step_size),
            start="uniform",
            model_mode=self.attack_bn,
        )

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        """Make the standard step, or none once the guard has frozen the weights."""
        if "frozen" in state.memory:
            return {"loss": state.memory["guard_loss"], "frozen": state.memory["frozen"]}
        done = super().train_step(state, batch)
        return {**done, "frozen": torch.zeros_like(done["loss"])}

    def end_epoch(self, state: TrainState) -> None:
        """Keep these weights, or restore the last kept ones and freeze."""
        memory = state.memory
        if "guard_x" not in memory:  # no guard, or frozen
            return
        x, y = memory.pop("guard_x"), memory.pop("guard_y")
        with state.ranks.sharing(len(x)) as rows:
            guard = self._guard(state, x[rows], y[rows])
            accuracy, loss = (state.ranks.mean(value) for value in guard)
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
        x_adv = state.maximise(
            lambda logits, labels, _: losses.cross_entropy(logits, labels),
            model,
            x,
            y,
            steps=GUARD_STEPS,
            step_size=state.threat.scale(GUARD_STEP_SIZE),
            start="uniform",
            on_step=lambda step, x_adv, logits, gradient: logits.argmax(1) == y,
            model_mode=self.attack_bn,
            stream="guard",
        )
        logits = predict(model, x_adv, self.attack_bn)
        right = (logits.argmax(1) == y).to(logits.dtype)
        return right.mean(), losses.cross_entropy(logits, y).mean()
