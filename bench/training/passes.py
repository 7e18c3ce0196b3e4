"""Count the passes of a method's step on a small network; they are the same on every network."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from bench.archs import build
from bench.archs.arch import Arch
from bench.losses import cross_entropy
from bench.method import Batch, Method, TrainState
from bench.recipe import Recipe
from bench.threat import Threat
from bench.training.cost import Cost
from bench.training.optimiser import Optimiser

N_IMAGES = 8
N_FITTING = 40
"""Steps of natural training first: what a method does depends on which images are correct."""
N_EPOCHS = 100


@dataclass(frozen=True)
class Passes:
    """Passes per image and step, in the middle of a training."""

    forward: float
    backward: float
    first_layer: float


def passes(method: Method) -> Passes:
    """Count one step of `method`."""
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
    """Return a small network that fits a few images of noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build("cnn", in_channels=1).train()
        x, y = torch.rand(N_IMAGES, 1, 8, 8), torch.arange(N_IMAGES)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(N_FITTING):
        sgd.zero_grad()
        torch.autograd.backward(cross_entropy(network(x), y).mean())
        sgd.step()
    sgd.zero_grad()
    return network, x, y
