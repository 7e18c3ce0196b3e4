"""IKL-AT against the pairwise formula of its paper and the procedure of its code."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from methods.ikl import IKL
from tests.harness import make_state, small_batch, small_net
from tests.unit.written import EPS, attacked, descend, gaussian, soft_ce

LR = 0.02


def ikl_loss(clean: Tensor, adversarial: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Image by image, pair of classes by pair; weight (B, K)."""
    total = torch.zeros((), dtype=clean.dtype)
    for n, a, label, w in zip(clean, adversarial, y.tolist(), weight, strict=True):
        pairs = torch.zeros((), dtype=clean.dtype)
        for j in range(4):
            for k in range(4):
                pairs = pairs + w[j] * w[k] * ((n[j] - n[k]) - (a[j] - a[k])) ** 2
        soft = -(n.softmax(0).detach() * a.log_softmax(0)).sum()
        total = total - n.log_softmax(0)[label] + 4.0 * soft + 20.0 * 0.25 * pairs
    return total / len(y)


def plain_attack(model: nn.Module, batch: Batch, number: int, radius: float) -> Tensor:
    target = model.eval()(batch.x).softmax(1).detach()
    start = batch.x + gaussian(batch.x, number)

    def loss(x_adv: Tensor) -> Tensor:
        return soft_ce(model(x_adv), target)

    return attacked(model, loss, batch.x, start, radius=radius, step=radius / 2, steps=5)


def plain_step(model: nn.Module, batch: Batch, x_adv: Tensor, weight: Tensor, awp: bool) -> Tensor:
    """Moves the weights; returns the clean logits of the update."""
    named = dict(model.named_parameters())
    by: dict[str, Tensor] = {}
    if awp:
        proxy = copy.deepcopy(model)
        loss = ikl_loss(proxy(batch.x), proxy(x_adv), batch.y, weight[batch.y])
        for name, parameter in proxy.named_parameters():
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            if parameter.ndim > 1:
                by[name] = 0.005 * named[name].detach().norm() / gradient.norm() * gradient
    for name, step in by.items():
        named[name].data += step
    adversarial, clean = model(x_adv), model(batch.x)
    loss = ikl_loss(clean, adversarial, batch.y, weight[batch.y])
    descend(model, loss, LR)
    for name, step in by.items():
        named[name].data -= step
    logits: Tensor = clean.detach()
    return logits


def test_two_epochs_are_those_of_the_paper() -> None:
    """Six steps: the radius grows, AWP joins in the second epoch, and so do class weights.

    The second epoch lacks a class, which keeps its weights.
    """
    model = small_net()
    plain = copy.deepcopy(model)
    method = get_method("ikl")
    state = make_state(method, model, lr=LR, n_epochs=40)
    weight = torch.full((4, 4), 0.25, dtype=torch.float64)
    average: dict[str, Tensor] = {}
    number = 0
    for epoch in range(2):
        state.epoch = epoch
        seen = torch.zeros(4, 4, dtype=torch.float64)
        for n in (6, 6, 1):
            batch = small_batch(n, seed=number)
            batch = Batch(batch.x, batch.y % (4 - epoch), batch.index)
            method.train_step(state, batch)
            state.next_batch()
            x_adv = plain_attack(plain, batch, number, EPS * (epoch + 1) / 40)
            clean = plain_step(plain, batch, x_adv, weight, awp=epoch == 1)
            for logits, label in zip(clean, batch.y.tolist(), strict=True):
                seen[label] += F.softmax(logits / 4.0, 0)
            number += 1
        method.end_epoch(state)
        for label in range(4):
            if seen[label].sum() > 0:
                weight[label] = seen[label] / seen[label].sum()
        decay = 0.9 ** (200 / 40)
        for name, value in plain.state_dict().items():
            if epoch == 0 or not value.is_floating_point():
                average[name] = value.clone()
            else:
                average[name] = (1 - decay) * value + decay * average[name]
        assert_close(state.memory["class_weight"], weight, rtol=0, atol=1e-7)
        weight = state.memory["class_weight"].clone()
    assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=1e-10)
    assert_close(method.eval_model(state).state_dict(), average, rtol=0, atol=1e-10)
    assert model.state_dict()["bn.num_batches_tracked"] == 12


def test_without_decay_or_an_ended_epoch_the_model_itself_is_evaluated() -> None:
    method = IKL(decay=0.0)
    state = make_state(method, small_net())
    for seed in range(2):
        method.train_step(state, small_batch(seed=seed))
        method.end_epoch(state)
    assert_close(method.eval_model(state).state_dict(), state.model.state_dict())
    state = make_state(IKL(), small_net())
    assert IKL().eval_model(state) is state.model
