"""BatchNorm: which forwards of a method move the running statistics, and moving them again."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from bench.api import recorded_statistics, statistics_of
from bench.registry import get_method
from tests.harness import make_state, small_batch, small_net


@pytest.mark.parametrize(
    ("name", "params", "forwards"),
    [
        ("madry", {"attack_bn": "train"}, 10),
        ("awp-madry", {"attack_bn": "train"}, 10),
        ("cat-ce", {}, 0),
        ("cat-ce", {"attack_bn": "train"}, 11),
    ],
)
def test_the_attack_moves_statistics_in_train_mode_only_and_the_loss_by_one_batch(
    name: str, params: dict[str, Any], forwards: int
) -> None:
    """Steps of the other methods, statistics included, are written out in their tests."""
    method, model, batch = get_method(name, **params), small_net(), small_batch()
    state = make_state(method, model, lr=0)
    x_adv = method.perturb(state, batch)
    assert model.bn.num_batches_tracked == forwards
    assert all(module.training for module in model.modules())
    model.bn.reset_running_stats()
    method.loss(state, batch, x_adv)
    assert model.bn.num_batches_tracked == 1
    mean = 0.1 * model.conv(x_adv).mean((0, 2, 3)).detach()
    assert_close(model.bn.running_mean, mean, rtol=0, atol=1e-12)


# Moving the running statistics again is what the same forward pass again would do.


def network(momentum: float | None) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU()),
        *(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, momentum=momentum, affine=False)),
        nn.BatchNorm2d(3, track_running_stats=False),
    )


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0, None])
@pytest.mark.parametrize("twice", [False, True])
def test_again_is_the_pass_again(momentum: float | None, twice: bool) -> None:
    """Also of a layer that one pass calls twice; and its graph can still be differentiated."""
    norm = nn.BatchNorm2d(2, momentum=momentum)
    ours = nn.Sequential(norm, nn.ReLU(), norm) if twice else network(momentum)
    ours.double().train()
    before, first, second = torch.rand(3, 6, 2, 8, 8, dtype=torch.float64)
    ours(before)
    theirs = copy.deepcopy(ours)
    with recorded_statistics(ours) as again:
        loss = ours(first).square().sum()
    ours(second)
    again()
    loss.backward()
    assert all(p.grad is not None for p in ours.parameters())
    for x in (first, second, first):
        theirs(x)
    for name, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("other", ["eval mode", "buffers"])
def test_a_pass_in_eval_mode_or_on_other_buffers_moves_nothing(other: str) -> None:
    net, x = network(0.1).train(other == "buffers"), torch.rand(6, 2, 8, 8)
    before = copy.deepcopy(net.state_dict())
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    with recorded_statistics(net) as again:
        functional_call(net, buffers if other == "buffers" else {}, (x,))
    again()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("n", [0, 1, 2, 4, 6])
def test_statistics_of_some_rows_are_those_of_a_pass_of_these_rows(
    n: int, momentum: float | None
) -> None:
    norms = [nn.BatchNorm2d(2, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum).eval()]
    ours = nn.Sequential(norms[0], nn.Conv2d(2, 3, 1), norms[1], nn.ReLU()).double()
    theirs, rows = copy.deepcopy(ours), torch.tensor([1, 4, 0, 5, 3, 2]) < n
    for x in torch.rand(2, 6, 2, 3, 3, dtype=torch.float64):
        with statistics_of(ours, rows):
            found = ours(torch.where(rows.view(-1, 1, 1, 1), x, torch.nan))
        theirs[0].train(n > 1)
        expected = theirs(x[rows])
        assert_close(found[rows], expected, rtol=1e-10, atol=1e-12)
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-10, atol=1e-12)
    assert norms[0].training
    assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-12)
