"""Free adversarial training against its replayed minibatch, written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from methods.free import Free
from tests.harness import make_state, small_batch, small_net
from tests.unit.written import EPS, LR, assert_trains_as


def plain_minibatch(model: nn.Module, d: Tensor, batch: Batch, replays: int) -> list[float]:
    """Moves model and d in place; returns the losses."""
    seen = []
    n = len(batch.y)
    for _ in range(replays):
        rows = d[:n].clone().requires_grad_()
        x_adv = torch.clamp(batch.x + rows, 0, 1)
        loss = F.cross_entropy(model(x_adv), batch.y)
        parameters = list(model.parameters())
        g_d, *gradients = torch.autograd.grad(loss, [rows, *parameters])
        d[:n] = torch.clamp(d[:n] + EPS * g_d.sign(), -EPS, EPS)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.data -= LR * gradient
        seen.append(loss.item())
    return seen


@pytest.mark.parametrize("replays", [1, 3])
def test_five_minibatches_are_those_of_the_paper_batchnorm_included(replays: int) -> None:
    d = torch.zeros(6, 2, 4, 4, dtype=torch.float64)

    def written(model: nn.Module, batch: Batch, number: int) -> Tensor:
        seen = plain_minibatch(model, d, batch, replays)
        return torch.tensor(seen, dtype=torch.float64).mean()

    # two epochs with an incomplete last minibatch
    batches = [small_batch(n, seed=seed) for seed, n in enumerate((6, 6, 2, 6, 1))]
    state = assert_trains_as(get_method("free", replays=replays), written, batches, moves=True)
    assert_close(state.memory["perturbation"], d, rtol=0, atol=1e-12)


def test_a_pixel_driven_out_of_range_keeps_its_perturbation() -> None:
    model, batch = small_net(), small_batch()
    x = batch.x.clone()
    x[:, 0], x[:, 1] = 1.0, 0.0
    method = Free(replays=1, step_size=1 / 255)
    state = make_state(method, model)
    d = torch.full_like(x, 2 / 255)
    state.memory["perturbation"] = d.clone()
    method.train_step(state, Batch(x, batch.y, batch.index))
    now = state.memory["perturbation"]
    assert_close(now[:, 0], d[:, 0], rtol=0, atol=0)
    assert ((now[:, 1] - d[:, 1]).abs() > 0.9 / 255).all()


def test_rows_of_the_perturbation_belong_to_places_in_a_minibatch() -> None:
    """A smaller one leaves the rows beyond it, a larger one keeps those that exist."""
    method = Free(replays=2)
    state = make_state(method, small_net())
    method.train_step(state, small_batch(6))
    before = state.memory["perturbation"].clone()
    assert before.abs().max() == pytest.approx(EPS)
    method.train_step(state, small_batch(2, seed=5))
    now = state.memory["perturbation"].clone()
    assert_close(now[2:], before[2:], rtol=0, atol=0)
    assert not torch.equal(now[:2], before[:2])
    larger = small_batch(8)
    x_adv = method.perturb(state, larger)
    assert_close(x_adv[:6], (larger.x[:6] + now).clamp(0, 1))
    assert_close(x_adv[6:], larger.x[6:])
    assert state.memory["perturbation"].shape == (8, 2, 4, 4)


def test_lengths_scale_with_eps() -> None:
    method = Free(replays=1, step_size=2 / 255)
    state = make_state(method, small_net(), eps=4 / 255)
    method.train_step(state, small_batch())
    assert state.memory["perturbation"].abs().max() == pytest.approx(1 / 255)
