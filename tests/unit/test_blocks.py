"""A model in blocks gives what the model gives, to the bit, whatever the blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.archs.fast import filled
from bench.attacks.blocks import MIN_ROWS, Blocked
from bench.evaluation.prediction import predictions
from tests.harness import small_batch, small_net


class Counted(nn.Module):
    """Records the rows of each call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        logits: Tensor = self.model(x)
        return logits


@pytest.mark.parametrize(
    ("n", "batch_size", "rows"),
    [
        (64, 64, [64]),
        (64, 32, [32, 32]),
        (70, 32, [32, 32, 16]),
        (17, 16, [16, 16]),
        (5, 64, [5]),
        (1, 64, [1]),
        (16, 1, [16]),
        (40, 1, [16, 16, 16]),
        (0, 64, [0]),
    ],
)
def test_the_last_of_several_blocks_has_the_least_rows_and_none_more_than_a_block(
    n: int, batch_size: int, rows: list[int]
) -> None:
    counted = Counted(small_net(dtype=torch.float32).eval())
    blocked = Blocked(counted, batch_size)
    x = small_batch(n=n, dtype=torch.float32).x
    assert blocked(x).shape == (n, 4)
    assert counted.rows == rows
    assert MIN_ROWS == 16


def test_logits_do_not_depend_on_the_blocks() -> None:
    net = small_net(dtype=torch.float32).eval()
    x = small_batch(n=61, dtype=torch.float32).x
    with torch.no_grad():
        whole = net(x)
        for batch_size in (16, 17, 32, 61, 1000):
            assert torch.equal(Blocked(net, batch_size)(x), whole)
        for rows in (1, 15, 16, 17, 33):
            alone = net(x[:rows])
            for batch_size in (1, 16, 32):
                assert torch.equal(Blocked(net, batch_size)(x[:rows]), alone)


def test_an_image_is_judged_alike_whichever_are_beside_it() -> None:
    counted = Counted(small_net(dtype=torch.float32).eval())
    batch = small_batch(n=61, dtype=torch.float32)
    with torch.no_grad():
        whole = counted(batch.x)
        right, _ = predictions(counted, batch.x, batch.y)
        for rows in (1, 2, 3, 15, 16, 33):
            assert torch.equal(counted(filled(batch.x[:rows], MIN_ROWS))[:rows], whole[:rows])
            alone, _ = predictions(counted, batch.x[:rows], batch.y[:rows])
            assert torch.equal(alone, right[:rows])
        none, _ = predictions(counted, batch.x[:0], batch.y[:0])
    assert len(none) == 0
    assert set(counted.rows) == {0, MIN_ROWS, 33, 61}


def test_the_padding_carries_no_gradient() -> None:
    net = small_net().eval()
    x = small_batch(n=19).x.requires_grad_()
    (found,) = torch.autograd.grad(Blocked(net, 16)(x).square().sum(), x)
    (expected,) = torch.autograd.grad(net(x).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [3, 16, 40])
def test_logits_have_storage_of_their_own(n: int) -> None:
    """Square writes into them; here they are a view of the images."""
    x = torch.rand(n, 4, 1, 1)
    before = x.clone()
    Blocked(nn.Flatten(), 16)(x).fill_(-torch.inf)
    assert torch.equal(x, before)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_the_models_and_a_frozen_layer_stays_frozen(training: bool) -> None:
    net = small_net().train(training)
    net.bn.eval()
    blocked = Blocked(net, 16)
    assert blocked.training == net.training == training
    assert not net.bn.training
