"""CAT-CE: the attack written out, and the flags that change it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.registry import get_method
from bench.seeding import generator_for
from bench.threat import REFERENCE_EPS
from tests.harness import make_state, small_batch, small_net
from tests.unit.cat_line import (
    CAP,
    ETA,
    SHAPE,
    Seen,
    assert_near,
    batch_of,
    dirichlet,
    images_that_fall_at,
    line_state,
    one_hot,
)


def test_the_attack_ascends_the_soft_label_cross_entropy_from_the_image_itself() -> None:
    """The whole attack written out: zero start, step 0.007, ball of each image's radius."""
    net, batch, method = small_net(), small_batch(n=8), get_method("cat-ce")
    batch.x[0], batch.x[1] = 0.0, 1.0
    state = make_state(method, net)
    old = torch.linspace(0, CAP, 8, dtype=torch.float64).float().double()
    state.examples["radius"][:8] = old.float()
    found = method.perturb(state, batch)
    (draw, _), y = dirichlet(8, 4, draws=2), one_hot(batch.y, 4)
    share = 10 * old[:, None]
    q = (1 - share) * y + share * draw
    r = (old + ETA).clamp(max=CAP).view(-1, 1, 1, 1)
    net.eval()
    d = torch.zeros_like(batch.x)
    for _ in range(10):
        d = d.detach().requires_grad_()
        log_p = net(batch.x + d).log_softmax(1)
        (gradient,) = torch.autograd.grad(-(q * log_p).sum(), d)
        d = torch.min(torch.max(d.detach() + 0.007 * gradient.sign(), -r), r)
        d = (batch.x + d).clamp(0, 1) - batch.x
    torch.testing.assert_close(found, batch.x + d, rtol=0, atol=1e-10)


@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_start(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = get_method("cat-ce", start=start)
    state = line_state(method)
    state.examples["radius"][:3] = torch.tensor([0.0, 0.01, 0.02])
    batch = batch_of(images_that_fall_at(0.2, 0.2, 0.2))
    noise = Seen(method, state, batch, monkeypatch).inputs[0] - batch.x
    radius = torch.tensor([0.005, 0.015, 0.025], dtype=torch.float64).view(-1, 1, 1, 1)
    stream = generator_for(0, "train", "start", 0)
    uniform = torch.empty_like(batch.x).uniform_(-1, 1, generator=stream) * radius
    assert_near(noise, uniform if start == "uniform" else torch.zeros_like(noise), 1e-9)


@pytest.mark.parametrize("rule", ["fixed", "radius"])
def test_step_rule(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = get_method("cat-ce", step_rule=rule, steps=5)
    state = line_state(method)
    state.examples["radius"][:3] = torch.tensor([0.009, 0.015, 0.02])
    batch = batch_of(images_that_fall_at(0.2, 0.2, 0.2))
    step = Seen(method, state, batch, monkeypatch).inputs[1] - batch.x
    radius = torch.tensor([0.014, 0.02, 0.025], dtype=torch.float64)
    expected = 2.5 * radius / 5 if rule == "radius" else torch.full_like(radius, 0.007)
    assert_near(step.abs(), expected.view(-1, 1, 1, 1).expand_as(step), 1e-8)


@pytest.mark.parametrize(("mode", "forwards"), [("eval", 0), ("train", 11)])
def test_attack_bn_is_the_mode_of_the_attack_and_of_the_success_test(
    mode: str, forwards: int
) -> None:
    net, method = small_net(), get_method("cat-ce", attack_bn=mode)
    method.perturb(make_state(method, net), small_batch())
    assert int(net.bn.num_batches_tracked or 0) == forwards
    assert net.bn.training


class Ridge(nn.Module):
    """Class 1 wins only where the mean grey has moved by 0.006 to 0.009."""

    def forward(self, x: Tensor) -> Tensor:
        t = (x - 0.5).flatten(1).mean(1)
        lead = 0.0015 - (t - 0.0075).abs()
        return torch.stack([torch.zeros_like(lead), lead, lead - 1], 1)


@pytest.mark.parametrize(("any_iterate", "after"), [(False, 0.025), (True, 0.02)])
def test_any_iterate_counts_a_success_on_the_way(any_iterate: bool, after: float) -> None:
    """Two steps of 0.007: over the ridge, and down behind it."""
    method = get_method("cat-ce", c=0, steps=2, any_iterate=any_iterate)
    state = make_state(method, Ridge(), num_classes=3)
    state.examples["radius"].fill_(0.02)
    batch = batch_of(torch.full((1, *SHAPE), 0.5, dtype=torch.float64))
    x_adv = method.perturb(state, batch)
    assert_near(x_adv - batch.x, [0.014], 1e-9)
    assert_near(state.examples["radius"][:1], [after], 1e-8)


@pytest.mark.parametrize("any_iterate", [False, True])
def test_the_last_iterate_counts_either_way(any_iterate: bool) -> None:
    method = get_method("cat-ce", c=0, steps=1, any_iterate=any_iterate)
    state = make_state(method, Ridge(), num_classes=3)
    state.examples["radius"].fill_(0.02)
    method.perturb(state, batch_of(torch.full((1, *SHAPE), 0.5, dtype=torch.float64)))
    assert_near(state.examples["radius"][:1], [0.02], 1e-8)


@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.1])
def test_with_hard_labels_and_fixed_radius_it_is_pgd_training(eps: float) -> None:
    """Five steps in double precision, to 1e-10."""
    common = {"step_size": 2 / 255, "start": "uniform"}
    runs = {
        "madry": get_method("madry", **common),
        "cat-ce": get_method("cat-ce", c=0, adaptive=False, **common),
    }
    nets = {}
    for name, method in runs.items():
        net = nets[name] = small_net()
        state = make_state(method, net, eps=eps)
        for number in range(5):
            method.train_step(state, small_batch(seed=number))
            state.next_batch()
    first, second = nets["madry"].state_dict(), nets["cat-ce"].state_dict()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=1e-10)
    assert not torch.allclose(first["conv.weight"], small_net().conv.weight)
