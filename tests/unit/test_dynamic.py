"""Dynamic adversarial training against its procedure, and stopping in closed form."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from tests.harness import OnePixel, make_state
from tests.unit.written import assert_trains_as, uniform

THRESHOLDS = {0: 1.0, 3: 0.7, 9: 0.1, 10: 0.0, 11: 0.0}
"""c_t / c_max by epoch, of 12 epochs: T' = 10."""


def class_1(x: Tensor) -> Batch:
    return Batch(x=x.view(-1, 1, 1, 1), y=torch.ones(len(x)).long(), index=torch.arange(len(x)))


def stopped_at(x: float, u: float, eps: float, threshold: float, reference: str) -> float:
    """PGD on one pixel of class 1: downhill by eps / 4 until |g| (eps - way gone) is low."""
    start = x_adv = x + u * eps
    for step in range(10):
        slope = 10 / (1 + math.exp(10 * (x_adv - 0.5)))  # |g|, the sigmoid's complement times 10
        gone = (x if reference == "centre" else start) - x_adv
        if step > 0 and slope * (eps - gone) <= threshold:
            break
        x_adv = max(x_adv - eps / 4, x - eps)
    return x_adv


@pytest.mark.parametrize("reference", ["centre", "start"])
@pytest.mark.parametrize(("eps", "c_max"), [(8 / 255, 0.06), (0.1, 0.2)])
def test_images_stop_where_the_closed_form_says(reference: str, eps: float, c_max: float) -> None:
    method = get_method("dynamic", c_max=c_max, reference=reference)
    state = make_state(method, OnePixel(), n=9, eps=eps, lr=0, n_epochs=12)
    x = torch.linspace(0.3, 0.7, 9, dtype=torch.float64)
    batch = class_1(x)
    moves = set()
    for number, (epoch, share) in enumerate(THRESHOLDS.items()):
        state.epoch = epoch
        pixels = zip(x.tolist(), uniform(batch.x, number).flatten().tolist(), strict=True)
        wanted = [stopped_at(one, u, eps, c_max * share, reference) for one, u in pixels]
        x_adv = method.perturb(state, batch).flatten()
        assert_close(x_adv, torch.tensor(wanted, dtype=torch.float64), atol=1e-12, rtol=0)
        moves |= {round(float(m), 6) for m in ((x_adv - x) / eps).tolist()}
        state.next_batch()
    assert len(moves) > 9  # some stopped inside the ball, not all at its edge


def plain_attack(
    model: nn.Module, batch: Batch, start: Tensor, eps: float, c: float, reference: str
) -> tuple[Tensor, list[int]]:
    """x_adv, and the number of steps of each image: one image at a time."""
    model.eval()
    images, counts = [], []
    for x, x0, y in zip(batch.x, start, batch.y, strict=True):
        x_adv, count = x0, 0
        for step in range(10):
            x_adv = x_adv.detach().requires_grad_()
            loss = F.cross_entropy(model(x_adv[None]), y[None])
            (grad,) = torch.autograd.grad(loss, x_adv)
            x_adv = x_adv.detach()
            gone = x_adv - (x if reference == "centre" else x0)
            if step > 0 and eps * grad.abs().sum() - (gone * grad).sum() <= c:
                break
            x_adv = x_adv + eps / 4 * grad.sign()
            x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
            count += 1
        images.append(x_adv)
        counts.append(count)
    return torch.stack(images), counts


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reference", ["centre", "start"])
@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_five_steps_equal_the_plain_procedure(weighted: bool, reference: str, eps: float) -> None:
    c_max = 4 * eps
    epochs = list(THRESHOLDS)
    counts: list[int] = []

    def written(model: nn.Module, batch: Batch, number: int) -> Tensor:
        start = batch.x + eps * uniform(batch.x, number, seed=3)
        c = c_max * THRESHOLDS[epochs[number]]
        x_adv, steps = plain_attack(model, batch, start, eps, c, reference)
        counts.extend(steps)
        weight = F.cross_entropy(model(x_adv), batch.y, reduction="none").detach()
        model.train()
        each = F.cross_entropy(model(x_adv), batch.y, reduction="none")
        return (each * weight if weighted and number > 0 else each).mean()

    method = get_method("dynamic", c_max=c_max, reference=reference, weighted=weighted)
    assert_trains_as(method, written, epochs=epochs, eps=eps, seed=3, n_epochs=12)
    assert {1, 10} < set(counts)  # at once, never, and in between
