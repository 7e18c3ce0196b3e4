"""Count the passes of a training over images, a cost that does not depend on the machine."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from bench.archs import Arch, build
from bench.archs.inference_copy import counts_rows
from bench.losses import cross_entropy
from bench.method import Batch, Method, TrainState
from bench.records.spec import Recipe
from bench.threat import Threat
from bench.training.optimiser import Optimiser

N_IMAGES = 8
N_FITTING = 40
"""Steps of natural training first: what a method does depends on which images are correct."""
N_EPOCHS = 100


@dataclass
class Cost:
    """Images that passed through the network while counting."""

    forward: int = 0
    """Through the whole network."""
    backward: int = 0
    """Back from its logits."""
    first_layer: int = 0
    """Forward through the first layer, which YOPO runs more often than the rest."""
    _counting: bool = False

    def watch(self, model: nn.Module, first_layer: nn.Module) -> None:
        """Observe every pass through `model`, and through its deep copies.

        A pass is one of the last linear layer: a method may call `stem` and `rest` separately.
        """
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        first_layer.register_forward_hook(self._hook(is_last=False))
        last.register_forward_hook(self._hook(is_last=True))

    @contextmanager
    def counting(self, scale: float = 1.0) -> Iterator[None]:
        """Count the passes inside; those outside, such as validation, do not count.

        scale: images of the whole minibatch per image on this rank.
        """
        before = self.forward, self.backward, self.first_layer
        self._counting = True
        try:
            yield
        finally:
            self._counting = False
        if scale != 1:
            now = self.forward, self.backward, self.first_layer
            counts = [a + round(scale * (b - a)) for a, b in zip(before, now, strict=True)]
            self.forward, self.backward, self.first_layer = counts

    def _hook(self, is_last: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        @counts_rows  # no bound method: copying one would copy this counter with it
        def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            rows = len(output) if self._counting else 0
            if not is_last:
                self.first_layer += rows
                return
            self.forward += rows
            if rows and output.requires_grad:
                output.register_hook(lambda _: self._count_backward(rows))  # type: ignore[no-untyped-call]

        return count

    def _count_backward(self, rows: int) -> None:
        if self._counting:
            self.backward += rows


@dataclass(frozen=True)
class Passes:
    """Passes per image and step, in the middle of a training."""

    forward: float
    backward: float
    first_layer: float


def passes(method: Method) -> Passes:
    network, x, y = _fitted()
    network = copy.deepcopy(network)
    cost, threat = Cost(), Threat()
    cost.watch(network, network.first_layer)
    recipe = Recipe(epochs=N_EPOCHS, batch_size=N_IMAGES, lr=0.01)
    state = TrainState(
        model=network,
        threat=threat,
        num_classes=10,
        seed=0,
        n_epochs=N_EPOCHS,
        stepper=Optimiser(network, recipe, N_EPOCHS),
        device=torch.device("cpu"),
        epoch=N_EPOCHS // 2,
        examples=method.example_state(N_IMAGES, threat),
    )
    with cost.counting():
        method.train_step(state, Batch(x, y, torch.arange(N_IMAGES)))
    return Passes(cost.forward / N_IMAGES, cost.backward / N_IMAGES, cost.first_layer / N_IMAGES)


@cache
def _fitted() -> tuple[Arch, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = build("cnn", in_channels=1).train()
        x, y = torch.rand(N_IMAGES, 1, 8, 8), torch.arange(N_IMAGES)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(N_FITTING):
        sgd.zero_grad()
        torch.autograd.backward(cross_entropy(network(x), y).mean())
        sgd.step()
    sgd.zero_grad()
    return network, x, y
