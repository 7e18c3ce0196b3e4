"""AWP and MLCAT-WP against the procedures of their papers, on real copies of the network."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.errors import ConfigError
from bench.method import Batch, TrainState
from bench.registry import get_method, method_class, parameters
from bench.threat import Threat
from methods.awp import AWP, layerwise_ascent
from methods.cat import CatCE
from methods.madry import Madry
from methods.mlcat import MLCAT
from methods.natural import Natural
from methods.trades import Trades
from tests.harness import PlainStepper, make_state, small_batch, small_net
from tests.unit.written import (
    EPS,
    assert_same_training,
    assert_trains_as,
    attacked,
    descend,
    gaussian,
    kl,
    madry_attack,
    trades_loss,
)

Loss = Callable[[nn.Module, Batch, Tensor], Tensor]


def plain_ce(model: nn.Module, batch: Batch, x_adv: Tensor) -> Tensor:
    return F.cross_entropy(model(x_adv), batch.y)


def kl_attack(model: nn.Module, batch: Batch, eps: float, number: int) -> Tensor:
    """That of TRADES, with steps of 2/255."""

    def loss(x_adv: Tensor) -> Tensor:
        return kl(model(batch.x).softmax(1).detach(), model(x_adv).softmax(1)).sum()

    start = batch.x + gaussian(batch.x, number)
    return attacked(model, loss, batch.x, start, radius=eps, step=2 / 255, steps=10)


def plain_awp(model: nn.Module, batch: Batch, x_adv: Tensor, loss: Loss, gamma: float) -> Tensor:
    """The authors' order, with a copy of the network and one step of SGD on it."""
    proxy = copy.deepcopy(model).train()
    descend(proxy, -loss(proxy, batch, x_adv), lr=0.01)
    stepped = dict(proxy.named_parameters())
    by = {}
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "weight" in name:
            change = stepped[name].detach() - weight.detach()
            by[name] = gamma * weight.detach().norm() / (change.norm() + 1e-20) * change
            weight.data += by[name]
    reached = loss(model, batch, x_adv)
    descend(model, reached)
    for name, weight in model.named_parameters():
        if name in by:
            weight.data -= by[name]
    return reached


CASES: dict[str, tuple[Any, Loss, float]] = {
    "awp-madry": (madry_attack, plain_ce, 0.01),
    "awp-trades": (kl_attack, trades_loss, 0.005),
}


@pytest.mark.parametrize("name", CASES)
def test_five_steps_are_those_of_the_paper_batchnorm_included(name: str) -> None:
    attack, loss, gamma = CASES[name]

    def written(model: nn.Module, batch: Batch, number: int) -> Tensor:
        return plain_awp(model, batch, attack(model, batch, EPS, number), loss, gamma)

    assert_trains_as(get_method(name), written, moves=True)


def test_without_a_perturbation_it_is_the_method_itself() -> None:
    assert_same_training(get_method("awp-madry", gamma=0.0), Madry())
    assert_same_training(get_method("awp-trades", gamma=0.0), Trades(step_size=2 / 255))


def test_the_perturbed_weights_meet_the_update_and_are_restored_once() -> None:
    model, batch = small_net(), small_batch()
    method = AWP(base=Natural(), gamma=0.05)
    state = make_state(method, model)
    before = copy.deepcopy(dict(model.named_parameters()))
    by = layerwise_ascent(Natural(), state, batch, batch.x, 0.05)
    seen: list[dict[str, Tensor]] = []

    class Failing(PlainStepper):
        def step(self) -> None:
            seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
            raise RuntimeError("the step fails")

    state.stepper = Failing(model)
    with pytest.raises(RuntimeError, match="the step fails"):
        method.train_step(state, batch)
    for name, parameter in before.items():
        assert_close(seen[0][name], parameter.detach() + by.get(name, 0), rtol=0, atol=1e-14)
    assert_close(dict(model.named_parameters()), before, rtol=0, atol=1e-14)


def test_the_warm_up_is_a_share_of_the_training_and_counts_epochs_from_one() -> None:
    """10 of 200 epochs are 3 of 60: the third is the first with AWP."""
    ends = []
    for epoch in range(4):
        for method in (get_method("awp-trades", steps=1), Trades(steps=1, step_size=2 / 255)):
            state = make_state(method, small_net(), n_epochs=60)
            state.epoch = epoch
            method.train_step(state, small_batch())
            ends.append(state.model.get_parameter("conv.weight"))
    moved = [not torch.equal(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    assert moved == [False, False, True, True]


def test_radii_and_labels_are_settled_before_the_weights_move() -> None:
    wrapped, plain = AWP(base=CatCE(), gamma=0.5), CatCE()
    states = [make_state(method, small_net()) for method in (wrapped, plain)]
    for method, state in zip((wrapped, plain), states, strict=True):
        batch = small_batch()
        state.model.eval()
        right = state.model(batch.x).argmax(1)
        state.model.train()
        y = torch.where(batch.index < 4, right, batch.y)
        method.train_step(state, Batch(batch.x, y, batch.index))
    assert states[0].examples["radius"].max() > 0
    assert_close(states[0].examples["radius"], states[1].examples["radius"], rtol=0, atol=0)
    assert_close(states[0].scratch, states[1].scratch, rtol=0, atol=0)
    first, second = (state.model.state_dict()["fc.weight"] for state in states)
    assert not torch.equal(first, second)


def test_what_a_method_keeps_is_still_its_own() -> None:
    calls: list[str] = []

    @dataclass(frozen=True, kw_only=True)
    class Base(Natural):
        def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
            return {"mine": torch.full((n,), threat.eps)}

        def end_epoch(self, state: TrainState) -> None:
            calls.append("end_epoch")

        def eval_model(self, state: TrainState) -> nn.Module:
            return averaged

        def validate(self, threat: Threat, num_classes: int) -> None:
            calls.append(f"validate {num_classes}")

    averaged = nn.Linear(1, 1)
    method = AWP(base=Base())
    state = make_state(method, small_net(), n=3, eps=0.25)
    assert state.examples["mine"].tolist() == [0.25] * 3
    method.end_epoch(state)
    method.validate(state.threat, 7)
    assert calls == ["end_epoch", "validate 7"]
    assert method.eval_model(state) is averaged


def test_parameters_are_flat() -> None:
    for name in ("awp-madry", "awp-trades"):
        assert "base" not in parameters(method_class(name))
    method = get_method("awp-trades", beta=2.0, steps=3)
    assert method.base == Trades(beta=2.0, steps=3, step_size=2 / 255)  # type: ignore[attr-defined]


def test_a_method_with_its_own_step_cannot_be_wrapped() -> None:
    with pytest.raises(ConfigError, match="cannot wrap AWP, which has a training step"):
        AWP(base=AWP(base=Natural()))


LAYERS = ("conv.weight", "fc.weight")


def plain_perturbation(
    model: nn.Module, x_adv: Tensor, y: Tensor, threshold: float, gamma: float, ascents: int
) -> dict[str, Tensor]:
    """A fresh copy of the network for every step of SGD, as the authors load one."""
    weights = {n: p.detach() for n, p in model.named_parameters() if n in LAYERS}
    total = {n: torch.zeros_like(w) for n, w in weights.items()}
    by = {n: torch.zeros_like(w) for n, w in weights.items()}
    for _ in range(ascents):
        proxy = copy.deepcopy(model).train()
        named = dict(proxy.named_parameters())
        for n in LAYERS:
            named[n].data += by[n]
        each = F.cross_entropy(proxy(x_adv), y, reduction="none")
        small = [i for i in range(len(y)) if each[i] < threshold]
        loss = each[small].sum() / len(y)
        gradients = torch.autograd.grad(-loss, [named[n] for n in LAYERS])
        for n, gradient in zip(LAYERS, gradients, strict=True):
            total[n] = total[n] - 0.01 * gradient
        length = torch.cat([w.flatten() for w in weights.values()]).norm()
        reached = torch.cat([t.flatten() for t in total.values()]).norm()
        by = {n: gamma * length / (reached + 1e-20) * total[n] for n in LAYERS}
    return by


@pytest.mark.parametrize("ascents", [1, 10])
def test_five_steps_of_mlcat_are_those_of_the_paper(ascents: int) -> None:
    chosen = []

    def written(model: nn.Module, batch: Batch, number: int) -> Tensor:
        x_adv = madry_attack(model, batch, EPS, number)
        by = plain_perturbation(model, x_adv, batch.y, 1.4, 0.05, ascents)
        each = F.cross_entropy(copy.deepcopy(model)(x_adv), batch.y, reduction="none")
        chosen.append(float((each < 1.4).float().mean()))
        named = dict(model.named_parameters())
        for n in LAYERS:
            named[n].data += by[n]
        loss = F.cross_entropy(model(x_adv), batch.y)
        descend(model, loss)
        for n in LAYERS:
            named[n].data -= by[n]
        return loss

    method = get_method("mlcat-wp", threshold=1.4, gamma=0.05, ascents=ascents)
    assert_trains_as(method, written, moves=True)
    assert any(0 < share < 1 for share in chosen)


@pytest.mark.parametrize("params", [{"gamma": 0.0}, {"threshold": 0.0}, {"warmup": 1.0}])
def test_mlcat_without_a_perturbation_is_madry(params: dict[str, float]) -> None:
    assert_same_training(MLCAT(**params), Madry())  # type: ignore[arg-type]
