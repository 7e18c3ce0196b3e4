"""CAT-MIX: eq. 6 written out, its clamps and its weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.method import Batch
from bench.registry import get_method
from bench.threat import REFERENCE_EPS
from tests.harness import make_state
from tests.unit.cat_line import SHAPE, Seen, batch_of


def grey(n: int) -> Batch:
    """Images of class 0, inside the box."""
    return batch_of(torch.full((n, *SHAPE), 0.5, dtype=torch.float64))


class Fixed(nn.Module):
    """The same logits for every image, and one parameter that adds to them all."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64)
        self.shift = nn.Parameter(torch.zeros_like(self.logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits + self.shift + 0 * x.flatten(1).sum(1, keepdim=True)


LEADS = [[-1.0, -2.5, -3.0], [-30.0, -15.0, -40.0], [12.0, 0.0, 1.0], [0.0, -4.0, -9.9]]
"""Margins -1.5, 15, -11 and -4, two rows with negative logits only."""


def mixed_value(logits: Tensor, q: Tensor, y: Tensor, weight: Tensor, kappa: float) -> Tensor:
    """Eq. 6 by plain sums, the mean over images."""
    total = torch.zeros((), dtype=torch.float64)
    for row, label, true, w in zip(logits, q, y.tolist(), weight, strict=True):
        ce = -(label * (row - row.exp().sum().log())).sum()
        others = torch.cat([row[:true], row[true + 1 :]])
        total = total + ce + w * torch.clamp(others.max() - row[true], min=-kappa)
    return total / len(y)


@pytest.mark.parametrize("kappa", [10.0, 2.0, 0.0])
@pytest.mark.parametrize("mix_weight", ["mean", "eps_sum"])
def test_the_mixed_loss_is_eq_6(kappa: float, mix_weight: str) -> None:
    method = get_method("cat-mix", kappa=kappa, mix_weight=mix_weight)
    net = Fixed(LEADS)
    state = make_state(method, net, num_classes=3)
    batch = grey(4)
    radius = torch.tensor([0.0, 0.01, 0.02, 0.03], dtype=torch.float64)
    q = torch.tensor([[0.8, 0.1, 0.1]], dtype=torch.float64).expand(4, 3)
    state.scratch |= {"label": q, "radius": radius}
    loss = method.loss(state, batch, batch.x)
    weight = torch.ones(4) if mix_weight == "mean" else 4 * radius
    expected = mixed_value(net.logits + net.shift, q, batch.y, weight, kappa)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    (found,) = torch.autograd.grad(loss, net.shift)
    (wanted,) = torch.autograd.grad(expected, net.shift)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_beyond_kappa_only_cross_entropy_is_left_of_the_gradient() -> None:
    batch = grey(4)
    found = {}
    for name in ("cat-ce", "cat-mix"):
        method, net = get_method(name), Fixed(LEADS)
        state = make_state(method, net, num_classes=3)
        state.scratch |= {
            "label": torch.eye(3, dtype=torch.float64)[batch.y],
            "radius": torch.zeros(4).double(),
        }
        (found[name],) = torch.autograd.grad(method.loss(state, batch, batch.x), net.shift)
    extra = (found["cat-mix"] - found["cat-ce"]) * 4
    expected = torch.tensor([[-1.0, 1, 0], [-1, 1, 0], [0, 0, 0], [-1, 1, 0]]).double()
    torch.testing.assert_close(extra, expected, rtol=0, atol=1e-12)


class Contest(nn.Module):
    """Class 1 gains on class 0 where the grey rises; the lead of class 0 starts at `lead`.

    A third class, close behind class 1, falls three times as fast, so that cross entropy and
    the margin point in opposite directions.
    """

    def __init__(self, lead: float) -> None:
        super().__init__()
        self.lead = lead

    def forward(self, x: Tensor) -> Tensor:
        t = (x - 0.5).flatten(1).mean(1)
        return torch.stack([0 * t, t - self.lead, -3 * t - self.lead - 0.05], 1)


def ascended(lead: float, **params: Any) -> float:
    """Where one step of the attack moves the grey: 1 up, -1 down; by the margin up."""
    method = get_method("cat-mix", c=0, steps=1, **params)
    state = make_state(method, Contest(lead), num_classes=3)
    state.examples["radius"].fill_(0.02)
    batch = grey(1)
    return float((method.perturb(state, batch) - batch.x).sign().mean())


@pytest.mark.parametrize(
    ("clamp", "led", "lost"),
    [
        ("none", 1.0, 1.0),
        ("paper", -1.0, 1.0),  # no margin left where the model leads by more than kappa
        ("official", 1.0, -1.0),  # no margin left where the other class does
    ],
)
def test_mix_attack_clamp(clamp: str, led: float, lost: float) -> None:
    """kappa = 0.1: the lead is 0.5 in one case and -0.5 in the other."""
    assert ascended(0.5, kappa=0.1, mix_attack_clamp=clamp) == led
    assert ascended(-0.5, kappa=0.1, mix_attack_clamp=clamp) == lost
    assert ascended(0.05, kappa=0.1, mix_attack_clamp=clamp) == 1.0


@pytest.mark.parametrize("mix_weight", ["mean", "eps_sum"])
@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.1])
def test_the_attack_weighs_the_margin_as_the_update_does(mix_weight: str, eps: float) -> None:
    """eps_sum: by B times the radius of the attack, in units of eps = 8/255."""
    method = get_method("cat-mix", mix_weight=mix_weight, eta=0.0)
    state = make_state(method, Fixed(LEADS), num_classes=3, eps=eps)
    radius = torch.tensor([0.0, 0.01, 0.02, 0.03], dtype=torch.float64)
    state.examples["radius"] = state.examples["radius"].double()
    state.examples["radius"][:4] = radius * eps / REFERENCE_EPS
    logits, batch = Fixed(LEADS).logits, grey(4)
    seen = Seen(method, state, batch)
    weight = torch.ones(4) if mix_weight == "mean" else 4 * radius
    expected = mixed_value(logits, seen.label, batch.y, weight, kappa=math.inf)
    value = seen.objective(logits, seen.label, 0)
    torch.testing.assert_close(value.mean(), expected, rtol=0, atol=1e-10)
