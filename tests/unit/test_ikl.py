"""IKL-AT against the pairwise formula of its paper and the procedure of its code."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.errors import ConfigError
from bench.method import Batch, TrainState
from bench.registry import get_method
from bench.seeding import generator_for
from methods.ikl import IKL
from tests.harness import make_state, small_batch, small_net

LR = 0.02
EPS = 8 / 255


def plain_objective(clean: Tensor, adversarial: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Class by class, pair by pair."""
    total = torch.zeros((), dtype=clean.dtype)
    for n, a, label in zip(clean, adversarial, y.tolist(), strict=True):
        w = weight[label]
        pairs = torch.zeros((), dtype=clean.dtype)
        for j in range(4):
            for k in range(4):
                pairs = pairs + w[j] * w[k] * ((n[j] - n[k]) - (a[j] - a[k])) ** 2
        soft = -(F.softmax(n, 0).detach() * F.log_softmax(a, 0)).sum()
        natural = -F.log_softmax(n, 0)[label]
        total = total + natural + 4.0 * soft + 20.0 * 0.25 * pairs
    return total / len(y)


def rows(seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(4, 4, generator=g, dtype=torch.float64).softmax(1)


def test_loss_and_gradients_in_single_precision() -> None:
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    plain = copy.deepcopy(model)
    method = IKL()
    state = make_state(method, model, lr=0.0)
    weight = rows().float()
    state.scratch["class_weight"] = weight[batch.y]
    x_adv = (batch.x + 0.03 * torch.randn(batch.x.shape).sign()).clamp(0, 1)
    loss = method.loss(state, batch, x_adv)
    state.backward(loss)
    adversarial, clean = plain(x_adv), plain(batch.x)
    wanted = plain_objective(clean, adversarial, batch.y, weight)
    assert_close(loss, wanted, rtol=0, atol=1e-5)
    gradients = torch.autograd.grad(wanted, list(plain.parameters()))
    got = [parameter.grad for parameter in model.parameters()]
    assert_close(got, list(gradients), rtol=0, atol=1e-5)


def plain_attack(model: nn.Module, x: Tensor, radius: float, g: torch.Generator) -> Tensor:
    x_adv = x + 0.001 * torch.empty_like(x).normal_(generator=g)
    model.eval()
    for _ in range(5):
        x_adv.requires_grad_()
        soft = -(F.softmax(model(x), 1).detach() * F.log_softmax(model(x_adv), 1)).sum()
        (grad,) = torch.autograd.grad(soft, x_adv)
        x_adv = x_adv.detach() + radius / 2 * grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - radius), x + radius).clamp(0, 1)
    model.train()
    return x_adv


def plain_step(model: nn.Module, batch: Batch, x_adv: Tensor, weight: Tensor, awp: bool) -> Tensor:
    """Moves the weights; returns the clean logits of the update."""
    named = dict(model.named_parameters())
    by: dict[str, Tensor] = {}
    if awp:
        proxy = copy.deepcopy(model)
        loss = plain_objective(proxy(batch.x), proxy(x_adv), batch.y, weight)
        for name, parameter in proxy.named_parameters():
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            if parameter.ndim > 1:
                by[name] = 0.005 * named[name].detach().norm() / gradient.norm() * gradient
    for name, step in by.items():
        named[name].data += step
    adversarial, clean = model(x_adv), model(batch.x)
    loss = plain_objective(clean, adversarial, batch.y, weight)
    gradients = torch.autograd.grad(loss, list(named.values()))
    for parameter, gradient in zip(named.values(), gradients, strict=True):
        parameter.data -= LR * gradient
    for name, step in by.items():
        named[name].data -= step
    logits: Tensor = clean.detach()
    return logits


def test_two_epochs_are_those_of_the_paper() -> None:
    """Six steps: the radius grows, AWP joins in the second epoch, and so do class weights."""
    model = small_net()
    plain = copy.deepcopy(model)
    method = get_method("ikl")
    state = make_state(method, model, lr=LR, n_epochs=40)
    weight = torch.full((4, 4), 0.25, dtype=torch.float64)
    average: dict[str, Tensor] = {}
    number = 0
    for epoch in range(2):
        state.epoch = epoch
        seen = torch.zeros(4, 4, dtype=torch.float64)
        for n in (6, 6, 1):
            batch = small_batch(n, seed=number)
            method.train_step(state, batch)
            state.next_batch()
            g = generator_for(0, "train", "start", number)
            x_adv = plain_attack(plain, batch.x, EPS * (epoch + 1) / 40, g)
            clean = plain_step(plain, batch, x_adv, weight, awp=epoch == 1)
            for logits, label in zip(clean, batch.y.tolist(), strict=True):
                seen[label] += F.softmax(logits / 4.0, 0)
            number += 1
        method.end_epoch(state)
        for label in range(4):
            if seen[label].sum() > 0:
                weight[label] = seen[label] / seen[label].sum()
        decay = 0.9 ** (200 / 40)
        for name, value in plain.state_dict().items():
            if epoch == 0 or not value.is_floating_point():
                average[name] = value.clone()
            else:
                average[name] = (1 - decay) * value + decay * average[name]
        assert_close(state.memory["class_weight"], weight, rtol=0, atol=1e-7)
        weight = state.memory["class_weight"].clone()
    assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=1e-10)
    assert_close(method.eval_model(state).state_dict(), average, rtol=0, atol=1e-10)
    assert model.state_dict()["bn.num_batches_tracked"] == 12


def finished(method: IKL, n_epochs: int, values: list[float]) -> TrainState:
    """Epochs that end with all weights at the given values."""
    model = small_net()
    state = make_state(method, model, n_epochs=n_epochs)
    for value in values:
        for parameter in model.parameters():
            parameter.data.fill_(value)
        state.memory["class_sum"] = torch.ones(4, 4)
        method.end_epoch(state)
    return state


@pytest.mark.parametrize(("n_epochs", "decay"), [(200, 0.9), (100, 0.81)])
def test_the_average_covers_the_same_share_of_a_shorter_training(
    n_epochs: int, decay: float
) -> None:
    method = IKL()
    state = finished(method, n_epochs, [1.0, 2.0, 4.0])
    wanted = decay * (decay * 1 + (1 - decay) * 2) + (1 - decay) * 4
    averaged = dict(method.eval_model(state).named_parameters())
    for name, parameter in state.model.named_parameters():
        assert_close(parameter.detach(), torch.full_like(parameter, 4.0))
        assert_close(averaged[name].detach(), torch.full_like(parameter, wanted))


def test_without_decay_the_weights_themselves_are_evaluated() -> None:
    method = IKL(decay=0.0)
    state = finished(method, 200, [1.0, 2.0])
    assert_close(method.eval_model(state).state_dict(), state.model.state_dict())


def test_before_an_epoch_has_ended_the_model_itself_is_evaluated() -> None:
    state = make_state(IKL(), small_net())
    assert IKL().eval_model(state) is state.model


def test_a_class_that_was_not_seen_keeps_its_weights() -> None:
    method = IKL()
    state = make_state(method, small_net())
    known = rows().float()
    state.memory["class_weight"] = known.clone()
    state.memory["class_sum"] = torch.zeros(4, 4)
    state.memory["class_sum"][2] = torch.tensor([1.0, 1.0, 2.0, 4.0])
    method.end_epoch(state)
    now = state.memory["class_weight"]
    assert_close(now[[0, 1, 3]], known[[0, 1, 3]], rtol=0, atol=0)
    assert_close(now[2], torch.tensor([0.125, 0.125, 0.25, 0.5]))
    assert "class_sum" not in state.memory


@pytest.mark.parametrize("epoch", [0, 3, 9])
def test_the_radius_grows_to_eps(epoch: int) -> None:
    method = IKL()
    state = make_state(method, small_net(), n_epochs=10, eps=0.1)
    state.epoch = epoch
    batch = small_batch()
    x_adv = method.perturb(state, batch)
    reached = state.threat.distance(x_adv, batch.x)
    assert_close(reached, torch.full_like(reached, 0.1 * (epoch + 1) / 10))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"alpha": -1.0}, "alpha = -1.0 is out of range: at least 0"),
        ({"beta": -1.0}, "beta = -1.0 is out of range: at least 0"),
        ({"temperature": 0.0}, "temperature = 0.0 is out of range: above 0"),
        ({"steps": 0}, "steps = 0 is out of range: at least 1"),
        ({"relative_step": 0.0}, "relative_step = 0.0 is out of range: above 0"),
        ({"gamma": -1.0}, "gamma = -1.0 is out of range: at least 0"),
        ({"warmup": 2.0}, "warmup = 2.0 is out of range: 0 to 1"),
        ({"decay": 1.0}, "decay = 1.0 is out of range: at least 0 and below 1"),
    ],
)
def test_bad_values_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_method("ikl", **bad)
