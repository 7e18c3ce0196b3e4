"""What every attack owes the evaluation, whatever its name.

AutoAttack's parts run with few iterations here; at full length they are compared with the
package itself in the parity tests.
"""

import random
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyautoattack
import pytest
import torch
from torch import Tensor

from bench.attacks import Attack, AttackWarning, attack_params, get_attack, list_attacks
from bench.threat import Threat
from tests.harness import SmallNet, generator, right, small_net
from tests.short import ShortAutoAttack

EPS = 0.2
SIZE = 4

pytestmark = pytest.mark.parametrize("name", list_attacks())


def fresh() -> SmallNet:
    """So uneven that some images fall to one attack and not to another."""
    return small_net(dtype=torch.float32)


def made(name: str) -> Attack:
    """The attack; one that transfers is crafted on a net close to the one that it is tried on.

    PGD takes 20 steps at most.
    """
    if name != "transfer":
        many = name.startswith("pgd-") and attack_params(name)["steps"] > 20
        return get_attack(name, **{"steps": 20} if many else {})
    surrogate = fresh()
    g = generator(2)
    with torch.no_grad():
        for weight in surrogate.parameters():
            weight.add_(torch.randn(weight.shape, generator=g), alpha=0.02)
    return get_attack(name, surrogate=surrogate)


def images(n: int = 6) -> Tensor:
    """Two of them at the edges of the pixel range."""
    x = torch.rand(n, 2, SIZE, SIZE, generator=generator(1))
    x[0], x[1:2] = 0.0, 1.0
    return x


@dataclass(frozen=True)
class Attacked:
    """One call of an attack and what was there before it."""

    net: SmallNet
    x: Tensor
    y: Tensor
    x_adv: Tensor
    before: dict[str, Tensor]
    """Weights, statistics and gradients of the net."""
    seeds_moved: bool
    """Whether a global generator was touched."""
    weights_wanted: list[bool]
    """Whether weights required a gradient, per forward pass of the attack."""


def snapshot(net: SmallNet) -> dict[str, Tensor]:
    grads = {f"{n}.grad": p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    return {n: v.clone() for n, v in net.state_dict().items()} | grads


def global_states() -> list[str]:
    numpy_state = str(np.random.get_state(legacy=False))
    return [str(torch.get_rng_state().tolist()), str(random.getstate()), numpy_state]


def attack(name: str, global_seed: int, *, n: int = 6, eps: float = EPS) -> Attacked:
    """On a net in train mode with a frozen BatchNorm layer, a frozen weight and old gradients."""
    net, x = fresh(), images(n)
    net.bn.eval()
    with torch.no_grad():
        y = net(x).argmax(1)
    y[-1] = (y[-1] + 1) % 4 if n > 2 else y[-1]  # one is misclassified without an attack
    net.fc.bias.requires_grad_(False)
    net(x).sum().backward()
    before, run, wanted = snapshot(net), made(name), list[bool]()
    # The package takes gradients by `backward`, which would fill those of the weights too.
    hook = net.register_forward_pre_hook(
        lambda *_: wanted.append(any(p.requires_grad for p in net.parameters()))
    )
    torch.manual_seed(global_seed)
    random.seed(global_seed)
    np.random.seed(global_seed)
    states = global_states()
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", AttackWarning)
        patch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
        x_adv = run(net, x, y, Threat(eps=eps), generator=generator())
    hook.remove()
    return Attacked(net, x, y, x_adv, before, states != global_states(), wanted)


@cache
def attacked(name: str, global_seed: int = 1) -> Attacked:
    return attack(name, global_seed)


@pytest.mark.slow
def test_the_result_is_a_detached_image_of_the_same_kind_within_ball_and_box(name: str) -> None:
    found = attacked(name)
    for attribute in ("shape", "dtype", "device"):
        assert getattr(found.x_adv, attribute) == getattr(found.x, attribute)
    assert not found.x_adv.requires_grad
    assert found.x_adv.grad_fn is None
    assert found.x_adv.data_ptr() != found.x.data_ptr()
    assert float(found.x_adv.min()) >= 0
    assert float(found.x_adv.max()) <= 1
    distance = Threat().distance(found.x_adv, found.x)
    assert float(distance.max()) <= EPS + 1e-6
    assert bool(distance.max() > 0) == (name != "clean")


def test_inputs_and_model_are_unchanged(name: str) -> None:
    found = attacked(name)
    assert torch.equal(found.x, images())
    assert not found.x.requires_grad
    assert found.x.grad is None
    assert right(fresh().eval(), images(), found.y).tolist() == [True] * 5 + [False]
    net, after = found.net, snapshot(found.net)
    assert after.keys() == found.before.keys()
    for key, value in found.before.items():
        assert torch.equal(after[key], value), key
    assert [net.training, net.conv.training, net.bn.training] == [True, True, False]
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["fc.bias"]
    assert not any(found.weights_wanted)


def test_it_breaks_images_and_mends_none(name: str) -> None:
    found = attacked(name)
    broken = ~right(fresh().eval(), found.x_adv, found.y)
    assert bool(broken[-1])  # was misclassified before
    assert int(broken[:-1].sum()) >= (0 if name == "clean" else 2)


@pytest.mark.slow
def test_the_global_seeds_do_not_matter_and_are_not_touched(name: str) -> None:
    first, second = attacked(name), attacked(name, global_seed=2)
    assert not first.seeds_moved
    assert not second.seeds_moved
    assert torch.equal(first.x_adv, second.x_adv)


@pytest.mark.slow
def test_one_image_is_a_batch_and_without_a_ball_nothing_moves(name: str) -> None:
    found = attack(name, 1, n=1)
    assert found.x_adv.shape == (1, 2, SIZE, SIZE)
    assert float(Threat().distance(found.x_adv, found.x)) <= EPS + 1e-6
    still = attack(name, 1, n=2, eps=0.0)
    assert torch.equal(still.x_adv, still.x)
