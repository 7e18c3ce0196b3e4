"""Natural training, Madry AT, TRADES and MART against their procedures, written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.attacks import get_attack
from bench.method import Batch
from bench.registry import get_method
from bench.threat import REFERENCE_EPS, Threat
from tests.harness import make_state, small_batch, small_net
from tests.unit.test_method_losses import kl, mart_loss, trades
from tests.unit.written import (
    EPS,
    assert_same_training,
    assert_trains_as,
    attacked,
    gaussian,
    uniform,
)


def with_edges(n: int = 8) -> Batch:
    """A batch whose first two images are black and white."""
    batch = small_batch(n=n)
    batch.x[0], batch.x[1] = 0.0, 1.0
    return batch


def madry_attack(
    net: nn.Module, batch: Batch, eps: float, number: int = 0, steps: int = 10
) -> Tensor:
    """The start is clipped to the pixels."""
    start = (batch.x + eps * uniform(batch.x, number)).clamp(0, 1)
    loss = lambda x_adv: F.cross_entropy(net(x_adv), batch.y)  # noqa: E731
    step = 2 / 255 * eps / EPS
    return attacked(net, loss, batch.x, start, radius=eps, step=step, steps=steps)


def trades_attack(net: nn.Module, batch: Batch, eps: float, number: int = 0) -> Tensor:
    """p(x) anew at each step, as the authors do; the start is not clipped."""
    loss = lambda x_adv: kl(net(batch.x).softmax(1), net(x_adv).softmax(1)).sum()  # noqa: E731
    start, step = batch.x + gaussian(batch.x, number, eps=eps), 0.007 * eps / EPS
    return attacked(net, loss, batch.x, start, radius=eps, step=step, steps=10)


def mart_attack(net: nn.Module, batch: Batch, eps: float, number: int = 0) -> Tensor:
    loss = lambda x_adv: F.cross_entropy(net(x_adv), batch.y)  # noqa: E731
    start, step = batch.x + gaussian(batch.x, number, eps=eps), 0.007 * eps / EPS
    return attacked(net, loss, batch.x, start, radius=eps, step=step, steps=10)


ATTACKS = {"madry": madry_attack, "trades": trades_attack, "mart": mart_attack}


@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.1])
@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_is_the_written_out_one(name: str, eps: float) -> None:
    net, batch, method = small_net(), with_edges(), get_method(name)
    found = method.perturb(make_state(method, net, eps=eps), batch)
    assert net.training
    assert_close(found, ATTACKS[name](net, batch, eps), rtol=0, atol=1e-10)
    assert float((found - batch.x).abs().max()) == pytest.approx(eps, abs=1e-12)


@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.1])
@pytest.mark.parametrize("name", ["natural", *ATTACKS])
def test_five_steps_equal_the_plain_procedure(name: str, eps: float) -> None:
    def written(net: nn.Module, batch: Batch, number: int) -> Tensor:
        if name == "natural":
            return F.cross_entropy(net(batch.x), batch.y)
        x_adv = ATTACKS[name](net, batch, eps, number)
        if name == "madry":
            return F.cross_entropy(net(x_adv), batch.y)
        if name == "mart":
            return mart_loss(net, batch, x_adv, 6.0)
        loss = trades(net, batch, x_adv, {})
        net(batch.x)  # the authors' third forward, whose statistics count
        return loss

    state = assert_trains_as(get_method(name), written, eps=eps)
    forwards = {"natural": 1, "madry": 1, "trades": 3, "mart": 2}[name]
    assert state.model.state_dict()["bn.num_batches_tracked"] == 5 * forwards


def test_natural_training_leaves_the_images_alone() -> None:
    method, batch = get_method("natural"), small_batch()
    assert torch.equal(method.perturb(make_state(method, small_net()), batch), batch.x)


def test_without_a_ball_madry_is_natural_training() -> None:
    assert_same_training(get_method("madry"), get_method("natural"), atol=1e-12, eps=0)


@pytest.mark.parametrize(
    ("params", "moved"),
    [({"step_size": "1/255"}, 1 / 255), ({}, 2 / 255), ({"step_size": "16/255"}, 8 / 255)],
)
@pytest.mark.parametrize("eps", [REFERENCE_EPS, REFERENCE_EPS / 4])
def test_a_step_from_the_image_itself_is_one_step_long(
    params: dict[str, Any], moved: float, eps: float
) -> None:
    batch = small_batch()
    batch.x.clamp_(0.1, 0.9)
    method = get_method("madry", steps=1, start="zero", **params)
    change = (method.perturb(make_state(method, small_net(), eps=eps), batch) - batch.x).abs()
    expected = torch.full_like(change, moved * eps / REFERENCE_EPS)
    assert_close(change, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_the_gaussian_start_leaves_the_pixel_range(name: str) -> None:
    """The first gradient is taken there: clipping it away is a known slip."""
    net, batch, method = small_net(), small_batch(), get_method(name, steps=1)
    batch.x.copy_(batch.x.round())
    inputs: list[Tensor] = []
    net.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
    method.perturb(make_state(method, net), batch)
    assert len(inputs) == (2 if name == "trades" else 1)  # TRADES looks at the clean images first
    start = inputs[-1]
    assert float(start.min()) < 0
    assert float(start.max()) > 1
    assert 0.0005 < float((start - batch.x).std()) < 0.002


def test_the_attack_of_trades_is_blind_to_the_labels() -> None:
    batch, method = small_batch(), get_method("trades")
    first = method.perturb(make_state(method, small_net()), batch)
    batch.y.copy_((batch.y + 1) % 4)
    assert torch.equal(first, method.perturb(make_state(method, small_net()), batch))


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


def test_an_undefended_model_falls_and_a_trained_one_stands() -> None:
    """31 faint pixels that eps outweighs and one that it does not, on a linear model.

    Natural training weighs pixels by their strength s: the lead under attack is then
    proportional to sum s (s - eps) = 31 * 0.05 * (0.05 - 0.1) + 0.2 * (0.2 - 0.1) < 0.
    """
    g = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 2
    strength = torch.full((2, 4, 4), 0.05)
    strength[0, 0, 0] = 0.2
    strength[1] *= -1  # so that no weight goes into the common grey
    x = 0.5 + strength * (2.0 * y - 1).view(-1, 1, 1, 1)
    accuracy = {}
    for name in ("natural", "madry"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        method = get_method(name)
        state = make_state(method, net, num_classes=2, eps=0.1, lr=0.2)
        for _ in range(100):
            method.train_step(state, Batch(x=x, y=y, index=torch.arange(64)))
            state.next_batch()
        x_adv = get_attack("pgd-20")(net, x, y, Threat(eps=0.1), generator=g)
        with torch.no_grad():
            assert bool((net(x).argmax(1) == y).all())
            accuracy[name] = float((net(x_adv).argmax(1) == y).double().mean())
    assert accuracy == {"natural": 0, "madry": 1}
