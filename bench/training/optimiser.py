"""SGD with the recipe's schedule, and the copy that attacks run on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.archs.compiled import CompiledCopy
from bench.archs.fast import FastCopy
from bench.attacks.maximise import ModelMode
from bench.recipe import Recipe
from bench.training.precision import has_copy, plain, precision_of
from bench.training.schedule import learning_rate, n_drops


class Optimiser:
    """SGD with the recipe's schedule; methods reach it as `state.stepper`."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, n_batches: int, *, compiled_rows: int = 0
    ) -> None:
        """compiled_rows: batch size for which the attacked copy is compiled; 0: not compiled."""
        self.recipe = recipe
        self.n_batches = n_batches
        self.model = model
        self.compiled_rows = compiled_rows
        self._copy: FastCopy | CompiledCopy | None = None
        self.sgd = torch.optim.SGD(
            _groups(model, recipe),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )

    @property
    def runs_compiled(self) -> bool:
        return isinstance(self._copy, CompiledCopy) and self._copy.runs_compiled

    def set_rate(self, batch_number: int) -> float:
        """Set and return the learning rate of this batch."""
        rate = learning_rate(self.recipe, batch_number, self.n_batches)
        for group in self.sgd.param_groups:
            group["lr"] = rate
        if self.recipe.fresh_momentum and self._drops_at(batch_number):
            self.sgd.state.clear()
        return rate

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def step(self) -> None:
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.sgd.step()
        self.sgd.zero_grad(set_to_none=True)

    def attack_model(self, model: nn.Module, mode: ModelMode) -> nn.Module:
        """Return a faster copy with the current weights for eval mode; else the model itself.

        Call it again after each change of the weights: some methods change them outside `step`.
        """
        if mode == "train" or model is not self.model or not has_copy(model):
            return model
        if self._copy is None:
            network, precision = plain(model), precision_of(model)
            if self.compiled_rows:
                self._copy = CompiledCopy(network, precision, self.compiled_rows)
            else:
                self._copy = FastCopy(network, precision)
        else:
            self._copy.refresh()
        return self._copy

    def _drops_at(self, batch_number: int) -> bool:
        """Whether this batch is the first after a milestone."""
        before, now = (
            n_drops(self.recipe, number, self.n_batches)
            for number in (batch_number - 1, batch_number)
        )
        return self.recipe.schedule == "multistep" and now > before


def _groups(model: nn.Module, recipe: Recipe) -> Any:
    """Return SGD's parameter groups: one, or BatchNorm and biases apart without decay."""
    if recipe.decay == "all":
        return model.parameters()
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]
