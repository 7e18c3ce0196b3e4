"""MART against its formula, written out image by image."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.errors import ConfigError
from bench.method import Batch
from bench.registry import get_method
from bench.seeding import generator_for
from tests.harness import make_state, small_batch, small_net

LR = 0.05


def plain_attack(model: nn.Module, batch: Batch, eps: float, g: torch.Generator) -> Tensor:
    model.eval()
    unit = eps / (8 / 255)
    x_adv = batch.x + 0.001 * unit * torch.empty_like(batch.x).normal_(generator=g)
    for _ in range(10):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), batch.y), x_adv)
        x_adv = x_adv.detach() + 0.007 * unit * grad.sign()
        x_adv = torch.min(torch.max(x_adv, batch.x - eps), batch.x + eps).clamp(0, 1)
    model.train()
    return x_adv


def plain_loss(model: nn.Module, batch: Batch, x_adv: Tensor, beta: float) -> Tensor:
    p_clean = F.softmax(model(batch.x), dim=1)
    p_adv = F.softmax(model(x_adv), dim=1)
    total = torch.zeros((), dtype=batch.x.dtype)
    for p, q, y in zip(p_clean, p_adv, batch.y.tolist(), strict=True):
        values = q.tolist()
        best = max((k for k in range(len(q)) if k != y), key=values.__getitem__)
        boosted = -torch.log(q[y]) - torch.log(1.0001 - q[best] + 1e-12)
        kl = sum(p[k] * (torch.log(p[k]) - torch.log(q[k] + 1e-12)) for k in range(len(p)))
        total = total + boosted + beta * kl * (1.0000001 - p[y])
    return total / len(batch.y)


def plain_sgd(model: nn.Module, loss: Tensor) -> None:
    parameters = list(model.parameters())
    for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.data -= LR * grad


def test_a_hand_computed_case() -> None:
    # p(x) is (1, e^-50) and p(x') is (e^-50, 1), for y = 0
    linear = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    linear.weight.data.copy_(torch.tensor([[0.0, -50.0], [-50.0, 0.0]]))
    model = nn.Sequential(nn.Flatten(), linear)
    pair = torch.eye(2, dtype=torch.float64).view(2, 1, 1, 2)
    batch = Batch(x=pair[:1], y=torch.tensor([0]), index=torch.arange(1))
    method = get_method("mart")
    loss = method.loss(make_state(method, model), batch, pair[1:])
    by_hand = 50 - math.log(1e-4 + 1e-12) + 6 * -math.log(1e-12) * 1e-7
    assert loss.item() == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize("beta", [0.0, 5.0, 6.0])
def test_loss_and_gradients_are_those_of_the_formula(beta: float) -> None:
    method = get_method("mart", beta=beta)
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    other = copy.deepcopy(model)
    state = make_state(method, model, lr=0)
    x_adv = (batch.x + 0.3 * torch.randn(batch.x.shape)).clamp(0, 1)
    loss = method.loss(state, batch, x_adv)
    state.backward(loss)
    expected = plain_loss(other, batch, x_adv, beta)
    expected.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, expected, atol=1e-5, rtol=0)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert mine.grad is not None
        assert mine.grad.abs().max() > 1e-3 or mine is model.conv.bias
        assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=0)


def test_the_default_weight_is_the_papers_six() -> None:
    model, batch = small_net(), small_batch()
    method = get_method("mart")
    loss = method.loss(make_state(method, model), batch, batch.x.flip(0))
    assert_close(loss, plain_loss(model, batch, batch.x.flip(0), 6.0), atol=1e-10, rtol=0)


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_five_steps_equal_the_plain_procedure(eps: float) -> None:
    method = get_method("mart")
    model, pool = small_net(), small_batch(16)
    other = copy.deepcopy(model)
    state = make_state(method, model, eps=eps, lr=LR, seed=3)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    for number, index in enumerate(torch.split(order, [5, 5, 3, 2, 1])):
        batch = Batch(x=pool.x[index], y=pool.y[index], index=index)
        x_adv = plain_attack(other, batch, eps, generator_for(3, "train", "start", number))
        expected = plain_loss(other, batch, x_adv, 6.0)
        plain_sgd(other, expected)
        assert_close(method.train_step(state, batch)["loss"], expected.detach(), atol=1e-10, rtol=0)
        state.next_batch()
    for name, value in other.state_dict().items():
        assert_close(model.state_dict()[name], value, atol=1e-10, rtol=0)


def test_batchnorm_sees_the_natural_batch_and_then_the_adversarial() -> None:
    method, model, batch = get_method("mart"), small_net(), small_batch()
    state = make_state(method, model, lr=0)
    x_adv = method.perturb(state, batch)
    assert model.bn.num_batches_tracked == 0
    mean = torch.zeros(6, dtype=torch.float64)
    for x in (batch.x, x_adv):
        mean = 0.9 * mean + 0.1 * model.conv(x).mean((0, 2, 3))
    method.loss(state, batch, x_adv)
    assert model.bn.num_batches_tracked == 2
    assert_close(model.bn.running_mean, mean.detach(), atol=1e-12, rtol=0)


def test_the_loss_stays_finite_where_probabilities_underflow() -> None:
    method, model = get_method("mart"), small_net(dtype=torch.float32)
    batch = small_batch(dtype=torch.float32)
    with torch.no_grad():
        model.fc.weight *= 1e3
    loss = method.loss(make_state(method, model, lr=0), batch, batch.x)
    loss.backward()  # type: ignore[no-untyped-call]
    assert (model(batch.x).softmax(1) == 0).any()
    assert math.isfinite(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("beta", -0.1, "at least 0"),
        ("beta", "much", "a number"),
        ("beta", math.inf, "a number"),
        ("steps", 0, "at least 1"),
        ("steps", -1, "at least 1"),
        ("steps", 2.5, "a whole number"),
        ("step_size", 0, "above 0"),
        ("step_size", -0.1, "above 0"),
        ("step_size", "fast", "a number"),
        ("lam", 6, "Known: beta, step_size, steps"),
    ],
)
def test_bad_parameters_are_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=name) as refusal:
        get_method("mart", **{name: value})
    assert allowed in str(refusal.value)
