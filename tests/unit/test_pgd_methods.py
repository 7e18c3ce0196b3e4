"""Natural training, Madry AT, TRADES and MART against their procedures, written out."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from bench.threat import REFERENCE_EPS
from tests.harness import make_state, small_batch, small_net
from tests.unit.written import (
    EPS,
    assert_trains_as,
    attacked,
    gaussian,
    kl,
    madry_attack,
    mart_loss,
    trades_loss,
)

Loss = Callable[[nn.Module, Batch, Tensor], Tensor]


def with_edges(seed: int) -> Batch:
    """A batch whose first two images are black and white, so that starts leave the pixel range."""
    batch = small_batch(n=8, seed=seed)
    batch.x[0], batch.x[1] = 0.0, 1.0
    return batch


def plain_ce(net: nn.Module, batch: Batch, x_adv: Tensor) -> Tensor:
    return F.cross_entropy(net(x_adv), batch.y)


def trades_attack(net: nn.Module, batch: Batch, eps: float, number: int = 0) -> Tensor:
    """p(x) anew at each step, as the authors do; the start is not clipped."""
    loss = lambda x_adv: kl(net(batch.x).softmax(1), net(x_adv).softmax(1)).sum()  # noqa: E731
    start, step = batch.x + gaussian(batch.x, number, eps=eps), 0.007 * eps / EPS
    return attacked(net, loss, batch.x, start, radius=eps, step=step, steps=10)


def mart_attack(net: nn.Module, batch: Batch, eps: float, number: int = 0) -> Tensor:
    loss = lambda x_adv: F.cross_entropy(net(x_adv), batch.y)  # noqa: E731
    start, step = batch.x + gaussian(batch.x, number, eps=eps), 0.007 * eps / EPS
    return attacked(net, loss, batch.x, start, radius=eps, step=step, steps=10)


WRITTEN: dict[str, tuple[Any, Loss, int]] = {
    "natural": (lambda net, batch, eps, number: batch.x, plain_ce, 1),
    "madry": (madry_attack, plain_ce, 1),
    "trades": (trades_attack, trades_loss, 3),
    "mart": (mart_attack, mart_loss, 2),
}
"""The attack, the loss of the update and its number of forwards."""


@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.1])
@pytest.mark.parametrize("name", WRITTEN)
def test_five_steps_equal_the_plain_procedure(name: str, eps: float) -> None:
    attack, loss, forwards = WRITTEN[name]

    def written(net: nn.Module, batch: Batch, number: int) -> Tensor:
        x_adv = attack(net, batch, eps, number)
        moved = float((x_adv - batch.x).abs().max())
        assert moved == pytest.approx(0 if name == "natural" else eps, abs=1e-12)
        return loss(net, batch, x_adv)

    batches = [with_edges(seed) for seed in range(5)]
    state = assert_trains_as(get_method(name), written, batches, eps=eps)
    assert state.model.state_dict()["bn.num_batches_tracked"] == 5 * forwards


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_beta_weighs_the_kl_of_mart(beta: float) -> None:
    net, batch, method = small_net(), small_batch(), get_method("mart", beta=beta)
    x_adv = (batch.x + 0.1).clamp(0, 1)
    loss = method.loss(make_state(method, net), batch, x_adv)
    assert_close(loss, mart_loss(net, batch, x_adv, beta), rtol=0, atol=1e-10)


def test_the_loss_of_mart_stays_finite_where_probabilities_underflow() -> None:
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    model.fc.weight.data *= 1e3
    method = get_method("mart")
    loss = method.loss(make_state(method, model, lr=0), batch, batch.x)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert (model(batch.x).softmax(1) == 0).any()
    assert bool(loss.isfinite())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_a_hand_computed_case_of_mart() -> None:
    # p(x) is (1, e^-50) and p(x') is (e^-50, 1), for y = 0
    linear = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    linear.weight.data.copy_(torch.tensor([[0.0, -50.0], [-50.0, 0.0]]))
    model = nn.Sequential(nn.Flatten(), linear)
    pair = torch.eye(2, dtype=torch.float64).view(2, 1, 1, 2)
    batch = Batch(x=pair[:1], y=torch.tensor([0]), index=torch.arange(1))
    method = get_method("mart")
    loss = method.loss(make_state(method, model), batch, pair[1:])
    by_hand = 50 - math.log(1e-4 + 1e-12) + 6 * -math.log(1e-12) * 1e-7
    assert loss.item() == pytest.approx(by_hand, abs=1e-9)
