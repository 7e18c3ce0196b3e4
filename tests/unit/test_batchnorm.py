"""BatchNorm: which forwards of a method move the running statistics, and moving them again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from bench.api import recorded_statistics
from bench.method import Batch
from bench.registry import get_method
from tests.harness import make_state, small_batch, small_net


@pytest.mark.parametrize(
    ("name", "params", "forwards"),
    [
        ("natural", {}, 1),  # no second one for a log
        ("awp-madry", {"steps": 10}, 1),  # neither the attack's last one nor that for a log
        ("awp-madry", {"steps": 10, "attack_bn": "train"}, 10 + 1),
        ("fast", {"attack_bn": "train"}, 2),
        ("yopo", {"passes": 5}, 5),
        ("mart", {}, 2),
        ("trades", {}, 3),
    ],
)
def test_a_step_passes_in_train_mode_as_often_as_the_algorithm_needs(
    name: str, params: dict[str, Any], forwards: int
) -> None:
    model, method = small_net(), get_method(name, **params)
    method.train_step(make_state(method, model), small_batch())
    assert model.bn.num_batches_tracked == forwards


@pytest.mark.parametrize(
    ("name", "params", "epoch", "forwards"),
    [
        ("madry", {}, 0, 0),
        ("madry", {"attack_bn": "train"}, 0, 10),
        ("fast", {}, 0, 0),
        ("fast", {"attack_bn": "train"}, 0, 1),
        ("bilateral", {}, 0, 0),
        ("dynamic", {"weighted": True}, 1, 0),
        ("iaat", {}, 1, 0),
        ("iaat", {"attack_bn": "train"}, 0, 11),
        ("iaat", {"attack_bn": "train"}, 1, 33),
        ("cat-ce", {}, 0, 0),
        ("cat-ce", {"attack_bn": "train"}, 0, 11),
    ],
)
def test_the_attack_moves_statistics_in_train_mode_only_and_the_loss_by_one_batch(
    name: str, params: dict[str, Any], epoch: int, forwards: int
) -> None:
    method, model, batch = get_method(name, **params), small_net(), small_batch()
    state = make_state(method, model, lr=0, n_epochs=11)
    state.epoch = epoch
    x_adv = method.perturb(state, batch)
    assert model.bn.num_batches_tracked == forwards
    assert all(module.training for module in model.modules())
    model.bn.reset_running_stats()
    method.loss(state, batch, x_adv)
    assert model.bn.num_batches_tracked == 1
    mean = 0.1 * model.conv(x_adv).mean((0, 2, 3)).detach()
    assert_close(model.bn.running_mean, mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "order"), [("trades", "clean adversarial clean"), ("mart", "clean adversarial")]
)
def test_the_loss_moves_statistics_in_the_order_of_the_authors(name: str, order: str) -> None:
    """By hand: momentum 0.1, the unbiased variance of each batch."""
    method, model, batch = get_method(name), small_net(), small_batch()
    state = make_state(method, model, eps=0.2)
    images = {"clean": batch.x, "adversarial": method.perturb(state, batch)}
    mean, var = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for kind in order.split():
        channels = model.conv(images[kind]).detach().transpose(0, 1).flatten(1)
        mean = 0.9 * mean + 0.1 * channels.mean(1)
        var = 0.9 * var + 0.1 * channels.var(1, unbiased=True)
    assert model.bn.num_batches_tracked == 0
    method.loss(state, batch, images["adversarial"])
    assert model.bn.num_batches_tracked == len(order.split())
    assert_close(model.bn.running_mean, mean, rtol=0, atol=1e-10)
    assert_close(model.bn.running_var, var, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("mode", "forwards"), [("eval", 0), ("train", 5 + 1)])
def test_the_guard_of_fast_judges_its_last_iterate_once(mode: str, forwards: int) -> None:
    model, method = small_net(), get_method("fast", attack_bn=mode)
    state, batch = make_state(method, model), small_batch()
    with torch.no_grad():
        y = model.eval()(batch.x).argmax(1)
        model.train()
        model.fc.weight.mul_(1e3)  # so sure of its labels that all five steps are needed
    method.perturb(state, Batch(batch.x, y, batch.index))
    model.bn.reset_running_stats()
    method.end_epoch(state)
    assert model.bn.num_batches_tracked == forwards
    assert all(module.training for module in model.modules())


def test_both_gradients_of_yopos_first_layer_are_twice_one() -> None:
    """At the x' of the propagation, -H has the gradient of the cross entropy."""
    model, batch = small_net(), small_batch()
    weight = model.conv.weight
    h = model.stem(batch.x)
    loss = F.cross_entropy(model.rest(h), batch.y)
    of_loss, p = torch.autograd.grad(loss, [weight, h])
    (of_h,) = torch.autograd.grad((model.stem(batch.x) * p).sum(), [weight])
    assert_close(of_loss, of_h, rtol=1e-9, atol=1e-12)
    assert float(of_h.norm()) > 0


def test_the_noise_of_fast_has_one_radius_in_all_channels() -> None:
    method = get_method("fast", step_size=1e-9)
    x = torch.full((8, 2, 4, 4), 0.5, dtype=torch.float64)
    state = make_state(method, small_net())
    x_adv = method.perturb(state, Batch(x, torch.zeros(8).long(), torch.arange(8)))
    farthest = (x_adv - x).abs().amax(dim=(0, 2, 3))
    assert (farthest <= state.threat.eps + 1e-9).all()
    assert (farthest > 0.9 * state.threat.eps).all()


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
