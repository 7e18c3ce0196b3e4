"""What the engine does for speed leaves every method's losses as a plain update makes them.

Plain: the network itself in NCHW is attacked, and SGD is written out. The engine: a folded,
channels-last copy, and the fused optimiser.
"""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from bench.archs.arch import Arch, ArchSpec
from bench.archs.inference_copy import merges
from bench.attacks.maximise import ModelMode
from bench.method import Batch
from bench.records.spec import Recipe
from bench.registry import get_method, list_methods
from bench.training.optimiser import Optimiser
from bench.verify.networks import TracedNet
from tests.harness import make_state

STEPS = 20
N = 12
RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
METHODS = sorted(list_methods())


@dataclass
class WrittenOut:
    """SGD with momentum and weight decay, written out; the network itself is attacked."""

    model: nn.Module
    velocity: dict[nn.Parameter, Tensor] = field(default_factory=dict)

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.model.parameters():
            gradient = parameter.grad
            if gradient is None:
                continue
            gradient = gradient + DECAY * parameter
            before = self.velocity.get(parameter, torch.zeros_like(parameter))
            self.velocity[parameter] = MOMENTUM * before + gradient
            parameter.sub_(self.velocity[parameter], alpha=RATE)
            parameter.grad = None

    def attack_model(self, model: nn.Module, mode: ModelMode) -> nn.Module:
        return model


def network() -> Arch:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = TracedNet(ArchSpec(num_classes=4, in_channels=1, image_size=8)).double()
    assert len(merges(net).norms) == 2
    return net


def losses(name: str, *, plain: bool) -> Tensor:
    """(STEPS,), of batches that are equal, in four epochs."""
    method, net = get_method(name), network()
    if not plain:
        net = net.to(memory_format=torch.channels_last)
    recipe = Recipe(epochs=1, batch_size=N, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    stepper = WrittenOut(net) if plain else Optimiser(net, recipe, STEPS)
    state = make_state(method, net, n=N, eps=0.1, n_epochs=4, stepper=stepper)
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(N, 1, 8, 8, dtype=torch.float64, generator=generator)
    y = torch.arange(N) % 4
    noted = []
    for step in range(STEPS):
        state.epoch = step * 4 // STEPS
        net.train()
        noted.append(method.train_step(state, Batch(x, y, torch.arange(N)))["loss"].detach())
        state.next_batch()
        if (step + 1) % (STEPS // 4) == 0:
            method.end_epoch(state)
    return torch.stack(noted)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_twenty_losses_in_double_precision(name: str) -> None:
    plain = losses(name, plain=True)
    assert plain.isfinite().all()
    torch.testing.assert_close(losses(name, plain=False), plain, rtol=1e-9, atol=1e-9)


def test_the_copy_is_used_and_follows_the_weights() -> None:
    net = network()
    optimiser = Optimiser(net, Recipe(epochs=1, batch_size=N, lr=RATE), STEPS)
    first = optimiser.attack_model(net, "eval")
    assert first is not net
    assert optimiser.attack_model(net, "train") is net
    other = copy.deepcopy(net)
    assert optimiser.attack_model(other, "eval") is other
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        next(iter(net.parameters())).add_(1.0)
    again = optimiser.attack_model(net, "eval")
    assert again is first
    torch.testing.assert_close(again(x), net.eval()(x))
