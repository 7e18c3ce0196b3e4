"""MLCAT-WP against the procedure of its paper, on real copies of the network."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from methods.madry import Madry
from methods.mlcat import MLCAT
from tests.harness import make_state, small_batch, small_net
from tests.unit.test_pgd_methods import madry_attack
from tests.unit.written import EPS, assert_same_training, assert_trains_as, descend

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
def test_five_steps_are_those_of_the_paper_batchnorm_included(ascents: int) -> None:
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


def test_one_ascent_in_single_precision_at_a_fixed_x_adv() -> None:
    model, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    each = F.cross_entropy(copy.deepcopy(model)(batch.x), batch.y, reduction="none")
    threshold = float(each.detach().median()) + 1e-3
    method = MLCAT(threshold=threshold, ascents=1)
    by = method.ascent(make_state(method, model), batch, batch.x)
    wanted = plain_perturbation(model, batch.x, batch.y, threshold, 0.01, 1)
    assert_close(by, wanted, rtol=0, atol=1e-5)
    assert max(float(step.abs().max()) for step in wanted.values()) > 1e-3


def test_all_layers_together_move_by_gamma_of_their_norm() -> None:
    model, batch = small_net(), small_batch()
    method = MLCAT(threshold=10.0, gamma=0.02)
    by = method.ascent(make_state(method, model), batch, batch.x)
    weights = [p for n, p in model.named_parameters() if n in LAYERS]
    length = torch.cat([w.detach().flatten() for w in weights]).norm().item()
    reached = torch.cat([step.flatten() for step in by.values()]).norm().item()
    assert reached == pytest.approx(0.02 * length)
    assert set(by) == set(LAYERS)


@pytest.mark.parametrize("params", [{"gamma": 0.0}, {"threshold": 0.0}, {"warmup": 1.0}])
def test_without_a_perturbation_it_is_madry(params: dict[str, float]) -> None:
    assert_same_training(MLCAT(**params), Madry())  # type: ignore[arg-type]
