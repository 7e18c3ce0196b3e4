"""Each loss against its formula, written out here with plain sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench import losses
from bench.errors import ConfigError


def assert_equal(found: Tensor, expected: Tensor | list[float]) -> None:
    """In double precision, to 1e-10."""
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def logits_and_labels(seed: int = 0, n: int = 7, k: int = 5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, k, generator=g, dtype=torch.float64)
    return logits, torch.randint(k, (n,), generator=g)


def probabilities(row: list[float]) -> list[float]:
    total = sum(math.exp(z) for z in row)
    return [math.exp(z) / total for z in row]


def soft_labels(n: int, k: int) -> Tensor:
    g = torch.Generator().manual_seed(5)
    q = torch.rand(n, k, generator=g, dtype=torch.float64)
    return q / q.sum(1, keepdim=True)


def test_cross_entropy_of_hard_labels() -> None:
    logits, y = logits_and_labels()
    expected = [
        -math.log(probabilities(row)[label])
        for row, label in zip(logits.tolist(), y.tolist(), strict=True)
    ]
    assert_equal(losses.cross_entropy(logits, y), expected)


def test_cross_entropy_of_soft_labels() -> None:
    logits, _ = logits_and_labels()
    q = soft_labels(*logits.shape)
    expected = [
        -sum(share * math.log(p) for share, p in zip(label, probabilities(row), strict=True))
        for row, label in zip(logits.tolist(), q.tolist(), strict=True)
    ]
    assert_equal(losses.cross_entropy(logits, q), expected)


@pytest.mark.parametrize("shift", [0.0, -100.0, 100.0])
def test_margin_at_any_sign_of_the_logits(shift: float) -> None:
    """All-negative logits are where a mask by 0 instead of -inf goes wrong."""
    logits, y = logits_and_labels()
    logits = logits + shift
    rows = list(zip(logits.tolist(), y.tolist(), strict=True))
    other = [max(z for j, z in enumerate(row) if j != label) for row, label in rows]
    true = [row[label] for row, label in rows]
    assert losses.best_other(logits, y).tolist() == other
    assert losses.true_logit(logits, y).tolist() == true
    assert losses.margin(logits, y).tolist() == [o - t for o, t in zip(other, true, strict=True)]
    wrong = logits.argmax(1) != y
    assert bool(wrong.any())
    assert not bool(wrong.all())
    assert torch.equal(losses.margin(logits, y) > 0, wrong)


def written_dlr(row: Tensor, label: int) -> Tensor:
    others = torch.cat([row[:label], row[label + 1 :]])
    falling = row.sort(descending=True).values
    return -(row[label] - others.max()) / (falling[0] - falling[2] + 1e-12)


def written_targeted_dlr(row: Tensor, label: int, target: int) -> Tensor:
    falling = row.sort(descending=True).values
    spread = falling[0] - (falling[2] + falling[3]) / 2 + 1e-12
    return -(row[label] - row[target]) / spread


@pytest.mark.parametrize("k", [3, 4, 7])
def test_dlr_and_its_gradient(k: int) -> None:
    logits, y = logits_and_labels(n=40, k=k)
    logits.requires_grad_()
    rows = zip(logits, y.tolist(), strict=True)
    expected = torch.stack([written_dlr(row, label) for row, label in rows])
    found = losses.dlr(logits, y)
    assert_equal(found, expected)
    assert torch.equal(found > 0, logits.argmax(1) != y)
    assert 0 < int((found > 0).sum()) < len(y)
    for a, b in zip(
        torch.autograd.grad(found.sum(), logits),
        torch.autograd.grad(expected.sum(), logits),
        strict=True,
    ):
        assert_equal(a, b)
        assert float(a.abs().sum()) > 1


@pytest.mark.parametrize("k", [4, 7])
def test_targeted_dlr_and_its_gradient(k: int) -> None:
    logits, y = logits_and_labels(n=40, k=k)
    logits.requires_grad_()
    target = (y + 1 + torch.arange(40) % (k - 1)) % k
    rows = zip(logits, y.tolist(), target.tolist(), strict=True)
    expected = torch.stack([written_targeted_dlr(*row) for row in rows])
    found = losses.targeted_dlr(logits, y, target)
    assert_equal(found, expected)
    for a, b in zip(
        torch.autograd.grad(found.sum(), logits),
        torch.autograd.grad(expected.sum(), logits),
        strict=True,
    ):
        assert_equal(a, b)
        assert float(a.abs().sum()) > 1


def test_dlr_moves_neither_with_a_shift_nor_with_a_scale() -> None:
    logits, y = logits_and_labels()
    target = (y + 2) % 5
    moved = 100 * logits - 7
    assert_equal(losses.dlr(moved, y), losses.dlr(logits, y))
    assert_equal(losses.targeted_dlr(moved, y, target), losses.targeted_dlr(logits, y, target))


def test_dlr_needs_its_third_and_fourth_logit() -> None:
    logits, y = logits_and_labels(k=2)
    with pytest.raises(ConfigError) as caught:
        losses.dlr(logits, y)
    assert str(caught.value) == (
        "the DLR loss needs at least 3 classes and the model has 2; "
        "use an attack on the margin, such as cw or multitargeted"
    )
    logits, y = logits_and_labels(k=3)
    with pytest.raises(ConfigError, match="the targeted DLR loss needs at least 4 classes"):
        losses.targeted_dlr(logits, y, (y + 1) % 3)


def test_targeted_margin_is_the_lead_of_the_target() -> None:
    logits, y = logits_and_labels()
    target = (y + 1) % 5
    rows = zip(logits.tolist(), y.tolist(), target.tolist(), strict=True)
    assert losses.targeted_margin(logits, y, target).tolist() == [
        row[t] - row[label] for row, label, t in rows
    ]


def test_kl_divergence_is_its_sum_in_this_order_of_the_arguments() -> None:
    logits_p, _ = logits_and_labels(0)
    logits_q, _ = logits_and_labels(1)
    expected = [
        sum(a * math.log(a / b) for a, b in zip(probabilities(p), probabilities(q), strict=True))
        for p, q in zip(logits_p.tolist(), logits_q.tolist(), strict=True)
    ]
    found = losses.kl_divergence(logits_p, logits_q)
    assert_equal(found, expected)
    assert bool((found > 0).all())
    assert not torch.allclose(found, losses.kl_divergence(logits_q, logits_p))
    same = losses.kl_divergence(logits_p, logits_p + 3.0)
    assert_equal(same, torch.zeros_like(same))


def test_kl_divergence_stays_finite_where_a_probability_vanishes() -> None:
    sharp = torch.tensor([[800.0, 0.0, -800.0]], dtype=torch.float64)
    flat = torch.zeros_like(sharp)
    assert float(losses.kl_divergence(sharp, flat)) == pytest.approx(math.log(3), abs=1e-12)
    assert float(losses.kl_divergence(flat, sharp)) == pytest.approx(800 - math.log(3), abs=1e-9)


def written_ce(logits: Tensor, y: Tensor) -> Tensor:
    e = logits.exp()
    return -(e[torch.arange(len(y)), y] / e.sum(1)).log()


def written_soft_ce(logits: Tensor, y: Tensor) -> Tensor:
    q = soft_labels(*logits.shape)
    return -(q * (logits.exp() / logits.exp().sum(1, keepdim=True)).log()).sum(1)


def written_margin(logits: Tensor, y: Tensor) -> Tensor:
    rows = [
        torch.cat([row[:label], row[label + 1 :]]).max() - row[label]
        for row, label in zip(logits, y.tolist(), strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("loss", "written"),
    [
        (losses.cross_entropy, written_ce),
        (lambda z, _: losses.cross_entropy(z, soft_labels(*z.shape)), written_soft_ce),
        (losses.margin, written_margin),
    ],
    ids=["ce", "soft-ce", "margin"],
)
def test_gradients_are_those_of_the_formula(
    loss: Callable[[Tensor, Tensor], Tensor], written: Callable[[Tensor, Tensor], Tensor]
) -> None:
    logits, y = logits_and_labels()
    logits.requires_grad_()
    (found,) = torch.autograd.grad(loss(logits, y).sum(), logits)
    (expected,) = torch.autograd.grad(written(logits, y).sum(), logits)
    assert_equal(found, expected)
    assert float(found.abs().sum()) > 1


def test_kl_divergence_has_the_formulas_gradient_through_both_arguments() -> None:
    logits_p = logits_and_labels(0)[0].requires_grad_()
    logits_q = logits_and_labels(1)[0].requires_grad_()
    p = logits_p.exp() / logits_p.exp().sum(1, keepdim=True)
    q = logits_q.exp() / logits_q.exp().sum(1, keepdim=True)
    written = (p * (p / q).log()).sum(1)
    found = torch.autograd.grad(
        losses.kl_divergence(logits_p, logits_q).sum(), (logits_p, logits_q)
    )
    expected = torch.autograd.grad(written.sum(), (logits_p, logits_q))
    for a, b in zip(found, expected, strict=True):
        assert_equal(a, b)
        assert float(a.abs().sum()) > 1


def test_every_loss_is_per_example() -> None:
    logits, y = logits_and_labels()
    names = ("cross_entropy", "margin", "dlr", "true_logit", "best_other")
    for loss in (getattr(losses, name) for name in names):
        alone = torch.cat([loss(logits[i : i + 1], y[i : i + 1]) for i in range(len(y))])
        assert_equal(loss(logits, y), alone)
