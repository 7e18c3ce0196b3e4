"""TRADES: loss, attack and BatchNorm statistics against a version written out here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.registry import get_method
from bench.seeding import generator_for
from bench.threat import REFERENCE_EPS
from tests.harness import SmallNet, make_state, small_batch, small_net


def softmax(logits: Tensor) -> Tensor:
    e = logits.exp()
    return e / e.sum(1, keepdim=True)


def kl(clean: Tensor, adversarial: Tensor) -> Tensor:
    """sum_i sum_k p_k log(p_k / q_k): a sum over classes and images."""
    p, q = softmax(clean), softmax(adversarial)
    return (p * (p / q).log()).sum()


def written_loss(net: SmallNet, x: Tensor, y: Tensor, x_adv: Tensor, beta: float) -> Tensor:
    clean, adversarial = net(x), net(x_adv)
    ce = -softmax(clean)[torch.arange(len(y)), y].log().sum() / len(y)
    return ce + beta * kl(clean, adversarial) / len(y)


def written_attack(net: SmallNet, x: Tensor, eps: float, steps: int = 10) -> Tensor:
    """The model in eval mode; p(x) anew at each step, as the authors do."""
    noise = torch.empty_like(x).normal_(generator=generator_for(0, "train", "start", 0))
    x_adv = x + 0.001 * eps / REFERENCE_EPS * noise
    step_size = 0.007 * eps / REFERENCE_EPS
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(kl(net(x), net(x_adv)), x_adv)
        x_adv = x_adv.detach() + step_size * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.1])
def test_the_attack_is_the_written_out_one(eps: float) -> None:
    net, batch, method = small_net(), small_batch(n=8), get_method("trades")
    batch.x[0], batch.x[1] = 0.0, 1.0
    found = method.perturb(make_state(method, net, eps=eps), batch)
    assert net.training
    net.eval()
    torch.testing.assert_close(found, written_attack(net, batch.x, eps), rtol=0, atol=1e-10)
    assert float((found - batch.x).abs().max()) == pytest.approx(eps, abs=1e-12)


def test_the_start_leaves_the_pixel_range() -> None:
    """The first gradient is taken there: clipping it away is a known slip."""
    net, batch, method = small_net(), small_batch(), get_method("trades", steps=1)
    batch.x.copy_(batch.x.round())
    inputs: list[Tensor] = []
    hook = net.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
    method.perturb(make_state(method, net), batch)
    hook.remove()
    clean, start = inputs[0], inputs[1]
    assert torch.equal(clean, batch.x)
    assert len(inputs) == 2
    assert float(start.min()) < 0
    assert float(start.max()) > 1
    assert 0.0005 < float((start - clean).std()) < 0.002


@pytest.mark.parametrize("beta", [1.0, 6.0])
def test_value_and_gradients_are_the_formulas_through_both_arguments(beta: float) -> None:
    net, batch = small_net(), small_batch()
    method = get_method("trades", beta=beta)
    state = make_state(method, net, lr=0)
    x_adv = (batch.x + 0.05 * torch.randn_like(batch.x).sign()).clamp(0, 1)
    loss = method.loss(state, batch, x_adv)
    found = torch.autograd.grad(loss, list(net.parameters()))
    twin = small_net()
    written = written_loss(twin, batch.x, batch.y, x_adv, beta)
    expected = torch.autograd.grad(written, list(twin.parameters()))
    torch.testing.assert_close(loss, written, rtol=0, atol=1e-10)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    detached = torch.autograd.grad(
        written_half(twin, batch.x, batch.y, x_adv, beta), list(twin.parameters())
    )
    assert float((found[0] - detached[0]).abs().max()) > 1e-4


def written_half(net: SmallNet, x: Tensor, y: Tensor, x_adv: Tensor, beta: float) -> Tensor:
    """With p(x) detached in KL: the slip that the test above would have to notice."""
    clean = net(x)
    ce = -softmax(clean)[torch.arange(len(y)), y].log().sum() / len(y)
    return ce + beta * kl(clean.detach(), net(x_adv)) / len(y)


def test_a_whole_step_is_the_written_out_one() -> None:
    net, batch, method = small_net(), small_batch(), get_method("trades")
    logged = method.train_step(make_state(method, net, lr=0.1), batch)
    twin = small_net().eval()
    x_adv = written_attack(twin, batch.x, REFERENCE_EPS)
    loss = written_loss(twin.train(), batch.x, batch.y, x_adv, 6.0)
    step = torch.autograd.grad(loss, list(twin.parameters()))
    torch.testing.assert_close(logged["loss"], loss.detach(), rtol=0, atol=1e-10)
    for p, q, gradient in zip(net.parameters(), twin.parameters(), step, strict=True):
        torch.testing.assert_close(p, q - 0.1 * gradient, rtol=0, atol=1e-10)


def test_batchnorm_sees_natural_adversarial_natural() -> None:
    """Running statistics by hand: momentum 0.1, the unbiased variance of each batch."""
    net, batch, method = small_net(), small_batch(), get_method("trades")
    state = make_state(method, net, eps=0.2)
    x_adv = method.perturb(state, batch)
    mean, var = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    with torch.no_grad():
        for x in (batch.x, x_adv, batch.x):
            channels = net.conv(x).transpose(0, 1).flatten(1)
            mean = 0.9 * mean + 0.1 * channels.mean(1)
            var = 0.9 * var + 0.1 * channels.var(1, unbiased=True)
    method.loss(state, batch, x_adv)
    assert net.bn.running_mean is not None
    assert net.bn.running_var is not None
    torch.testing.assert_close(net.bn.running_mean, mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(net.bn.running_var, var, rtol=0, atol=1e-10)
    assert int(net.bn.num_batches_tracked or 0) == 3


def test_without_beta_its_gradients_are_those_of_natural_training() -> None:
    found = {}
    for name, params in (("trades", {"beta": 0.0}), ("natural", {})):
        net, method = small_net(), get_method(name, **params)
        method.train_step(make_state(method, net, lr=0), small_batch())
        found[name] = [p.grad for p in net.parameters()]
    for a, b in zip(found["trades"], found["natural"], strict=True):
        assert a is not None
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_attack_is_blind_to_the_labels() -> None:
    batch, method = small_batch(), get_method("trades")
    first = method.perturb(make_state(method, small_net()), batch)
    batch.y.copy_((batch.y + 1) % 4)
    second = method.perturb(make_state(method, small_net()), batch)
    assert torch.equal(first, second)
