"""IKL-AT: Cui et al., "Decoupled Kullback-Leibler Divergence Loss" (arXiv 2305.13948), with the
parameters of its CIFAR-10 run.

    min_w  max_v  mean [ CE(Z(x), y) + alpha CE(Z(x'), p(x)) + beta W ]
    W = 1/4 sum_{j,k} w_j w_k ((Z_j - Z_k)(x) - (Z_j - Z_k)(x'))^2

KL(p(x) || p(x')) has the gradients of two terms: a soft cross entropy, with p(x) constant, and W
with w = p(x). IKL replaces the image's w by its class's, the mean of softmax(Z(x) / T) over the
class's images in the previous epoch (1/K in the first), and propagates gradients through both sides
of W. Since w sums to 1, W is half the variance under w of the logits' change Z(x) - Z(x').

x' ascends CE(Z(x'), p(x)) from x + 0.001 N(0, 1) in a ball that grows with the epochs, counted
from 1: r = eps epoch / epochs. v is AWP's (gamma 0.005, after 10 of 200 epochs). The evaluated
network is the moving average of the weights at the ends of all epochs.

Agrees with the authors' code (jiequancui/DKL) on: the start, clipped neither to the ball nor to
the pixel range before the first gradient; eval mode in the attack; two train-mode forwards,
adversarial first; class weights from the logits of the update, at w + v; 5 steps of r / 2 in every
epoch (the code has a table of 2 to 5 steps, but its last row always wins); averages over all epochs
with decay 0.9, including BatchNorm's statistics (a second average, per step from epoch 150 on, is
computed and not used).
Differs from it: the decay is stated for 200 epochs, and the average covers the same share of a
shorter training; so does the warm-up; a class without images in an epoch keeps its w. The learning
rate, 0.2 with a cosine over 200 epochs, is a matter of the recipe.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import Batch, Method, TrainState, losses, param, predict, register
from methods.awp import layerwise_ascent, moved, warmed_up

DECAY_EPOCHS = 200
"""Epochs of the training for which `decay` is stated."""


@register("ikl")
@dataclass(frozen=True, kw_only=True)
class IKL(Method):
    """Soft cross entropy and class-weighted logit differences, with AWP and averaged weights."""

    alpha: float = param(4.0, ge=0)
    """Weight of the soft cross entropy."""
    beta: float = param(20.0, ge=0)
    """Weight of the logit differences."""
    temperature: float = param(4.0, gt=0)
    """Temperature of the softmax whose means are the class weights, T."""
    steps: int = param(5, ge=1)
    """Gradient steps of the attack."""
    relative_step: float = param(0.5, gt=0)
    """Length of a step, in units of the epoch's radius."""
    gamma: float = param(0.005, ge=0)
    """Length of a layer's perturbation, in units of the layer's norm."""
    warmup: float = param(10 / 200, ge=0, le=1)
    """Share of the training before the weights are perturbed."""
    decay: float = param(0.9, ge=0, lt=1)
    """Decay of the average of weights, per epoch of 200; 0 for the weights themselves."""

    title = "IKL-AT"
    paper = "arXiv 2305.13948"
    objective = "max_v CE(Z(x), y) + alpha CE(Z(x'), p(x)) + beta Var_w(Z(x) - Z(x')) / 2"
    inner = "max CE(Z(x'), p(x)) within eps epoch / epochs"

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        state.scratch["class_weight"] = self._class_weight(state)[batch.y].to(batch.x.dtype)
        radius = state.threat.eps * (state.epoch + 1) / state.n_epochs
        model = state.attack_model("eval")
        return state.maximise(
            lambda logits, target, _: losses.cross_entropy(logits, target),
            model,
            batch.x,
            predict(model, batch.x).softmax(1),
            radius=radius,
            steps=self.steps,
            step_size=self.relative_step * radius,
            start="gaussian",
        )

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        adversarial, clean = state.model(x_adv), state.model(batch.x)
        return self._objective(state, batch, clean, adversarial)

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        """Update at w + v; its clean logits count for the next epoch's class weights."""
        x_adv = self.perturb(state, batch)
        active = self.gamma > 0 and warmed_up(state, self.warmup)
        by = layerwise_ascent(self, state, batch, x_adv, self.gamma) if active else {}
        with moved(state.model, by):
            adversarial, clean = state.model(x_adv), state.model(batch.x)
            loss = self._objective(state, batch, clean, adversarial)
            state.backward(loss)
            state.step()
        hot = F.one_hot(batch.y, state.num_classes).to(clean.dtype)
        seen = state.sum(hot.T @ (clean.detach() / self.temperature).softmax(1))
        state.memory["class_sum"] = state.memory.get("class_sum", 0) + seen
        return {"loss": loss.detach()}

    def end_epoch(self, state: TrainState) -> None:
        """Set new class weights, and move the average of the weights."""
        total = state.memory.pop("class_sum")
        count = total.sum(1, keepdim=True)
        new = total / count.clamp_min(1e-30)
        state.memory["class_weight"] = torch.where(count > 0, new, self._class_weight(state))
        share = 1 - self.decay ** (DECAY_EPOCHS / state.n_epochs)
        for name, value in state.model.state_dict().items():
            old = state.memory.get(f"average.{name}")
            if old is None or not value.is_floating_point():
                state.memory[f"average.{name}"] = value.clone()
            else:
                old.lerp_(value, share)

    def eval_model(self, state: TrainState) -> nn.Module:
        """Return a copy with the averaged weights; during the first epoch, the model itself."""
        names = list(state.model.state_dict())
        if f"average.{names[0]}" not in state.memory:
            return state.model
        model = copy.deepcopy(state.model)
        model.load_state_dict({name: state.memory[f"average.{name}"] for name in names})
        return model

    def _objective(
        self, state: TrainState, batch: Batch, clean: Tensor, adversarial: Tensor
    ) -> Tensor:
        weight = state.scratch["class_weight"]
        change = clean - adversarial
        centred = change - (weight * change).sum(1, keepdim=True)
        spread = 0.5 * (weight * centred**2).sum(1)
        soft = losses.cross_entropy(adversarial, clean.detach().softmax(1))
        natural = losses.cross_entropy(clean, batch.y)
        return (natural + self.alpha * soft + self.beta * spread).mean()

    def _class_weight(self, state: TrainState) -> Tensor:
        """(K, K): row y is w for images of class y."""
        k = state.num_classes
        uniform = torch.full((k, k), 1 / k, device=state.device)
        return state.memory.get("class_weight", uniform)
