"""Fast adversarial training against its procedure, and the guard on accuracies known by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch, Method, TrainState
from bench.registry import get_method
from tests.harness import OnePixel, PlainStepper, make_state, small_batch, small_net
from tests.unit.written import LR, descend, shuffled, uniform

PIXEL = 1 / 255


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
    state.model = nn.Module()  # has no forward: frozen steps compute nothing
    assert method.train_step(state, ladder())["frozen"] == 1
    method.end_epoch(state)
    assert set(state.memory) == {"guard_accuracy", "guard_loss", "frozen"}


@pytest.mark.parametrize("max_drop", [0.5, 1.0])
def test_the_limit_is_a_parameter_and_1_is_no_guard(max_drop: float) -> None:
    method = get_method("fast", max_drop=max_drop)
    state = make_state(method, OnePixel(), lr=0)
    for robust, kept in ((10, 10), (6, 6), (10, 10), (0, 10 if max_drop < 1 else 0)):
        one_epoch(method, state, robust)
        assert edge(state) == edge_at(kept)
    assert ("frozen" in state.memory) is (max_drop < 1)
    assert bool(state.memory) is (max_drop < 1)


def plain_pgd(
    model: nn.Module, batch: Batch, noise: Tensor, eps: float, step: float, n: int
) -> Tensor:
    """From a clipped uniform start; an image that is misclassified stops."""
    delta = (batch.x + eps * noise).clamp(0, 1) - batch.x
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
    eps = 8 * PIXEL * unit
    method = get_method("fast", attack_bn=mode, max_drop=0.99)  # watches, and never freezes
    model, pool = small_net(), small_batch(16)
    other = copy.deepcopy(model)
    state = make_state(method, model, eps=eps, lr=LR, seed=3)
    number = 0
    for epoch in range(2):
        state.epoch = epoch
        batches = list(shuffled(pool, (5, 5, 5, 1), seed=epoch))
        for batch in batches:
            other.train(mode == "train")
            noise = uniform(batch.x, number, seed=3)
            x_adv = plain_pgd(other, batch, noise, eps, 10 * PIXEL * unit, 1)
            loss = F.cross_entropy(other.train()(x_adv), batch.y)
            descend(other, loss)
            assert_close(method.train_step(state, batch)["loss"], loss.detach(), atol=1e-10, rtol=0)
            state.next_batch()
            number += 1
        first = batches[0]
        other.train(mode == "train")
        noise = uniform(first.x, number, seed=3, purpose="guard")
        logits = other(plain_pgd(other, first, noise, eps, 2 * PIXEL * unit, 5)).detach()
        other.train()
        method.end_epoch(state)
        accuracy = (logits.argmax(1) == first.y).double().mean()
        assert_close(state.memory["guard_accuracy"], accuracy)
        loss = F.cross_entropy(logits, first.y)
        assert_close(state.memory["guard_loss"], loss, atol=1e-10, rtol=0)
    kept = {name: state.memory[f"kept.{name}"] for name in other.state_dict()}
    assert_close(model.state_dict(), other.state_dict(), atol=1e-10, rtol=0)
    assert_close(kept, dict(other.state_dict()), atol=1e-10, rtol=0)


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
    assert_close(model.state_dict(), kept, atol=0, rtol=0)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
