"""SGD with the recipe's schedule, and the copy that attacks run on, in either precision.

Mixed precision is bf16, except for the perturbed input and the first layer, which stay in fp32:
near 0.5, adjacent bf16 numbers are 0.002 to 0.004 apart, more than the start noise of TRADES, so
bf16 would change the input.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from bench.archs.arch import Arch
from bench.archs.inference_copy import InferenceCopy, kept_copy
from bench.attacks.maximise import ModelMode
from bench.ranks import ALONE, Ranks
from bench.records.spec import Recipe


class MixedPrecision(nn.Module):
    """Run an arch's `stem` in fp32 and its `rest` under bf16 autocast; logits are fp32."""

    def __init__(self, model: Arch) -> None:
        super().__init__()
        self.model = model

    def stem(self, x: Tensor) -> Tensor:
        return self.model.stem(x)

    def rest(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, dtype=torch.bfloat16):
            return self.model.rest(h).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x))


def plain(model: nn.Module) -> Arch:
    """Unwrap the network, for saving and evaluating."""
    network = model.model if isinstance(model, MixedPrecision) else model
    assert isinstance(network, Arch)
    return network


class Optimiser:
    """SGD with the recipe's schedule; methods reach it as `state.stepper`."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, n_batches: int, ranks: Ranks = ALONE
    ) -> None:
        self.recipe, self.ranks = recipe, ranks
        self.n_batches = n_batches
        self.model = model
        self._copy: InferenceCopy | None = None
        self.sgd = torch.optim.SGD(
            _groups(model, recipe),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )

    def set_rate(self, batch_number: int) -> float:
        """Set and return the learning rate of this batch."""
        rate = learning_rate(self.recipe, batch_number, self.n_batches)
        for group in self.sgd.param_groups:
            group["lr"] = rate
        if self.recipe.fresh_momentum and self.recipe.schedule == "multistep":
            before = n_drops(self.recipe, batch_number - 1, self.n_batches)
            if n_drops(self.recipe, batch_number, self.n_batches) > before:
                self.sgd.state.clear()
        return rate

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def step(self) -> None:
        if self.ranks.size > 1:
            self.ranks.sum_all_([p.grad for p in self.model.parameters() if p.grad is not None])
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.sgd.step()
        self.sgd.zero_grad(set_to_none=True)

    def attack_model(self, model: nn.Module, mode: ModelMode) -> nn.Module:
        """Return a faster copy with the current weights for eval mode; else the model itself.

        Call it again after each change of the weights: some methods change them outside `step`.
        """
        can_copy = isinstance(model, MixedPrecision | Arch)  # not a compiled network
        if mode == "train" or model is not self.model or not can_copy:
            return model
        if self._copy is not None:
            self._copy.refresh()
            return self._copy
        network = plain(model)
        self._copy = kept_copy(network, "fp32" if network is model else "bf16")
        return self._copy


def _groups(model: nn.Module, recipe: Recipe) -> Any:
    """Return SGD's parameter groups: one, or BatchNorm and biases apart without decay."""
    if recipe.decay == "all":
        return model.parameters()
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


def learning_rate(recipe: Recipe, batch_number: int, n_batches: int) -> float:
    """Return the rate of batch `batch_number` (from 0) of `n_batches` in the whole training."""
    progress = batch_number / n_batches
    if recipe.schedule == "cosine":
        rate = recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))
    elif recipe.schedule == "onecycle":  # linearly from 0 up to lr over `warmup`, then down to 0
        rising = progress < recipe.warmup
        height = progress / recipe.warmup if rising else (1 - progress) / (1 - recipe.warmup)
        rate = recipe.lr * height
    else:
        passed = n_drops(recipe, batch_number, n_batches)
        drop = recipe.drop
        factor = (1.0, *drop)[passed] if isinstance(drop, tuple) else drop**passed
        rate = recipe.lr * factor
    return float(rate / (1 + recipe.time_decay * progress))


def n_drops(recipe: Recipe, batch_number: int, n_batches: int) -> int:
    """Count the milestones before the start of this batch."""
    # half a batch of slack: a milestone is a fraction that was rounded
    reached = batch_number / n_batches + 0.5 / n_batches
    return sum(reached >= milestone for milestone in recipe.milestones)
