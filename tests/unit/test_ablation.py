"""The ablations of CAT: each is another method with one thing changed."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bench.errors import ConfigError
from bench.method import Batch
from bench.registry import get_method, method_class, parameters
from tests.harness import make_state, small_batch, small_net
from tests.unit.written import (
    EPS,
    assert_trains_as,
    attacked,
    dirichlet,
    five_steps,
    one_hot,
    soft_ce,
    uniform,
)

ALPHA = 10 * EPS


def plain_labels(y: Tensor, step: int) -> list[Tensor]:
    """Eq. 4 at eps_max, from the first two draws of the batch."""
    draws = dirichlet(len(y), 4, draws=2, step=step)
    return [(1 - ALPHA) * one_hot(y, 4) + ALPHA * v for v in draws]


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
    def written(model: nn.Module, batch: Batch, number: int) -> Tensor:
        before, after = plain_labels(batch.y, number)
        start = (batch.x + EPS * uniform(batch.x, number)).clamp(0, 1)
        x_adv = attacked(model, lambda x_adv: soft_ce(model(x_adv), before), batch.x, start,
                         radius=EPS, step=2 / 255, steps=10)  # fmt: skip
        return soft_ce(model(x_adv), after)

    state = assert_trains_as(get_method("adv-ls"), written)
    assert_close(state.examples["radius"].float(), torch.full((16,), EPS))  # never moves


def test_natural_ls_learns_soft_labels_without_an_attack() -> None:
    def written(model: nn.Module, batch: Batch, number: int) -> Tensor:
        return soft_ce(model(batch.x), plain_labels(batch.y, number)[0])

    method, batch = get_method("natural-ls"), small_batch()
    assert assert_trains_as(method, written).examples == {}
    assert_close(method.perturb(make_state(method, small_net()), batch), batch.x, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["adv-ls", "natural-ls"])
@pytest.mark.parametrize("eps", [8 / 255, 2 / 255])
def test_alpha_is_the_same_at_every_eps(name: str, eps: float) -> None:
    method = get_method(name, noise="uniform")
    state = make_state(method, small_net(), eps=eps)
    batch = small_batch()
    method.perturb(state, batch)
    wanted = (1 - ALPHA) * one_hot(batch.y, 4) + ALPHA / 4
    assert_close(state.scratch["label"], wanted, rtol=0, atol=1e-7)


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
