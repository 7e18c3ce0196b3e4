"""Fast adversarial training against its procedure, and the guard on accuracies known by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.errors import ConfigError
from bench.method import Batch, Method, TrainState
from bench.registry import get_method
from bench.seeding import generator_for
from tests.harness import PlainStepper, make_state, small_batch, small_net

LR = 0.05
PIXEL = 1 / 255


class OnePixel(nn.Module):
    """Logits 0 and 10 (x - edge)."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        z = 10 * (x.flatten(1) - self.edge)
        return torch.cat([torch.zeros_like(z), z], dim=1)


def ladder() -> Batch:
    """Ten images of class 1, eight 255ths apart."""
    x = 0.3 + 8 * PIXEL * torch.arange(10, dtype=torch.float64).view(-1, 1, 1, 1)
    return Batch(x=x, y=torch.ones(10, dtype=torch.long), index=torch.arange(10))


def edge_at(robust: int) -> float:
    """The edge 9/255 below the least of the `robust` upper images, and 1/255 below the next.

    PGD of five steps of 2/255 within 8/255 fails on the former and succeeds on the latter,
    wherever it starts.
    """
    return 0.3 + 8 * PIXEL * (10 - robust) - 9 * PIXEL


def one_epoch(method: Method, state: TrainState, robust: int) -> dict[str, float]:
    """Two batches, after which the network is robust on this many images of the first."""
    wrong = Batch(x=torch.zeros(1, 1, 1, 1).double(), y=torch.ones(1).long(), index=torch.arange(1))
    for batch in (ladder(), wrong):
        logs = method.train_step(state, batch)
        state.next_batch()
    if "frozen" not in state.memory:
        state.model.get_parameter("edge").data.fill_(edge_at(robust))
    method.end_epoch(state)
    state.epoch += 1
    return {name: value.item() for name, value in logs.items()}


def edge(state: TrainState) -> float:
    return state.model.get_parameter("edge").item()


def test_a_fall_beyond_the_limit_restores_the_previous_weights_and_freezes() -> None:
    method = get_method("fast")
    state = make_state(method, OnePixel(), lr=0)
    for robust in (5, 9, 8, 7, 10, 9):  # slow falls are accepted, however far they lead
        assert one_epoch(method, state, robust)["frozen"] == 0
        assert edge(state) == edge_at(robust)
        assert state.memory["guard_accuracy"].item() == pytest.approx(robust / 10)
    assert one_epoch(method, state, 6)["frozen"] == 0
    assert edge(state) == edge_at(9)  # the previous epoch's, not the best one's
    state.stepper = PlainStepper(state.model, lr=1.0)
    for _ in range(2):
        logs = one_epoch(method, state, 3)
        assert logs["frozen"] == 1
        assert logs["loss"] == state.memory["guard_loss"].item() > 0
        assert edge(state) == edge_at(9)


def test_frozen_steps_compute_nothing() -> None:
    method = get_method("fast")
    state = make_state(method, OnePixel(), lr=0)
    one_epoch(method, state, 9)
    one_epoch(method, state, 2)
    state.model = nn.Module()  # has no forward
    logs = method.train_step(state, ladder())
    method.end_epoch(state)
    assert logs["frozen"] == 1
    assert set(state.memory) == {"guard_accuracy", "guard_loss", "frozen"}


def test_the_defaults_are_those_of_the_code() -> None:
    assert get_method("fast") == get_method("fast", step_size=10 / 255, max_drop=0.2)


@pytest.mark.parametrize("max_drop", [0.5, 1.0])
def test_the_limit_is_a_parameter_and_1_is_no_guard(max_drop: float) -> None:
    method = get_method("fast", max_drop=max_drop)
    state = make_state(method, OnePixel(), lr=0)
    for robust, kept in ((10, 10), (6, 6), (10, 10), (0, 10 if max_drop < 1 else 0)):
        one_epoch(method, state, robust)
        assert edge(state) == edge_at(kept)
    assert ("frozen" in state.memory) is (max_drop < 1)
    assert bool(state.memory) is (max_drop < 1)


def test_a_resumed_training_takes_the_same_way_back() -> None:
    method = get_method("fast")
    state = make_state(method, OnePixel(), lr=0)
    one_epoch(method, state, 8)
    method.train_step(state, ladder())  # the first batch of the epoch, then an interruption
    state.next_batch()
    resumed = make_state(method, copy.deepcopy(state.model), lr=0)
    resumed.memory = {name: tensor.clone() for name, tensor in state.memory.items()}
    resumed.batch_number, resumed.epoch = state.batch_number, state.epoch
    one_epoch(method, resumed, 3)
    assert edge(resumed) == edge_at(8)
    assert "frozen" in resumed.memory


def plain_pgd(
    model: nn.Module, batch: Batch, eps: float, step: float, n: int, g: torch.Generator
) -> Tensor:
    """From a clipped uniform start; an image that is misclassified stops."""
    delta = eps * torch.empty_like(batch.x).uniform_(-1, 1, generator=g)
    delta = (batch.x + delta).clamp(0, 1) - batch.x
    for number in range(n):
        delta.requires_grad_()
        logits = model(batch.x + delta)
        (grad,) = torch.autograd.grad(F.cross_entropy(logits, batch.y), delta)
        moved = (delta.detach() + step * grad.sign()).clamp(-eps, eps)
        moved = (batch.x + moved).clamp(0, 1) - batch.x
        going = (logits.argmax(1) == batch.y) | (number == 0 and n == 1)
        delta = torch.where(going.view(-1, 1, 1, 1), moved, delta.detach())
    return batch.x + delta


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("unit", [1.0, 4.0])
def test_two_epochs_equal_the_plain_procedure(mode: str, unit: float) -> None:
    eps = 8 / 255 * unit
    method = get_method("fast", attack_bn=mode, max_drop=0.99)  # watches, and never freezes
    model, pool = small_net(), small_batch(16)
    other = copy.deepcopy(model)
    state = make_state(method, model, eps=eps, lr=LR, seed=3)
    number = 0
    for epoch in range(2):
        state.epoch = epoch
        order = torch.randperm(16, generator=torch.Generator().manual_seed(epoch))
        first = Batch(x=pool.x[order[:5]], y=pool.y[order[:5]], index=order[:5])
        for index in torch.split(order, 5):  # 5, 5, 5, 1
            batch = Batch(x=pool.x[index], y=pool.y[index], index=index)
            g = generator_for(3, "train", "start", number)
            other.train(mode == "train")
            x_adv = plain_pgd(other, batch, eps, 10 / 255 * unit, 1, g)
            other.train()
            loss = F.cross_entropy(other(x_adv), batch.y)
            grads = torch.autograd.grad(loss, list(other.parameters()))
            for parameter, grad in zip(other.parameters(), grads, strict=True):
                parameter.data -= LR * grad
            assert_close(method.train_step(state, batch)["loss"], loss.detach(), atol=1e-10, rtol=0)
            state.next_batch()
            number += 1
        other.train(mode == "train")
        g = generator_for(3, "train", "guard", number)
        logits = other(plain_pgd(other, first, eps, 2 / 255 * unit, 5, g)).detach()
        other.train()
        method.end_epoch(state)
        accuracy = (logits.argmax(1) == first.y).double().mean()
        assert_close(state.memory["guard_accuracy"], accuracy)
        loss = F.cross_entropy(logits, first.y)
        assert_close(state.memory["guard_loss"], loss, atol=1e-10, rtol=0)
    for name, value in other.state_dict().items():
        assert_close(model.state_dict()[name], value, atol=1e-10, rtol=0)
        assert_close(state.memory[f"kept.{name}"], value, atol=1e-10, rtol=0)


def test_the_way_back_includes_batchnorm_and_ends_where_the_weights_live() -> None:
    method, model = get_method("fast", max_drop=0.0), small_net()
    state = make_state(method, model, lr=0.5)
    method.train_step(state, small_batch())
    state.memory["guard_accuracy"] = torch.tensor(0.0)
    method.end_epoch(state)
    kept = copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    method.train_step(state, small_batch())
    state.memory["guard_accuracy"] = torch.tensor(2.0)
    assert any(not torch.equal(model.state_dict()[name], kept[name]) for name in kept)
    method.end_epoch(state)
    for name, value in model.state_dict().items():
        assert_close(value, kept[name], atol=0, rtol=0)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


def test_loss_and_gradients_are_those_of_the_formula() -> None:
    method = get_method("fast")
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    other = copy.deepcopy(model)
    state = make_state(method, model, lr=0)
    x_adv = (batch.x + 0.3 * torch.randn(batch.x.shape)).clamp(0, 1)
    loss = method.loss(state, batch, x_adv)
    state.backward(loss)
    p = other(x_adv).softmax(1)
    expected = -torch.stack([p[i, y].log() for i, y in enumerate(batch.y.tolist())]).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    assert_close(loss, expected, atol=1e-5, rtol=0)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("mode", "attack", "guard"), [("eval", 0, 0), ("train", 1, 6)])
def test_batchnorm_statistics_move_in_train_mode_only(mode: str, attack: int, guard: int) -> None:
    method, model, batch = get_method("fast", attack_bn=mode), small_net(), small_batch()
    state = make_state(method, model, lr=0)
    x_adv = method.perturb(state, batch)
    assert model.bn.num_batches_tracked == attack
    model.bn.reset_running_stats()
    method.loss(state, batch, x_adv)
    mean = 0.1 * model.conv(x_adv).mean((0, 2, 3)).detach()
    assert_close(model.bn.running_mean, mean, atol=1e-12, rtol=0)
    model.bn.reset_running_stats()
    method.end_epoch(state)
    assert model.bn.num_batches_tracked == guard
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("step_size", 0, "above 0"),
        ("step_size", -1, "above 0"),
        ("step_size", "long", "a number"),
        ("max_drop", -0.1, "0 to 1"),
        ("max_drop", 20, "0 to 1"),
        ("max_drop", math.nan, "a number"),
        ("attack_bn", "both", "eval or train"),
        ("alpha", 10 / 255, "Known: attack_bn, max_drop, step_size"),
    ],
)
def test_bad_parameters_are_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=name) as refusal:
        get_method("fast", **{name: value})
    assert allowed in str(refusal.value)
