"""Moving the running statistics again is what the same forward pass again would do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from bench.api import recorded_statistics


def network(momentum: float | None) -> nn.Module:
    net = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU()),
        *(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, momentum=momentum, affine=False)),
        nn.BatchNorm2d(3, track_running_stats=False),
    )
    return net.double().train()


def assert_again_is_the_pass_again(ours: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    before, first, second = torch.rand(3, 6, 2, 8, 8, dtype=torch.float64, generator=generator)
    ours(before)
    theirs = copy.deepcopy(ours)
    with recorded_statistics(ours) as again:
        ours(first)
    ours(second)
    again()
    for x in (first, second, first):
        theirs(x)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0, None])
def test_again_is_the_pass_again(momentum: float | None) -> None:
    assert_again_is_the_pass_again(network(momentum))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_that_a_pass_calls_twice(momentum: float | None) -> None:
    norm = nn.BatchNorm2d(2, momentum=momentum).double()
    assert_again_is_the_pass_again(nn.Sequential(norm, nn.ReLU(), norm).train())


def test_a_graph_of_the_pass_can_still_be_differentiated() -> None:
    net = network(0.1)
    with recorded_statistics(net) as again:
        loss = net(torch.rand(6, 2, 8, 8, dtype=torch.float64)).square().sum()
    again()
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_layer_in_eval_mode_is_left_alone() -> None:
    net = network(0.1).eval()
    before = copy.deepcopy(net.state_dict())
    with recorded_statistics(net) as again:
        net(torch.rand(6, 2, 8, 8, dtype=torch.float64))
    again()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_pass_on_other_buffers_moves_nothing() -> None:
    net, x = network(0.1), torch.rand(6, 2, 8, 8, dtype=torch.float64)
    before = copy.deepcopy(net.state_dict())
    with recorded_statistics(net) as again:
        functional_call(net, {name: value.clone() for name, value in net.named_buffers()}, (x,))
    again()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
