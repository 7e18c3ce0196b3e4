"""The outer loss of each method against its formula, image by image, in single precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from tests.harness import make_state, small_batch, small_net
from tests.unit import written

Formula = Callable[[nn.Module, Batch, Tensor, dict[str, Tensor]], Tensor]
WEIGHT = torch.linspace(0.2, 2.0, 6)
COUNTS = torch.tensor([True, False, True, True, False, True])
LABEL = torch.rand(6, 4, generator=torch.Generator().manual_seed(2)).softmax(1)
RADIUS = torch.linspace(0.0, 0.03, 6)
CLASS_WEIGHT = torch.rand(6, 4, generator=torch.Generator().manual_seed(3)).softmax(1)


def ce(p: Tensor, y: Tensor) -> Tensor:
    """(B,): -log p_y of probabilities."""
    return torch.stack([-row[label].log() for row, label in zip(p, y.tolist(), strict=True)])


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(1)


def adversarial_ce(net: nn.Module, batch: Batch, x_adv: Tensor, s: dict[str, Tensor]) -> Tensor:
    return ce(net(x_adv).softmax(1), batch.y).mean()


def weighted_ce(net: nn.Module, batch: Batch, x_adv: Tensor, s: dict[str, Tensor]) -> Tensor:
    each: Tensor = ce(net(x_adv).softmax(1), batch.y) * s["weight"]
    return each.mean()


def soft_ce(net: nn.Module, batch: Batch, x_adv: Tensor, s: dict[str, Tensor]) -> Tensor:
    return written.soft_ce(net(x_adv), s["label"])


def trades(net: nn.Module, batch: Batch, x_adv: Tensor, s: dict[str, Tensor]) -> Tensor:
    p, q = net(batch.x).softmax(1), net(x_adv).softmax(1)
    return ce(p, batch.y).mean() + 6 * kl(p, q).mean()


def mart(beta: float) -> Formula:
    def loss(net: nn.Module, batch: Batch, x_adv: Tensor, s: dict[str, Tensor]) -> Tensor:
        return mart_loss(net, batch, x_adv, beta)

    return loss


def mart_loss(net: nn.Module, batch: Batch, x_adv: Tensor, beta: float) -> Tensor:
    total = torch.zeros((), dtype=batch.x.dtype)
    clean, adversarial = net(batch.x).softmax(1), net(x_adv).softmax(1)
    for p, q, y in zip(clean, adversarial, batch.y.tolist(), strict=True):
        best = max((k for k in range(len(q)) if k != y), key=q.tolist().__getitem__)
        boosted = -q[y].log() - (1.0001 - q[best] + 1e-12).log()
        divergence = sum(p[k] * (p[k].log() - (q[k] + 1e-12).log()) for k in range(len(p)))
        total = total + boosted + beta * divergence * (1.0000001 - p[y])
    return total / len(batch.y)


def mma(net: nn.Module, batch: Batch, x_adv: Tensor, s: dict[str, Tensor]) -> Tensor:
    near = ce(net(x_adv).softmax(1), batch.y)[s["counts"]].sum() / len(batch.y)
    return 2 / 3 * near + 1 / 3 * ce(net(batch.x).softmax(1), batch.y).mean()


def ikl(net: nn.Module, batch: Batch, x_adv: Tensor, s: dict[str, Tensor]) -> Tensor:
    return ikl_loss(net(batch.x), net(x_adv), batch.y, s["class_weight"])


def ikl_loss(clean: Tensor, adversarial: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Image by image, pair of classes by pair; weight (B, K)."""
    total = torch.zeros((), dtype=clean.dtype)
    for n, a, label, w in zip(clean, adversarial, y.tolist(), weight, strict=True):
        pairs = torch.zeros((), dtype=clean.dtype)
        for j in range(4):
            for k in range(4):
                pairs = pairs + w[j] * w[k] * ((n[j] - n[k]) - (a[j] - a[k])) ** 2
        soft = -(n.softmax(0).detach() * a.log_softmax(0)).sum()
        total = total - n.log_softmax(0)[label] + 4.0 * soft + 20.0 * 0.25 * pairs
    return total / len(y)


CASES: list[tuple[str, dict[str, Any], Formula, dict[str, Tensor]]] = [
    *((name, {}, adversarial_ce, {}) for name in ("natural", "madry", "iaat", "fast", "free")),
    ("dynamic", {}, adversarial_ce, {}),
    ("dynamic", {"weighted": True}, weighted_ce, {"weight": WEIGHT}),
    ("bilateral", {}, soft_ce, {"label": LABEL}),
    ("cat-ce", {}, soft_ce, {"label": LABEL, "radius": RADIUS}),
    ("trades", {}, trades, {}),
    *(("mart", {"beta": beta}, mart(beta), {}) for beta in (0.0, 5.0, 6.0)),
    ("mma", {}, mma, {"counts": COUNTS}),
    ("ikl", {}, ikl, {"class_weight": CLASS_WEIGHT}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def test_loss_and_gradients_are_those_of_the_formula(
    case: tuple[str, dict[str, Any], Formula, dict[str, Tensor]],
) -> None:
    name, params, formula, scratch = case
    method = get_method(name, **params)
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    twin = copy.deepcopy(model)
    state = make_state(method, model, lr=0)
    state.scratch |= scratch
    noise = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(4))
    x_adv = (batch.x + 0.1 * noise).clamp(0, 1)
    loss = method.loss(state, batch, x_adv)
    state.backward(loss)
    expected = formula(twin, batch, x_adv, scratch)
    assert_close(loss, expected, rtol=0, atol=1e-5)
    gradients = torch.autograd.grad(expected, list(twin.parameters()))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-3 or parameter is model.conv.bias
        assert_close(parameter.grad, gradient, rtol=0, atol=1e-5)


def test_the_loss_of_mart_stays_finite_where_probabilities_underflow() -> None:
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    model.fc.weight.data *= 1e3
    method = get_method("mart")
    loss = method.loss(make_state(method, model, lr=0), batch, batch.x)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert (model(batch.x).softmax(1) == 0).any()
    assert bool(loss.isfinite())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
