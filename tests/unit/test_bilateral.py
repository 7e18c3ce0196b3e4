"""Bilateral adversarial training against its formulas, written out image by image."""

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


def plain_label(p: list[float], y: int, ratio: float, gamma: float) -> list[float]:
    surprise = [-math.log(one + 1e-8) for one in p]
    others = [k for k in range(len(p)) if k != y]
    a, b = min(surprise[k] for k in others), max(surprise[k] for k in others)
    d = sum(surprise[k] - a + gamma for k in others)
    share = 1 / (1 + ratio * (b - a + gamma) / d)
    return [1 - share if k == y else share * (surprise[k] - a + gamma) / d for k in range(len(p))]


def plain_pair(
    model: nn.Module, batch: Batch, eps: float, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """x' and y' of a batch."""
    model.eval()
    logits = model(batch.x).detach()
    labels, target = [], []
    for z, y in zip(logits, batch.y.tolist(), strict=True):
        labels.append(plain_label(z.softmax(0).tolist(), y, 9.0, 0.01))
        target.append(max((k for k in range(len(z)) if k != y), key=lambda k: float(z[k])))
    x0 = batch.x + eps * torch.empty_like(batch.x).uniform_(-1, 1, generator=g)
    assert x0.max() > 1 or x0.min() < 0  # the start is not clipped
    x0.requires_grad_()
    loss = F.cross_entropy(model(x0), torch.tensor(target), reduction="sum")
    (grad,) = torch.autograd.grad(loss, x0)
    x_adv = x0.detach() - eps * grad.sign()
    x_adv = torch.min(torch.max(x_adv, batch.x - eps), batch.x + eps).clamp(0, 1)
    model.train()
    return x_adv, torch.tensor(labels, dtype=batch.x.dtype)


def soft_loss(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    return -(label * F.log_softmax(model(x), dim=1)).sum() / len(x)


class Given(nn.Module):
    """Logits that do not depend on the image, apart from a trace of its sum."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        slope = torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=x.dtype)
        return self.logits.expand(len(x), -1) + 1e-9 * x.flatten(1).sum(1)[:, None] * slope


def test_the_label_of_a_hand_computed_case() -> None:
    p = [0.7, 0.2, 0.08, 0.02]
    method, model = get_method("bilateral"), Given([math.log(one) for one in p])
    state = make_state(method, model)
    batch = Batch(x=small_batch(2).x, y=torch.tensor([0, 1]), index=torch.arange(2))
    method.perturb(state, batch)
    label = state.scratch["label"]
    # y = 0: log(0.2 / p_k) + 0.01 is 0.01, 0.926291, 2.312585, together 3.248876;
    # share = 1 / (1 + 9 * 2.312585 / 3.248876) = 0.135020
    by_hand = torch.tensor([0.864980, 0.000416, 0.038496, 0.096109], dtype=torch.float64)
    assert_close(label[0], by_hand, atol=1e-6, rtol=0)
    # y = 1, which the model gets wrong: the same rule, against the classes 0, 2, 3
    expected = torch.tensor(plain_label(p, 1, 9.0, 0.01), dtype=torch.float64)
    assert_close(label[1], expected, atol=1e-7, rtol=0)
    assert_close(label.sum(1), torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0)
    for row, y in zip(label, [0, 1], strict=True):
        others = torch.cat([row[:y], row[y + 1 :]])
        assert_close(row[y], 9 * others.max(), atol=1e-12, rtol=0)


def test_the_step_goes_towards_the_most_confusing_class() -> None:
    # class 1 is the runner-up and grows with the pixels, class 2 falls with them
    method, model = get_method("bilateral"), Given([-1.0, -2.0, -3.0, -4.0])
    state = make_state(method, model, eps=0.1)
    x = torch.full((3, 2, 4, 4), 0.5, dtype=torch.float64)
    batch = Batch(x=x, y=torch.tensor([0, 1, 1]), index=torch.arange(3))
    x_adv = method.perturb(state, batch)
    # a step of eps from any start crosses the image: upwards for y = 0; downwards for y = 1, whose
    # target is class 0, the likelier the smaller class 1
    assert (x_adv[0] > x[0]).all()
    assert (x_adv[1:] < x[1:]).all()
    assert ((x_adv - x).abs() <= 0.1 + 1e-12).all()


def test_loss_and_gradients_are_those_of_the_formula() -> None:
    method = get_method("bilateral")
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    other = copy.deepcopy(model)
    state = make_state(method, model, lr=0)
    method.perturb(state, batch)
    x_adv = (batch.x + 0.3 * torch.randn(batch.x.shape)).clamp(0, 1)
    loss = method.loss(state, batch, x_adv)
    state.backward(loss)
    other.eval()
    probabilities = other(batch.x).softmax(1).tolist()
    rows = zip(probabilities, batch.y.tolist(), strict=True)
    label = torch.tensor([plain_label(p, y, 9.0, 0.01) for p, y in rows])
    other.train()
    expected = soft_loss(other, x_adv, label)
    expected.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, expected, atol=1e-5, rtol=0)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_five_steps_equal_the_plain_procedure(eps: float) -> None:
    method = get_method("bilateral")
    model, pool = small_net(), small_batch(16)
    pool.x[:, 0, 0, 0] = 0.0  # so that every start leaves the pixel range
    pool.x[:, 0, 0, 1] = 1.0
    pool.x[:, 0, 1] = 1.0
    other = copy.deepcopy(model)
    state = make_state(method, model, eps=eps, lr=LR, seed=3)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    for number, index in enumerate(torch.split(order, [5, 5, 3, 2, 1])):
        batch = Batch(x=pool.x[index], y=pool.y[index], index=index)
        x_adv, label = plain_pair(other, batch, eps, generator_for(3, "train", "start", number))
        expected = soft_loss(other, x_adv, label)
        grads = torch.autograd.grad(expected, list(other.parameters()))
        for parameter, grad in zip(other.parameters(), grads, strict=True):
            parameter.data -= LR * grad
        assert_close(method.train_step(state, batch)["loss"], expected.detach(), atol=1e-10, rtol=0)
        state.next_batch()
    for name, value in other.state_dict().items():
        assert_close(model.state_dict()[name], value, atol=1e-10, rtol=0)


def test_batchnorm_sees_the_adversarial_batch_alone() -> None:
    method, model, batch = get_method("bilateral"), small_net(), small_batch()
    state = make_state(method, model, lr=0)
    x_adv = method.perturb(state, batch)
    assert model.bn.num_batches_tracked == 0
    method.loss(state, batch, x_adv)
    assert model.bn.num_batches_tracked == 1
    mean = 0.1 * model.conv(x_adv).mean((0, 2, 3)).detach()
    assert_close(model.bn.running_mean, mean, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("step_size", 0, "above 0"),
        ("step_size", -0.1, "above 0"),
        ("step_size", "long", "a number"),
        ("ratio", 0, "above 0"),
        ("ratio", -9, "above 0"),
        ("gamma", 0, "above 0"),
        ("gamma", math.nan, "a number"),
        ("steps", 1, "Known: gamma, ratio, step_size"),
    ],
)
def test_bad_parameters_are_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=name) as refusal:
        get_method("bilateral", **{name: value})
    assert allowed in str(refusal.value)
