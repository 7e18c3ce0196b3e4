"""Each loss and its gradient against the formula, written out here row by row."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench import losses
from bench.errors import ConfigError
from tests.harness import generator, raises_line

Loss = Callable[[Tensor, Tensor], Tensor]


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """In double precision, to 1e-10."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def logits_and_labels(seed: int = 0, n: int = 7, k: int = 5) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    logits = 4 * torch.randn(n, k, generator=g, dtype=torch.float64)
    return logits, torch.randint(k, (n,), generator=g)


def soft_labels(n: int, k: int) -> Tensor:
    q = torch.rand(n, k, generator=generator(5), dtype=torch.float64)
    return q / q.sum(1, keepdim=True)


def targets(y: Tensor, k: int) -> Tensor:
    return (y + 1 + torch.arange(len(y)) % (k - 1)) % k


def soft_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return losses.cross_entropy(logits, soft_labels(*logits.shape))


def targeted_margin(logits: Tensor, y: Tensor) -> Tensor:
    return losses.targeted_margin(logits, y, targets(y, logits.shape[1]))


def targeted_dlr(logits: Tensor, y: Tensor) -> Tensor:
    return losses.targeted_dlr(logits, y, targets(y, logits.shape[1]))


def written_soft_ce(logits: Tensor, y: Tensor) -> Tensor:
    q = soft_labels(*logits.shape)
    return -(q * (logits.exp() / logits.exp().sum(1, keepdim=True)).log()).sum(1)


def by_row(value: Callable[[Tensor, int, int], Tensor]) -> Loss:
    """From the value of one row, its label and its target."""

    def written(logits: Tensor, y: Tensor) -> Tensor:
        t = targets(y, logits.shape[1])
        rows = zip(logits, y.tolist(), t.tolist(), strict=True)
        return torch.stack([value(*row) for row in rows])

    return written


def best_other(row: Tensor, label: int) -> Tensor:
    return torch.cat([row[:label], row[label + 1 :]]).max()


def spread(row: Tensor, *places: int) -> Tensor:
    falling = row.sort(descending=True).values
    return falling[0] - falling[list(places)].mean() + 1e-12


written_ce = by_row(lambda row, y, t: -(row.exp()[y] / row.exp().sum()).log())
written_margin = by_row(lambda row, y, t: best_other(row, y) - row[y])
written_dlr = by_row(lambda row, y, t: (best_other(row, y) - row[y]) / spread(row, 2))
written_targeted_dlr = by_row(lambda row, y, t: (row[t] - row[y]) / spread(row, 2, 3))


@pytest.mark.parametrize(
    ("loss", "written", "k"),
    [
        (losses.cross_entropy, written_ce, 5),
        (soft_cross_entropy, written_soft_ce, 5),
        (losses.true_logit, by_row(lambda row, y, t: row[y]), 5),
        (losses.best_other, by_row(lambda row, y, t: best_other(row, y)), 5),
        (losses.margin, written_margin, 5),
        (targeted_margin, by_row(lambda row, y, t: row[t] - row[y]), 5),
        *((losses.dlr, written_dlr, k) for k in (3, 4, 7)),
        *((targeted_dlr, written_targeted_dlr, k) for k in (4, 7)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_value_and_the_gradient_are_those_of_the_formula(
    loss: Loss, written: Loss, k: int
) -> None:
    logits, y = logits_and_labels(n=40, k=k)
    logits.requires_grad_()
    found, expected = loss(logits, y), written(logits, y)
    assert_equal(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    assert_equal(gradient, wanted)
    assert float(gradient.abs().sum()) > 1
    if loss in (losses.margin, losses.dlr):
        wrong = logits.argmax(1) != y
        assert torch.equal(found > 0, wrong)
        assert 0 < int(wrong.sum()) < len(y)


@pytest.mark.parametrize("shift", [-100.0, 100.0])
def test_what_a_shift_or_a_scale_of_the_logits_changes(shift: float) -> None:
    """All-negative logits are where a mask by 0 instead of -inf goes wrong."""
    logits, y = logits_and_labels()
    assert_equal(losses.best_other(logits + shift, y), losses.best_other(logits, y) + shift)
    assert_equal(losses.margin(logits + shift, y), losses.margin(logits, y))
    for loss in (losses.dlr, targeted_dlr):
        assert_equal(loss(100 * logits + shift, y), loss(logits, y))


def test_dlr_needs_its_third_and_fourth_logit() -> None:
    logits, y = logits_and_labels(k=2)
    needs = "the DLR loss needs at least 3 classes and the model has 2; "
    with raises_line(ConfigError, needs + "use an attack on the margin, such as cw"):
        losses.dlr(logits, y)
    logits, y = logits_and_labels(k=3)
    with raises_line(ConfigError, "the targeted DLR loss needs at least 4 classes"):
        losses.targeted_dlr(logits, y, (y + 1) % 3)


def test_kl_divergence_and_its_gradient_through_both_arguments() -> None:
    logits = [logits_and_labels(seed)[0].requires_grad_() for seed in (0, 1)]
    p, q = (z.exp() / z.exp().sum(1, keepdim=True) for z in logits)
    written = (p * (p / q).log()).sum(1)
    found = losses.kl_divergence(*logits)
    assert_equal(found, written)
    assert bool((found > 0).all())
    gradients = torch.autograd.grad(found.sum(), logits)
    for a, b in zip(gradients, torch.autograd.grad(written.sum(), logits), strict=True):
        assert_equal(a, b)
        assert float(a.abs().sum()) > 1
    assert not torch.allclose(found, losses.kl_divergence(*reversed(logits)))
    same = losses.kl_divergence(logits[0], logits[0] + 3.0)
    assert_equal(same, torch.zeros_like(same))


def test_kl_divergence_stays_finite_where_a_probability_vanishes() -> None:
    sharp = torch.tensor([[800.0, 0.0, -800.0]], dtype=torch.float64)
    flat = torch.zeros_like(sharp)
    assert float(losses.kl_divergence(sharp, flat)) == pytest.approx(math.log(3), abs=1e-12)
    assert float(losses.kl_divergence(flat, sharp)) == pytest.approx(800 - math.log(3), abs=1e-9)
