"""Bilateral adversarial training against its formulas, written out image by image."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from tests.harness import make_state, small_batch
from tests.unit.written import FOUR_BATCHES, assert_trains_as, attacked, shuffled, soft_ce, uniform


def plain_label(p: list[float], y: int, ratio: float, gamma: float) -> list[float]:
    surprise = [-math.log(one + 1e-8) for one in p]
    others = [k for k in range(len(p)) if k != y]
    a, b = min(surprise[k] for k in others), max(surprise[k] for k in others)
    d = sum(surprise[k] - a + gamma for k in others)
    share = 1 / (1 + ratio * (b - a + gamma) / d)
    return [1 - share if k == y else share * (surprise[k] - a + gamma) / d for k in range(len(p))]


class Given(nn.Module):
    """Logits that do not depend on the image, apart from a trace of its sum."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        slope = torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=x.dtype)
        return self.logits.expand(len(x), -1) + 1e-9 * x.flatten(1).sum(1)[:, None] * slope


def test_the_label_of_a_hand_computed_case() -> None:
    p = [0.7, 0.2, 0.08, 0.02]
    method, model = get_method("bilateral"), Given([math.log(one) for one in p])
    state = make_state(method, model)
    batch = Batch(x=small_batch(2).x, y=torch.tensor([0, 1]), index=torch.arange(2))
    method.perturb(state, batch)
    label = state.scratch["label"]
    # y = 0: log(0.2 / p_k) + 0.01 is 0.01, 0.926291, 2.312585, together 3.248876;
    # share = 1 / (1 + 9 * 2.312585 / 3.248876) = 0.135020
    by_hand = torch.tensor([0.864980, 0.000416, 0.038496, 0.096109], dtype=torch.float64)
    assert_close(label[0], by_hand, atol=1e-6, rtol=0)
    # y = 1, which the model gets wrong: the same rule, against the classes 0, 2, 3
    expected = torch.tensor(plain_label(p, 1, 9.0, 0.01), dtype=torch.float64)
    assert_close(label[1], expected, atol=1e-7, rtol=0)
    assert_close(label.sum(1), torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0)
    for row, y in zip(label, [0, 1], strict=True):
        others = torch.cat([row[:y], row[y + 1 :]])
        assert_close(row[y], 9 * others.max(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_five_steps_equal_the_plain_procedure(eps: float) -> None:
    pool = small_batch(16)
    pool.x[:, 0, 0, 0] = 0.0  # so that every start leaves the pixel range
    pool.x[:, 0, 0, 1] = 1.0
    pool.x[:, 0, 1] = 1.0

    def written(model: nn.Module, batch: Batch, number: int) -> Tensor:
        model.eval()
        logits = model(batch.x).detach()
        labels, targets = [], []
        for z, y in zip(logits, batch.y.tolist(), strict=True):
            labels.append(plain_label(z.softmax(0).tolist(), y, 9.0, 0.01))
            targets.append(max((k for k in range(len(z)) if k != y), key=z.tolist().__getitem__))
        start = batch.x + eps * uniform(batch.x, number, seed=3)
        assert start.max() > 1 or start.min() < 0  # the start is not clipped

        def loss(x_adv: Tensor) -> Tensor:
            return -F.cross_entropy(model(x_adv), torch.tensor(targets), reduction="sum")

        x_adv = attacked(model, loss, batch.x, start, radius=eps, step=eps, steps=1)
        return soft_ce(model(x_adv), torch.tensor(labels, dtype=x_adv.dtype))

    batches = list(shuffled(pool, FOUR_BATCHES))
    assert_trains_as(get_method("bilateral"), written, batches, eps=eps, seed=3)
