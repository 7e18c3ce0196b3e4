"""SGD by the recipe: learning rates, weight decay, and when the momentum is reset."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench.recipe import Recipe, load_recipe
from bench.training.optimiser import Optimiser, learning_rate


def small_model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def recipe(**values: object) -> Recipe:
    return Recipe(**({"epochs": 1, "batch_size": 1, "lr": 0.1} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", ["all", "weights"])
def test_decay_shrinks_what_it_is_on(decay: str) -> None:
    """Without a gradient of the loss, a step is p -= lr wd p."""
    net = small_model()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimiser = Optimiser(net, recipe(weight_decay=0.5, decay=decay), n_batches=4)
    assert optimiser.set_rate(0) == 0.1
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    shrunk = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    weights = {"0.weight", "3.weight"}
    assert shrunk == (weights if decay == "weights" else set(before))
    for name in shrunk:
        parameter = dict(net.named_parameters())[name]
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.5))


def test_the_rate_is_that_of_all_groups() -> None:
    optimiser = Optimiser(
        small_model(), recipe(decay="weights", milestones=(0.5,), drop=0.2), n_batches=4
    )
    optimiser.set_rate(2)
    assert [group["lr"] for group in optimiser.sgd.param_groups] == pytest.approx([0.02, 0.02])


@pytest.mark.parametrize("fresh", [False, True])
def test_fresh_momentum_starts_anew_at_each_drop(fresh: bool) -> None:
    """A constant gradient of 1: the step is lr, 1.9 lr, 2.71 lr, ... until the momentum goes."""
    weight = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    optimiser = Optimiser(
        weight,
        recipe(weight_decay=0.0, milestones=(0.4, 0.8), drop=0.1, fresh_momentum=fresh),
        n_batches=5,
    )
    steps = []
    for number in range(5):
        rate = optimiser.set_rate(number)
        before = weight.weight.item()
        weight.weight.grad = torch.ones_like(weight.weight)
        optimiser.step()
        steps.append((before - weight.weight.item()) / rate)
    ongoing = [1, 1.9, 2.71, 3.439, 4.0951]
    expected = [1, 1.9, 1, 1.9, 1] if fresh else ongoing
    assert steps == pytest.approx(expected, rel=1e-9)
    assert recipe().fresh_momentum is False


def test_a_resumed_optimiser_forgets_at_the_same_batch() -> None:
    """The reset is a function of the batch number: it also happens right after a resume."""
    made = recipe(weight_decay=0.0, milestones=(0.5,), fresh_momentum=True)
    net = small_model()
    optimiser = Optimiser(net, made, n_batches=4)
    for number in (0, 1):
        optimiser.set_rate(number)
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
    resumed = Optimiser(small_model(), made, n_batches=4)
    resumed.sgd.load_state_dict(optimiser.sgd.state_dict())
    resumed.set_rate(3)
    assert len(resumed.sgd.state) == 6
    resumed.set_rate(2)
    assert len(resumed.sgd.state) == 0


@pytest.mark.parametrize("per_epoch", [1, 7, 391])
def test_common_drops_at_epochs_100_and_105(per_epoch: int) -> None:
    common, _ = load_recipe("common", arch="wrn-34-10", dataset="cifar10", method="madry")
    by_epoch = [
        {learning_rate(common, e * per_epoch + b, 110 * per_epoch) for b in range(per_epoch)}
        for e in range(110)
    ]
    for epoch, rates in enumerate(by_epoch):
        wanted = 0.1 if epoch < 100 else 0.01 if epoch < 105 else 0.001
        assert list(rates) == [pytest.approx(wanted)], epoch


def test_cosine_ends_near_zero() -> None:
    r = recipe(schedule="cosine")
    assert learning_rate(r, 0, 100) == 0.1
    assert learning_rate(r, 50, 100) == pytest.approx(0.05)
    assert learning_rate(r, 99, 100) == pytest.approx(0.05 * (1 + math.cos(0.99 * math.pi)))


def test_onecycle_is_a_triangle() -> None:
    r = recipe(schedule="onecycle", warmup=0.25)
    assert learning_rate(r, 0, 100) == 0
    assert learning_rate(r, 25, 100) == pytest.approx(0.1)
    assert learning_rate(r, 10, 100) == pytest.approx(0.04)
    assert learning_rate(r, 100, 100) == pytest.approx(0.0)
    assert learning_rate(recipe(schedule="onecycle", warmup=0.0), 0, 10) == pytest.approx(0.1)
