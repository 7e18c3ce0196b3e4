"""Free adversarial training against its replayed minibatch, written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from tests.harness import small_batch
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
    d = torch.zeros(8, 2, 4, 4, dtype=torch.float64)

    def written(model: nn.Module, batch: Batch, number: int) -> Tensor:
        seen = plain_minibatch(model, d, batch, replays)
        return torch.tensor(seen, dtype=torch.float64).mean()

    # incomplete minibatches, a larger one, and pixels that the perturbation drives out of range
    batches = [small_batch(n, seed=seed) for seed, n in enumerate((6, 6, 2, 8, 1))]
    for batch in batches:
        batch.x[:, 0, 0], batch.x[:, 1, 0] = 1.0, 0.0
    state = assert_trains_as(get_method("free", replays=replays), written, batches, moves=True)
    assert_close(state.memory["perturbation"], d, rtol=0, atol=1e-12)
