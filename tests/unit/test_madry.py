"""Natural training and PGD adversarial training, each against its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import get_attack
from bench.method import Batch, Method
from bench.registry import get_method
from bench.seeding import generator_for
from bench.threat import REFERENCE_EPS, Threat
from tests.harness import SmallNet, make_state, small_batch, small_net


def mean_ce(logits: Tensor, y: Tensor) -> Tensor:
    true = logits[torch.arange(len(y)), y]
    return (logits.exp().sum(1).log() - true).sum() / len(y)


def weights(net: SmallNet) -> list[Tensor]:
    return list(net.parameters())


def gradients(method: Method, net: SmallNet) -> list[Tensor]:
    """Of one training step, read before they are cleared."""
    state = make_state(method, net, lr=0)
    method.train_step(state, small_batch())
    return [p.grad for p in weights(net) if p.grad is not None]


def written_pgd(
    net: SmallNet, x: Tensor, y: Tensor, noise: Tensor, eps: float, step: float, steps: int
) -> Tensor:
    """Madry et al., as in their code: start clipped to the pixels, then step, ball, box."""
    x_adv = (x + noise).clamp(0, 1)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(mean_ce(net(x_adv), y), x_adv)
        x_adv = x_adv.detach() + step * gradient.sign()
        x_adv = (x + (x_adv - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv


def uniform_noise(x: Tensor, eps: float, batch_number: int = 0) -> Tensor:
    stream = generator_for(0, "train", "start", batch_number)
    return torch.empty_like(x).uniform_(-1, 1, generator=stream) * eps


def test_natural_training_is_the_mean_cross_entropy_of_the_images() -> None:
    net, batch = small_net(), small_batch()
    found = gradients(get_method("natural"), net)
    expected = torch.autograd.grad(mean_ce(net(batch.x), batch.y), weights(net))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    method = get_method("natural")
    assert torch.equal(method.perturb(make_state(method, net), batch), batch.x)


@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.1])
def test_the_attack_is_the_written_out_pgd(eps: float) -> None:
    net, batch = small_net(), small_batch(n=8)
    batch.x[0], batch.x[1] = 0.0, 1.0
    method = get_method("madry")
    found = method.perturb(make_state(method, net, eps=eps), batch)
    net.eval()
    step = 2 / 255 * eps / (8 / 255)
    noise = uniform_noise(batch.x, eps)
    expected = written_pgd(net, batch.x, batch.y, noise, eps, step, steps=10)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert float((found - batch.x).abs().max()) == pytest.approx(eps, abs=1e-12)


def test_a_training_step_descends_the_loss_of_adversarial_images_alone() -> None:
    net, batch = small_net(), small_batch()
    found = gradients(get_method("madry", steps=3), net)
    twin = small_net().eval()
    noise = uniform_noise(batch.x, REFERENCE_EPS)
    x_adv = written_pgd(twin, batch.x, batch.y, noise, 8 / 255, 2 / 255, steps=3)
    expected = torch.autograd.grad(mean_ce(twin.train()(x_adv), batch.y), weights(twin))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    natural = gradients(get_method("natural"), small_net())
    assert not torch.allclose(found[0], natural[0])


def test_without_a_ball_it_is_natural_training() -> None:
    nets = []
    for name in ("madry", "natural"):
        net, method = small_net(), get_method(name)
        state = make_state(method, net, eps=0)
        for _ in range(3):
            method.train_step(state, small_batch())
            state.next_batch()
        nets.append(net)
    for a, b in zip(weights(nets[0]), weights(nets[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("mode", "forwards"), [("eval", 0), ("train", 10)])
def test_the_attack_moves_batchnorm_in_train_mode_only(mode: str, forwards: int) -> None:
    net, method = small_net(), get_method("madry", attack_bn=mode)
    method.perturb(make_state(method, net), small_batch())
    assert int(net.bn.num_batches_tracked or 0) == forwards


@pytest.mark.parametrize(
    ("params", "moved"),
    [({"step_size": "1/255"}, 1 / 255), ({}, 2 / 255), ({"step_size": "16/255"}, 8 / 255)],
)
def test_a_step_from_the_image_itself_is_one_step_long(
    params: dict[str, Any], moved: float
) -> None:
    net, batch = small_net(), small_batch()
    batch.x.clamp_(0.1, 0.9)
    for eps in (REFERENCE_EPS, REFERENCE_EPS / 4):
        method = get_method("madry", steps=1, start="zero", **params)
        x_adv = method.perturb(make_state(method, net, eps=eps), batch)
        change = (x_adv - batch.x).abs()
        expected = torch.full_like(change, moved * eps / REFERENCE_EPS)
        torch.testing.assert_close(change, expected, rtol=0, atol=1e-12)


def test_the_start_is_drawn_anew_for_each_batch() -> None:
    net, batch, method = small_net(), small_batch(), get_method("madry", steps=1)
    state = make_state(method, net)
    first = method.perturb(state, batch)
    state.next_batch()
    second = method.perturb(state, batch)
    noise = uniform_noise(batch.x, REFERENCE_EPS, batch_number=1)
    net.eval()
    expected = written_pgd(net, batch.x, batch.y, noise, 8 / 255, 2 / 255, steps=1)
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-10)
    assert not torch.equal(first, second)


def test_an_undefended_model_falls_and_a_trained_one_stands() -> None:
    """31 faint pixels that eps outweighs and one that it does not, on a linear model.

    Natural training weighs pixels by their strength s: the lead under attack is then
    proportional to sum s (s - eps) = 31 * 0.05 * (0.05 - 0.1) + 0.2 * (0.2 - 0.1) < 0.
    """
    g = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 2
    strength = torch.full((2, 4, 4), 0.05)
    strength[0, 0, 0] = 0.2
    strength[1] *= -1  # so that no weight goes into the common grey
    x = 0.5 + strength * (2.0 * y - 1).view(-1, 1, 1, 1)
    batch = Batch(x=x, y=y, index=torch.arange(64))
    accuracy = {}
    for name in ("natural", "madry"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        method = get_method(name)
        state = make_state(method, net, num_classes=2, eps=0.1, lr=0.2)
        for _ in range(100):
            method.train_step(state, batch)
            state.next_batch()
        x_adv = get_attack("pgd-20")(net, x, y, Threat(eps=0.1), generator=g)
        with torch.no_grad():
            assert bool((net(x).argmax(1) == y).all())
            accuracy[name] = float((net(x_adv).argmax(1) == y).double().mean())
    assert accuracy == {"natural": 0, "madry": 1}
