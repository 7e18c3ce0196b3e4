"""What every attack owes the evaluation, whatever its name.

AutoAttack's parts run with few iterations here; at full length they are compared with the
package itself in the parity tests.
"""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from bench.attacks import Attack, AttackWarning, get_attack, list_attacks
from bench.threat import Threat
from tests.short import ShortAutoAttack

EPS = 0.1
SIZE = 4

pytestmark = pytest.mark.parametrize("name", list_attacks())


class Net(nn.Module):
    """Small and uneven, so that some images fall to one attack and not to another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * SIZE * SIZE, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.bn(self.conv(x)).relu().flatten(1))
        return logits


def asked(name: str) -> Attack:
    """The attack; one that transfers is crafted on a net close to the one that it is tried on."""
    if name != "transfer":
        return get_attack(name)
    surrogate = Net().train()
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in surrogate.parameters():
            weight.add_(torch.randn(weight.shape, generator=g), alpha=0.02)
    return get_attack(name, surrogate=surrogate)


def images(n: int = 6) -> Tensor:
    """Two of them at the edges of the pixel range."""
    x = torch.rand(n, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    x[0], x[1:2] = 0.0, 1.0
    return x


@dataclass(frozen=True)
class Attacked:
    """One call of an attack and what was there before it."""

    net: Net
    x: Tensor
    y: Tensor
    x_adv: Tensor
    before: dict[str, Tensor]
    """Weights, statistics and gradients of the net."""
    seeds_moved: bool
    """Whether a global generator was touched."""


def snapshot(net: Net) -> dict[str, Tensor]:
    grads = {f"{n}.grad": p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    return {n: v.clone() for n, v in net.state_dict().items()} | grads


def attack(name: str, global_seed: int, seed: int, *, n: int = 6, eps: float = EPS) -> Attacked:
    """On a net in train mode with a frozen BatchNorm layer, a frozen weight and old gradients."""
    net, x = Net().train(), images(n)
    net.bn.eval()
    with torch.no_grad():
        y = net(x).argmax(1)
    y[-1] = (y[-1] + 1) % 4 if n > 2 else y[-1]  # one is misclassified as it is
    net.fc.bias.requires_grad_(False)
    net(x).sum().backward()
    before, run = snapshot(net), asked(name)
    torch.manual_seed(global_seed)
    random.seed(global_seed)
    np.random.seed(global_seed)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", AttackWarning)
        patch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
        x_adv = run(net, x, y, Threat(eps=eps), generator=torch.Generator().manual_seed(seed))
    moved = not (
        torch.equal(torch.get_rng_state(), states[0])
        and random.getstate() == states[1]
        and str(np.random.get_state(legacy=False)) == str(states[2])
    )
    return Attacked(net, x, y, x_adv, before, moved)


@cache
def attacked(name: str, global_seed: int = 1) -> Attacked:
    return attack(name, global_seed, seed=0)


def test_the_result_is_a_detached_image_of_the_same_kind(name: str) -> None:
    found = attacked(name)
    assert found.x_adv.shape == found.x.shape
    assert found.x_adv.dtype == found.x.dtype
    assert found.x_adv.device == found.x.device
    assert not found.x_adv.requires_grad
    assert found.x_adv.grad_fn is None
    assert found.x_adv.data_ptr() != found.x.data_ptr()


def test_the_result_is_within_ball_and_box(name: str) -> None:
    found = attacked(name)
    assert float(found.x_adv.min()) >= 0
    assert float(found.x_adv.max()) <= 1
    distance = Threat().distance(found.x_adv, found.x)
    assert float(distance.max()) <= EPS + 1e-6
    assert bool(distance.max() > 0) == (name != "clean")


def test_inputs_are_untouched(name: str) -> None:
    found = attacked(name)
    assert torch.equal(found.x, images())
    assert not found.x.requires_grad
    assert found.x.grad is None
    with torch.no_grad():
        right = Net().eval()(images()).argmax(1) == found.y
    assert right.tolist() == [True] * 5 + [False]


def test_the_model_is_left_as_it_was(name: str) -> None:
    net = attacked(name).net
    after = snapshot(net)
    before = attacked(name).before
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    assert [net.training, net.conv.training, net.bn.training] == [True, True, False]
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["fc.bias"]


def test_it_breaks_images_and_mends_none(name: str) -> None:
    found = attacked(name)
    net = Net().eval()
    with torch.no_grad():
        broken = net(found.x_adv).argmax(1) != found.y
    assert bool(broken[-1])  # was misclassified before
    assert int(broken[:-1].sum()) >= (0 if name == "clean" else 2)


def test_the_global_seeds_do_not_matter_and_are_not_touched(name: str) -> None:
    first, second = attacked(name), attacked(name, global_seed=2)
    assert not first.seeds_moved
    assert not second.seeds_moved
    assert torch.equal(first.x_adv, second.x_adv)


@pytest.mark.slow
def test_without_a_ball_nothing_moves(name: str) -> None:
    found = attack(name, 1, seed=0, n=2, eps=0.0)
    assert torch.equal(found.x_adv, found.x)


def test_one_image_is_a_batch(name: str) -> None:
    found = attack(name, 1, seed=0, n=1)
    assert found.x_adv.shape == (1, 2, SIZE, SIZE)
    assert float(Threat().distance(found.x_adv, found.x)) <= EPS + 1e-6


def test_no_gradient_of_a_weight_is_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package takes gradients by `backward`, which would fill those of the weights too."""
    wanted: list[bool] = []
    forward = Net.forward

    def watched(self: Net, x: Tensor) -> Tensor:
        wanted.extend(parameter.requires_grad for parameter in self.parameters())
        return forward(self, x)

    net, x = Net().train(), images()
    y = net(x).argmax(1)
    run = asked(name)
    monkeypatch.setattr(Net, "forward", watched)
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        run(net, x, y, Threat(eps=EPS))
    assert bool(wanted) == (name != "clean")
    assert not any(wanted)
    assert all(parameter.grad is None for parameter in net.parameters())
