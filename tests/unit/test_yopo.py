"""YOPO against its two loops, written out, with the first layer's gradient kept apart."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from bench.archs import build
from bench.method import Batch
from bench.registry import get_method
from methods.yopo import YOPO
from tests.harness import SmallNet, make_state, small_batch
from tests.unit.written import EPS, LR, assert_trains_as, uniform

SIGMA = 2 / 255


def saturated(seed: int) -> Batch:
    """A batch in which a third of the pixels are black or white."""
    batch = small_batch(seed=seed)
    return Batch((1.5 * batch.x - 0.25).clamp(0, 1), batch.y, batch.index)


def start(batch: Batch, step: int) -> Tensor:
    return EPS * uniform(batch.x, step)


def plain_gradients(
    model: SmallNet, batch: Batch, eta: Tensor, m: int, n: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss and the sums of gradients over m passes."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    rest = {name: p for name, p in model.named_parameters() if not name.startswith("conv")}
    stem = {name: p for name, p in model.named_parameters() if name.startswith("conv")}
    x, losses = batch.x, []
    for _ in range(m):
        h = model.conv(x + eta)
        logits = model.fc(torch.tanh(model.bn(h)).flatten(1))
        loss = F.cross_entropy(logits, batch.y)
        losses.append(loss.detach())
        g_h, *gradients = torch.autograd.grad(loss, [h, *rest.values()])
        for name, gradient in zip(rest, gradients, strict=True):
            total[name] += gradient
        p = -g_h
        for _ in range(n):
            eta = eta.detach().requires_grad_()
            hamiltonian = (model.conv(torch.clamp(x + eta, 0, 1)) * p).sum()
            (gradient,) = torch.autograd.grad(hamiltonian, eta)
            eta = (eta.detach() - SIGMA * gradient.sign()).clamp(-EPS, EPS)
            eta = (x + eta).clamp(0, 1) - x
        hamiltonian = (model.conv(torch.clamp(x + eta, 0, 1)) * p).sum()
        gradients = list(torch.autograd.grad(-hamiltonian, list(stem.values())))
        for name, gradient in zip(stem, gradients, strict=True):
            total[name] += gradient
    return torch.stack(losses).mean(), total


@pytest.mark.parametrize(("m", "n"), [(5, 3), (2, 1), (1, 4)])
def test_five_steps_are_those_of_the_paper_batchnorm_included(m: int, n: int) -> None:
    def written(model: Any, batch: Batch, number: int) -> Tensor:
        loss, total = plain_gradients(model, batch, start(batch, number), m, n)
        for name, parameter in model.named_parameters():
            parameter.data -= LR * total[name]
        return loss

    method = get_method("yopo", passes=m, inner_steps=n)
    assert_trains_as(method, written, [saturated(seed) for seed in range(5)], moves=True)


def test_one_inner_step_is_one_step_of_pgd() -> None:
    """At the x' where p was taken, H falls exactly as the cross entropy rises."""
    model = build("linear", num_classes=4, in_channels=2, image_size=4).double().train()
    batch = small_batch()
    x = 0.1 + 0.8 * batch.x  # nothing is cut to the pixel range
    x_start = x + start(batch, 0)
    x_start.requires_grad_()
    loss = F.cross_entropy(model(x_start), batch.y)
    (gradient,) = torch.autograd.grad(loss, x_start)
    x_adv = x_start.detach() + SIGMA * gradient.sign()
    x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS)
    p = F.softmax(model(x_start), dim=1).detach() - F.one_hot(batch.y, 4)
    wanted = (p / len(batch.y)).T @ x_adv.flatten(1)
    method = YOPO(passes=1, inner_steps=1)
    state = make_state(method, model, lr=0.0)
    method.train_step(state, Batch(x, batch.y, batch.index))
    assert_close(model.get_parameter("fc.weight").grad, wanted, rtol=0, atol=1e-10)
