"""The ablations of CAT: each is another method with one thing changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from bench.errors import ConfigError
from bench.method import Method, TrainState
from bench.registry import get_method, method_class, parameters
from bench.seeding import generator_for
from methods.ablation import AdvLS
from tests.harness import make_state, small_batch, small_net

LR = 0.05
EPS = 8 / 255
ALPHA = 10 * EPS


def five_steps(method: Method, seed: int = 0) -> TrainState:
    state = make_state(method, small_net(seed), lr=LR)
    for step in range(5):
        method.train_step(state, small_batch(seed=step % 2))
        state.next_batch()
    return state


def plain_labels(y: Tensor, step: int, draws: int) -> list[Tensor]:
    """Eq. 4 at eps_max, from normalised gammas of the stream of labels."""
    g = generator_for(0, "train", "labels", step)
    labels = []
    for _ in range(draws):
        gamma = torch._standard_gamma(torch.ones(len(y), 4), generator=g)
        v = (gamma / gamma.sum(1, keepdim=True)).double()
        labels.append((1 - ALPHA) * F.one_hot(y, 4).double() + ALPHA * v)
    return labels


def soft_ce(logits: Tensor, q: Tensor) -> Tensor:
    return -(q * F.log_softmax(logits, 1)).sum(1).mean()


@pytest.mark.parametrize(
    ("ablation", "params", "known", "known_params"),
    [
        ("adv-ls", {"c": 0.0}, "madry", {}),
        ("natural-ls", {"c": 0.0}, "natural", {}),
        ("adp-adv", {}, "cat-ce", {"c": 0.0}),
    ],
)
def test_each_is_a_known_method_at_hard_labels(
    ablation: str, params: dict[str, float], known: str, known_params: dict[str, float]
) -> None:
    first = five_steps(get_method(ablation, **params))
    second = five_steps(get_method(known, **known_params))
    assert_close(first.model.state_dict(), second.model.state_dict(), rtol=0, atol=1e-10)
    if known == "cat-ce":
        assert_close(first.examples, second.examples, rtol=0, atol=0)
        assert first.examples["radius"].max() > 0


def test_adv_ls_attacks_one_draw_and_learns_another() -> None:
    model = small_net()
    plain = copy.deepcopy(model)
    method = get_method("adv-ls")
    state = make_state(method, model, lr=LR)
    for step in range(5):
        batch = small_batch(seed=step)
        method.train_step(state, batch)
        state.next_batch()
        before, after = plain_labels(batch.y, step, 2)
        g = generator_for(0, "train", "start", step)
        noise = torch.empty_like(batch.x).uniform_(-1, 1, generator=g)
        x_adv = (batch.x + EPS * noise).clamp(0, 1)
        plain.eval()
        for _ in range(10):
            x_adv.requires_grad_()
            (grad,) = torch.autograd.grad(soft_ce(plain(x_adv), before), x_adv)
            x_adv = x_adv.detach() + 2 / 255 * grad.sign()
            x_adv = torch.min(torch.max(x_adv, batch.x - EPS), batch.x + EPS).clamp(0, 1)
        plain.train()
        loss = soft_ce(plain(x_adv), after)
        parameters = list(plain.parameters())
        for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= LR * grad
    assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=1e-10)


def test_natural_ls_learns_soft_labels_without_an_attack() -> None:
    model = small_net()
    plain = copy.deepcopy(model)
    method = get_method("natural-ls")
    state = make_state(method, model, lr=LR)
    assert state.examples == {}
    for step in range(5):
        batch = small_batch(seed=step)
        x_adv = method.perturb(state, batch)
        assert_close(x_adv, batch.x, rtol=0, atol=0)
        loss = method.loss(state, batch, x_adv)
        state.backward(loss)
        state.step()
        state.next_batch()
        wanted = soft_ce(plain(batch.x), plain_labels(batch.y, step, 1)[0])
        assert_close(loss, wanted, rtol=0, atol=1e-10)
        parameters = list(plain.parameters())
        for parameter, grad in zip(
            parameters, torch.autograd.grad(wanted, parameters), strict=True
        ):
            parameter.data -= LR * grad
    assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["adv-ls", "natural-ls"])
@pytest.mark.parametrize("eps", [8 / 255, 2 / 255])
def test_alpha_is_the_same_at_every_eps(name: str, eps: float) -> None:
    method = get_method(name, noise="uniform")
    state = make_state(method, small_net(), eps=eps)
    batch = small_batch()
    method.perturb(state, batch)
    wanted = (1 - ALPHA) * F.one_hot(batch.y, 4).double() + ALPHA / 4
    assert_close(state.scratch["label"], wanted, rtol=0, atol=1e-7)


def test_the_radius_of_adv_ls_never_moves() -> None:
    state = five_steps(AdvLS())
    assert_close(state.examples["radius"], torch.full((16,), EPS))


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("adv-ls", {"eta", "adaptive", "cap_before", "any_iterate", "per_view"}),
        ("adp-adv", {"c", "reuse_draw", "dir_beta"}),
        ("natural-ls", {"steps", "step_size", "start", "attack_bn", "eta", "adaptive"}),
    ],
)
def test_what_makes_no_difference_is_no_parameter(name: str, gone: set[str]) -> None:
    left = set(parameters(method_class(name)))
    assert not gone & left
    assert left <= set(parameters(method_class("cat-ce"))) | {"noise"}
    with pytest.raises(ConfigError, match="unknown parameter"):
        get_method(name, **{next(iter(gone)): 0})


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("adv-ls", {"steps": 0}, "steps = 0 is out of range: at least 1"),
        ("adv-ls", {"c": 40.0}, "c may be at most 31.87"),
        ("adp-adv", {"eta": -1.0}, "eta = -1.0 is out of range: at least 0"),
        ("natural-ls", {"dir_beta": 0.0}, "dir_beta = 0.0 is out of range: above 0"),
        ("natural-ls", {"noise": "none"}, "use dirichlet or uniform"),
    ],
)
def test_bad_values_are_refused(name: str, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_method(name, **bad)
