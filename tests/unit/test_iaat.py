"""IAAT against its procedure, written out plainly, and radii computed by hand."""

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
from bench.method import Batch, TrainState
from bench.registry import get_method
from bench.seeding import generator_for
from tests.harness import make_state, small_batch, small_net

LR = 0.05
PIXEL = 1 / 255

# Each image: signed distance to the decision boundary at epochs 0 to 4 (negative: misclassified),
# and the radius after each, both in 255ths. Two epochs of warm-up, eps 8, gamma 1.9, beta 0.1.
BY_HAND: list[tuple[list[float], list[float]]] = [
    # far away: up by 0.19 a visit, beyond eps
    ([20, 20, 20, 20, 20], [8, 8, 8.19, 8.38, 8.57]),
    # holds at 8 and not at 9.9: stays
    ([9, 9, 9, 9, 9], [8, 8, 8, 8, 8]),
    # does not hold at 8: down by 0.19 a visit
    ([5, 5, 5, 5, 5], [8, 8, 7.81, 7.62, 7.43]),
    # never right: stays at 0
    ([-3, -3, -3, -3, -3], [0, 0, 0, 0, 0]),
    # right after the warm-up only: climbs from 0
    ([-3, -3, 2.5, 2.5, 2.5], [0, 0, 0.19, 0.38, 0.57]),
    # wrong for two visits: a factor 0.9 each, then up again
    ([20, 20, -1, -1, 20], [8, 8, 7.2, 6.48, 6.67]),
    # fails at a radius below gamma: the candidate is 0, not negative
    ([-3, -3, 20, 20, 0.1], [0, 0, 0.19, 0.38, 0.342]),
]


class OnePixel(nn.Module):
    """Class 1 above one half; counts its forwards with and without a gradient of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(10.0, dtype=torch.float64))
        self.forwards = {"gradient": 0, "plain": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.forwards["gradient" if x.requires_grad else "plain"] += 1
        z = self.slope * (x.flatten(1) - 0.5)
        return torch.cat([torch.zeros_like(z), z], dim=1)


def at_distance(distance: list[float], index: Tensor, scale: float) -> Batch:
    """One-pixel images at these signed distances, in 255ths, of alternating classes."""
    y = index % 2
    d = torch.tensor(distance, dtype=torch.float64)[index] * PIXEL * scale
    x = 0.5 + torch.where(y == 1, d, -d)
    return Batch(x=x.view(-1, 1, 1, 1), y=y, index=index)


def doubled(state: TrainState) -> TrainState:
    """Radii in double precision, for comparisons at 1e-10."""
    state.examples["radius"] = state.examples["radius"].double()
    return state


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_radii_follow_the_hand_computed_sequence(scale: float) -> None:
    method, model = get_method("iaat"), OnePixel()
    state = make_state(method, model, n=7, eps=8 * PIXEL * scale, lr=0, n_epochs=22)
    assert state.examples["radius"].tolist() == [0.0] * 7
    for epoch in range(5):
        state.epoch = epoch
        order = torch.randperm(7, generator=torch.Generator().manual_seed(epoch))
        wanted = torch.tensor([radii[epoch] for _, radii in BY_HAND]) * PIXEL * scale
        for index in torch.split(order, 2):  # the last batch has one image
            batch = at_distance([d[epoch] for d, _ in BY_HAND], index, scale)
            x_adv = method.perturb(state, batch)
            moved = (x_adv - batch.x).abs().flatten()
            assert_close(moved.float(), wanted[index], atol=1e-7, rtol=1e-5)
            state.next_batch()
        assert_close(state.examples["radius"], wanted, atol=1e-8, rtol=1e-5)


def test_a_bound_on_the_radius() -> None:
    method = get_method("iaat", eps_max=8.1 * PIXEL)
    state = make_state(method, OnePixel(), n=7, lr=0, n_epochs=22)
    seen = []
    for epoch in range(5):
        state.epoch = epoch
        method.perturb(state, at_distance([20.0] * 7, torch.arange(7), 1.0))
        state.next_batch()
        seen.append(255 * state.examples["radius"][0].item())
    assert seen == pytest.approx([8, 8, 8.1, 8.1, 8.1], abs=1e-4)


@pytest.mark.parametrize(
    ("share", "n_epochs", "warm"),
    [
        (10 / 110, 110, 10),
        (10 / 110, 20, 2),
        (10 / 110, 5, 1),
        (10 / 110, 1, 1),
        (0.07, 100, 7),  # 0.07 * 100 is above 7 in floating point
    ],
)
def test_the_warm_up_is_a_share_of_the_epochs(share: float, n_epochs: int, warm: int) -> None:
    assert get_method("iaat").warmup == 10 / 110  # type: ignore[attr-defined]
    method = get_method("iaat", warmup=share)
    batch = at_distance([20.0] * 7, torch.arange(7), 1.0)
    for epoch, radius in ((warm - 1, 8.0), (warm, 0.19)):
        state = make_state(method, OnePixel(), n=7, n_epochs=n_epochs)
        state.epoch = epoch
        method.perturb(state, batch)
        assert 255 * state.examples["radius"][0].item() == pytest.approx(radius, abs=1e-4)


def test_no_more_gradients_than_the_procedure_needs() -> None:
    method, model = get_method("iaat"), OnePixel()
    state = make_state(method, model, n=7, n_epochs=11)
    batch = at_distance([9.0] * 7, torch.arange(7), 1.0)
    method.perturb(state, batch)
    assert model.forwards == {"gradient": 10, "plain": 1}
    state.epoch = 1
    method.perturb(state, batch)
    assert model.forwards == {"gradient": 10 + 30, "plain": 1 + 3}


def plain_attack(
    model: nn.Module, batch: Batch, radius: Tensor, unit: float, g: torch.Generator
) -> Tensor:
    r = radius.view(-1, 1, 1, 1)
    lengths = [max(one / 5, 2 / 255 * unit) for one in radius.tolist()]
    step = torch.tensor(lengths, dtype=torch.float64).view(-1, 1, 1, 1)
    x_adv = batch.x + r * torch.empty_like(batch.x).uniform_(-1, 1, generator=g)
    for _ in range(10):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), batch.y), x_adv)
        x_adv = x_adv.detach() + step * grad.sign()
        x_adv = torch.min(torch.max(x_adv, batch.x - r), batch.x + r).clamp(0, 1)
    return x_adv


def plain_radii(
    model: nn.Module, batch: Batch, memory: Tensor, epoch: int, unit: float, g: torch.Generator
) -> Tensor:
    def right(x: Tensor) -> list[bool]:
        with torch.no_grad():
            return [bool(z.argmax() == y) for z, y in zip(model(x), batch.y, strict=True)]

    ok = right(batch.x)
    if epoch < 1:
        return 8 / 255 * unit * torch.tensor(ok).double()
    before, gamma = memory[batch.index], 1.9 / 255 * unit
    near = plain_attack(model, batch, before, unit, g)
    far = plain_attack(model, batch, before + gamma, unit, g)
    radii = []
    for e, clean, at_e, beyond in zip(before.tolist(), ok, right(near), right(far), strict=True):
        candidate = e + gamma if beyond else e if at_e else e - gamma
        radii.append(0.1 * max(0.0, candidate if clean else 0.0) + 0.9 * e)
    return torch.tensor(radii, dtype=torch.float64)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("unit", [1.0, 6.0])
def test_steps_equal_the_plain_procedure(mode: str, unit: float) -> None:
    method = get_method("iaat", attack_bn=mode)
    model, pool = small_net(), small_batch(16)
    other = copy.deepcopy(model)
    state = doubled(make_state(method, model, eps=8 / 255 * unit, lr=LR, seed=3, n_epochs=3))
    memory = torch.zeros(16, dtype=torch.float64)
    number = 0
    for epoch in range(3):
        state.epoch = epoch
        order = torch.randperm(16, generator=torch.Generator().manual_seed(epoch))
        for index in torch.split(order, 5):  # 5, 5, 5, 1
            batch = Batch(x=pool.x[index], y=pool.y[index], index=index)
            g = generator_for(3, "train", "start", number)
            other.train(mode == "train")
            radius = plain_radii(other, batch, memory, epoch, unit, g)
            memory[index] = radius
            x_adv = plain_attack(other, batch, radius, unit, g)
            other.train()
            loss = F.cross_entropy(other(x_adv), batch.y)
            grads = torch.autograd.grad(loss, list(other.parameters()))
            for parameter, grad in zip(other.parameters(), grads, strict=True):
                parameter.data -= LR * grad
            assert_close(method.train_step(state, batch)["loss"], loss.detach(), atol=1e-10, rtol=0)
            state.next_batch()
            number += 1
        assert_close(state.examples["radius"], memory, atol=1e-10, rtol=0)
    assert len(set(memory.tolist())) > 3  # the images went different ways
    for name, value in other.state_dict().items():
        assert_close(model.state_dict()[name], value, atol=1e-10, rtol=0)


def test_loss_and_gradients_are_those_of_the_formula() -> None:
    method = get_method("iaat")
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    other = copy.deepcopy(model)
    state = make_state(method, model, lr=0)
    x_adv = (batch.x + 0.3 * torch.randn(batch.x.shape)).clamp(0, 1)
    loss = method.loss(state, batch, x_adv)
    state.backward(loss)
    p = other(x_adv).softmax(1)
    expected = -torch.stack([p[i, y].log() for i, y in enumerate(batch.y.tolist())]).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, expected, atol=1e-5, rtol=0)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("mode", "warm", "after"), [("eval", 0, 0), ("train", 11, 33)])
def test_batchnorm_statistics_move_in_train_mode_only(mode: str, warm: int, after: int) -> None:
    method, model, batch = get_method("iaat", attack_bn=mode), small_net(), small_batch()
    state = make_state(method, model, lr=0, n_epochs=11)
    for epoch, forwards in ((0, warm), (1, after)):
        state.epoch = epoch
        model.bn.reset_running_stats()
        x_adv = method.perturb(state, batch)
        assert model.bn.num_batches_tracked == forwards
        assert all(module.training for module in model.modules())
        model.bn.reset_running_stats()
        method.loss(state, batch, x_adv)
        mean = 0.1 * model.conv(x_adv).mean((0, 2, 3)).detach()
        assert_close(model.bn.running_mean, mean, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("gamma", -1, "at least 0"),
        ("gamma", math.nan, "a number"),
        ("beta", -0.1, "0 to 1"),
        ("beta", 1.1, "0 to 1"),
        ("warmup", -0.1, "0 to 1"),
        ("warmup", 10, "0 to 1"),
        ("eps_max", 0, "above 0"),
        ("eps_max", "wide", "a number"),
        ("steps", 0, "at least 1"),
        ("steps", "ten", "a whole number"),
        ("step_size", 0, "above 0"),
        ("attack_bn", "test", "eval or train"),
        ("radius", 1, "Known: attack_bn, beta"),
    ],
)
def test_bad_parameters_are_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=name) as refusal:
        get_method("iaat", **{name: value})
    assert allowed in str(refusal.value)
