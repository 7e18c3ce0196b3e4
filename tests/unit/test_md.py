"""Margin decomposition: its two runs, its two stages, its steps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attacks import MD, get_attack
from bench.threat import Threat
from tests.harness import generator, small_batch, small_net

THREAT = Threat(eps=0.1)


def test_both_runs_equal_a_loop_written_out() -> None:
    """In double precision; images of which one run, the other, or neither breaks some."""
    net, batch, eps = small_net(seed=3).eval(), small_batch(n=64), 0.1
    x = batch.x
    with torch.no_grad():
        y = net(x).argmax(1)
    steps, first = 6, 3
    attack = MD(steps=steps, first_steps=first, relative_step=0.2)
    found = attack(net, x, y, Threat(eps=eps), generator=generator(5))
    g = generator(5)
    expected, fallen = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    fallen_to = []
    for run in range(2):
        x_adv = x + eps * torch.empty_like(x).uniform_(-1, 1, generator=g)
        taken = torch.zeros_like(fallen)
        kept = x_adv.clone()
        for step in range(steps + 1):
            x_adv = x_adv.detach().requires_grad_()
            logits = net(x_adv)
            wrong = (logits.argmax(1) != y) & (x_adv >= 0).flatten(1).all(1)
            wrong &= (x_adv <= 1).flatten(1).all(1) & ~taken
            kept = torch.where((wrong | ~taken)[:, None, None, None], x_adv.detach(), kept)
            taken |= wrong
            if step == steps:
                break
            true = logits[torch.arange(len(y)), y]
            other = logits.masked_fill(F.one_hot(y, 4).bool(), -math.inf).amax(1)
            if step < first:
                value, phase = (other if run else -true), step / first
            else:
                value, phase = other - true, (step - first) / (steps - first)
            value.sum().backward()
            assert x_adv.grad is not None
            size = 0.2 * eps * 0.5 * (1 + math.cos(math.pi * phase))
            moved = (x_adv + size * x_adv.grad.sign()).detach()
            x_adv = (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
        expected = torch.where(fallen[:, None, None, None], expected, kept)
        fallen_to.append(int((taken & ~fallen).sum()))
        fallen |= taken
    assert min(fallen_to) > 0
    assert int(fallen.sum()) < len(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_with_two_classes_a_linear_model_is_moved_by_eps_times_the_l1_norm() -> None:
    torch.manual_seed(0)
    head, eps = nn.Linear(12, 2).double(), 0.02
    x = 0.3 + 0.4 * torch.rand(64, 3, 2, 2, generator=generator(1), dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), head).eval()
    with torch.no_grad():
        head.bias[0] += 0.15
        y = model(x).argmax(1)
        sign = 1 - 2 * y
        lead = sign * (model(x) @ torch.tensor([-1.0, 1.0]).double())
        best = lead + eps * (head.weight[1] - head.weight[0]).abs().sum()
        x_adv = get_attack("md")(model, x, y, Threat(eps=eps), generator=generator())
        found = sign * (model(x_adv) @ torch.tensor([-1.0, 1.0]).double())
    can = best > 0
    assert 5 < int(can.sum()) < 59
    assert torch.equal(found > 0, can)
    torch.testing.assert_close(found[~can], best[~can], rtol=0, atol=1e-12)


class Imbalanced(nn.Module):
    """One logit's slope hides the other's, and the way that it points is the wrong one."""

    def __init__(self, strong: str) -> None:
        super().__init__()
        self.strong = strong

    def forward(self, x: Tensor) -> Tensor:
        t = (x - 0.5).flatten(1).mean(1)
        if self.strong == "other":
            true, other = -0.1 * t, torch.maximum(-0.5 - t, 100 * (t - 0.095))
        else:
            true, other = torch.minimum(0.5 + t, 1 - 100 * (t - 0.09)), 0.1 * t
        return torch.stack([true, other, -9 + 0 * t, -9 + 0 * t], 1)


@pytest.mark.parametrize("strong", ["other", "true"])
def test_the_weak_term_leads_where_the_whole_margin_does_not(strong: str) -> None:
    """One of the two models falls in the first run alone, the other in the second alone."""
    net = Imbalanced(strong)
    x, y = torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.long)
    for name, falls in (("cw", False), ("pgd-20", False), ("md", True)):
        x_adv = get_attack(name)(net, x, y, THREAT, generator=generator())
        assert (net(x_adv).argmax(1) != y).tolist() == [falls] * 8, name
