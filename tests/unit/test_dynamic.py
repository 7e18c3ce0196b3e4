"""Dynamic adversarial training against its procedure, and stopping in closed form."""

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
THRESHOLDS = {0: 1.0, 3: 0.7, 9: 0.1, 10: 0.0, 11: 0.0}
"""c_t / c_max by epoch, of 12 epochs: T' = 10."""


class OnePixel(nn.Module):
    """Logits 0 and 10 (x - 1/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(10.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        z = self.slope * (x.flatten(1) - 0.5)
        return torch.cat([torch.zeros_like(z), z], dim=1)


def stopped_at(x: float, u: float, eps: float, threshold: float, reference: str) -> float:
    """PGD on one pixel of class 1: downhill by eps / 4 until |g| (eps - way gone) is low."""
    start = x_adv = x + u * eps
    for step in range(10):
        slope = 10 / (1 + math.exp(10 * (x_adv - 0.5)))  # |g|, the sigmoid's complement times 10
        gone = (x if reference == "centre" else start) - x_adv
        if step > 0 and slope * (eps - gone) <= threshold:
            break
        x_adv = max(x_adv - eps / 4, x - eps)
    return x_adv


@pytest.mark.parametrize("reference", ["centre", "start"])
@pytest.mark.parametrize(("eps", "c_max"), [(8 / 255, 0.06), (0.1, 0.2)])
def test_images_stop_where_the_closed_form_says(reference: str, eps: float, c_max: float) -> None:
    method = get_method("dynamic", c_max=c_max, reference=reference)
    state = make_state(method, OnePixel(), n=9, eps=eps, lr=0, n_epochs=12)
    x = torch.linspace(0.3, 0.7, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    batch = Batch(x=x, y=torch.ones(9, dtype=torch.long), index=torch.arange(9))
    moves = set()
    for number, (epoch, share) in enumerate(THRESHOLDS.items()):
        state.epoch = epoch
        g = generator_for(0, "train", "start", number)
        noise = torch.empty_like(x).uniform_(-1, 1, generator=g).flatten().tolist()
        pixels = zip(x.flatten().tolist(), noise, strict=True)
        wanted = [stopped_at(one, u, eps, c_max * share, reference) for one, u in pixels]
        x_adv = method.perturb(state, batch).flatten()
        assert_close(x_adv, torch.tensor(wanted, dtype=torch.float64), atol=1e-12, rtol=0)
        moves |= {round(float(m), 6) for m in ((x_adv - x.flatten()) / eps).tolist()}
        state.next_batch()
    assert len(moves) > 9  # some stopped inside the ball, not all at its edge


def test_the_threshold_does_not_depend_on_the_unit_of_a_pixel() -> None:
    """An image and a ball four times as large, a slope of a quarter: the same attack."""
    ways = []
    for unit in (1.0, 4.0):
        model = OnePixel()
        model.slope.data /= unit
        method = get_method("dynamic", c_max=0.1)
        state = make_state(method, model, n=9, eps=0.02 * unit, lr=0)
        x = 0.5 + unit * torch.linspace(-0.05, 0.05, 9, dtype=torch.float64).view(-1, 1, 1, 1)
        batch = Batch(x=x, y=torch.ones(9, dtype=torch.long), index=torch.arange(9))
        ways.append((method.perturb(state, batch) - x) / unit)
    assert_close(ways[0], ways[1], atol=1e-12, rtol=0)
    assert (ways[0] > -0.02).any()


def test_the_defaults_are_those_of_the_paper() -> None:
    stated = {"c_max": 0.5, "control": 100 / 120, "steps": 10, "step_size": 2 / 255}
    assert get_method("dynamic") == get_method("dynamic", **stated, reference="centre")


@pytest.mark.parametrize(("c_max", "steps"), [(1e9, 1), (0.0, 10)])
def test_the_first_step_is_unconditional(c_max: float, steps: int) -> None:
    model, batch = small_net(), small_batch()
    dynamic = get_method("dynamic", c_max=c_max)
    x_adv = dynamic.perturb(make_state(dynamic, model), batch)
    always = get_method("dynamic", c_max=0.0, steps=steps)
    assert_close(x_adv, always.perturb(make_state(always, model), batch), atol=0, rtol=0)


def plain_attack(
    model: nn.Module, batch: Batch, eps: float, c: float, reference: str, g: torch.Generator
) -> tuple[Tensor, list[int]]:
    """x_adv, and the number of steps of each image: one image at a time."""
    model.eval()
    start = batch.x + eps * torch.empty_like(batch.x).uniform_(-1, 1, generator=g)
    images, counts = [], []
    for x, x0, y in zip(batch.x, start, batch.y, strict=True):
        x_adv, count = x0, 0
        for step in range(10):
            x_adv = x_adv.detach().requires_grad_()
            loss = F.cross_entropy(model(x_adv[None]), y[None])
            (grad,) = torch.autograd.grad(loss, x_adv)
            x_adv = x_adv.detach()
            gone = x_adv - (x if reference == "centre" else x0)
            if step > 0 and eps * grad.abs().sum() - (gone * grad).sum() <= c:
                break
            x_adv = x_adv + eps / 4 * grad.sign()
            x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
            count += 1
        images.append(x_adv)
        counts.append(count)
    model.train()
    return torch.stack(images), counts


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reference", ["centre", "start"])
@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_five_steps_equal_the_plain_procedure(weighted: bool, reference: str, eps: float) -> None:
    c_max = 4 * eps
    method = get_method("dynamic", c_max=c_max, reference=reference, weighted=weighted)
    model, pool = small_net(), small_batch(16)
    other = copy.deepcopy(model)
    state = make_state(method, model, eps=eps, lr=LR, seed=3, n_epochs=12)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    counts: list[int] = []
    for number, index in enumerate(torch.split(order, [5, 5, 3, 2, 1])):
        epoch, share = list(THRESHOLDS.items())[number]
        state.epoch = epoch
        batch = Batch(x=pool.x[index], y=pool.y[index], index=index)
        g = generator_for(3, "train", "start", number)
        x_adv, steps = plain_attack(other, batch, eps, c_max * share, reference, g)
        counts += steps
        other.eval()
        weight = F.cross_entropy(other(x_adv), batch.y, reduction="none").detach()
        other.train()
        each = F.cross_entropy(other(x_adv), batch.y, reduction="none")
        loss = (each * weight if weighted and epoch > 0 else each).sum() / len(index)
        grads = torch.autograd.grad(loss, list(other.parameters()))
        for parameter, grad in zip(other.parameters(), grads, strict=True):
            parameter.data -= LR * grad
        assert_close(method.train_step(state, batch)["loss"], loss.detach(), atol=1e-10, rtol=0)
        state.next_batch()
    assert {1, 10} < set(counts)  # at once, never, and in between
    for name, value in other.state_dict().items():
        assert_close(model.state_dict()[name], value, atol=1e-10, rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients_are_those_of_the_formula(weighted: bool) -> None:
    method = get_method("dynamic", weighted=weighted)
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    other = copy.deepcopy(model)
    state = make_state(method, model, lr=0)
    x_adv = (batch.x + 0.3 * torch.randn(batch.x.shape)).clamp(0, 1)
    weight = torch.linspace(0.2, 2.0, 6) if weighted else torch.ones(6)
    if weighted:
        state.scratch["weight"] = weight
    loss = method.loss(state, batch, x_adv)
    state.backward(loss)
    p = other(x_adv).softmax(1)
    each = torch.stack([-p[i, y].log() for i, y in enumerate(batch.y.tolist())])
    expected = (each * weight).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, expected, atol=1e-5, rtol=0)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=0)


def test_batchnorm_sees_the_adversarial_batch_alone() -> None:
    method, model, batch = get_method("dynamic", weighted=True), small_net(), small_batch()
    state = make_state(method, model, lr=0)
    state.epoch = 1
    x_adv = method.perturb(state, batch)
    assert model.bn.num_batches_tracked == 0
    method.loss(state, batch, x_adv)
    assert model.bn.num_batches_tracked == 1
    mean = 0.1 * model.conv(x_adv).mean((0, 2, 3)).detach()
    assert_close(model.bn.running_mean, mean, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("c_max", -0.5, "at least 0"),
        ("c_max", math.nan, "a number"),
        ("control", 0, "above 0 and at most 1"),
        ("control", 100, "above 0 and at most 1"),
        ("steps", 0, "at least 1"),
        ("steps", "ten", "a whole number"),
        ("step_size", 0, "above 0"),
        ("step_size", -1, "above 0"),
        ("reference", "middle", "centre or start"),
        ("weighted", "maybe", "true or false"),
        ("fosc", 0.5, "Known: c_max, control"),
    ],
)
def test_bad_parameters_are_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=name) as refusal:
        get_method("dynamic", **{name: value})
    assert allowed in str(refusal.value)
