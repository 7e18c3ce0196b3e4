"""One training step of a method, as its authors' code does it: the reference of our benchmarks.

fp32, NCHW, one pass after the other; torch only, nothing of this project. Each function does one
whole update and returns the loss. It computes the same as the project's method, to rounding, so
that the two differ only in speed:

- the attack runs in eval mode. The code of robust overfitting and of fast adversarial training
  stays in train mode there; `attack_bn="train"` does so.
- all work of the authors' code is done: `loss.backward()` for the attack's gradient, which computes
  the weights' gradients too (robust overfitting, fast adversarial training), and a pass to choose
  among restarts (robust overfitting); the clean prediction anew in every step of TRADES' attack,
  and a third forward with its graph in the update; a whole sort of MART's classes. TRADES and MART
  take the gradient of the image only. CAT, of which no release follows the paper, is written in the
  style of robust overfitting.
- their logging is left out, such as a clean pass after each update (robust overfitting).

Where a start is random, `noise` is added to x; None draws it.

Shapes: B batch, C H W image, K classes. Pixels are in [0, 1]. Lengths are in pixels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

EPS = 8 / 255


def plain_sgd(model: nn.Module, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


def natural_step(model: nn.Module, optimiser: Optimizer, x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy on clean images."""
    model.train()
    return _update(optimiser, F.cross_entropy(model(x), y))


def madry_step(
    model: nn.Module,
    optimiser: Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    noise: Tensor | None = None,
    eps: float = EPS,
    steps: int = 10,
    step_size: float = 2 / 255,
    attack_bn: str = "eval",
    compares_restarts: bool = True,
) -> Tensor:
    """PGD from uniform noise, then cross entropy on its outcome (arXiv 1706.06083).

    A restart ends with a forward pass for its losses, to be compared with those of other restarts,
    of which there are none here. The code of robust overfitting does so; that of fast adversarial
    training does not.
    """
    noise = torch.empty_like(x).uniform_(-eps, eps) if noise is None else noise
    model.train(attack_bn == "train")
    delta = (x + noise).clamp(0, 1) - x
    for _ in range(steps):
        delta = _backward_step(model, x, y, delta, eps, step_size)
    if compares_restarts:
        F.cross_entropy(model(x + delta), y, reduction="none")
    model.train()
    return _update(optimiser, F.cross_entropy(model(x + delta), y))


fast_step = partial(madry_step, steps=1, step_size=10 / 255, compares_restarts=False)
"""The same with one long step (arXiv 2001.03994)."""


def free_step(
    model: nn.Module,
    optimiser: Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    delta: Tensor | None = None,
    eps: float = EPS,
    replays: int = 8,
) -> Tensor:
    """Replays of one batch, each a step of both players by one backward (arXiv 1904.12843).

    delta: (B, C, H, W), the perturbation so far; written to. Returns the mean loss.
    """
    delta = torch.zeros_like(x) if delta is None else delta
    model.train()
    total = x.new_zeros(())
    for _ in range(replays):
        moved = delta.clone().requires_grad_()
        loss = F.cross_entropy(model((x + moved).clamp(0, 1)), y)
        optimiser.zero_grad()
        loss.backward()
        assert moved.grad is not None
        delta.copy_((delta + eps * moved.grad.sign()).clamp(-eps, eps))
        optimiser.step()
        total += loss.detach()
    return total / replays


def trades_step(
    model: nn.Module,
    optimiser: Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    beta: float = 6.0,
    **attack: Any,
) -> Tensor:
    """Cross entropy plus beta KL(p(x) || p(x')), x' by ascent on the KL (arXiv 1901.08573).

    attack: noise, eps, steps and step_size, as in MART.
    """

    def gap(x_adv: Tensor) -> Tensor:
        return F.kl_div(model(x_adv).log_softmax(1), model(x).softmax(1), reduction="sum")

    x_adv = _image_ascent(model, gap, x, **attack)
    natural = F.cross_entropy(model(x), y)
    log_adversarial = model(x_adv).log_softmax(1)
    robust = F.kl_div(log_adversarial, model(x).softmax(1), reduction="batchmean")
    return _update(optimiser, natural + beta * robust)


def mart_step(
    model: nn.Module,
    optimiser: Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    beta: float = 6.0,
    **attack: Any,
) -> Tensor:
    """Boosted cross entropy plus a KL that weighs misclassified images more (ICLR 2020)."""
    x_adv = _image_ascent(model, lambda x_adv: F.cross_entropy(model(x_adv), y), x, **attack)
    clean, adversarial = model(x), model(x_adv)
    p, q = clean.softmax(1), adversarial.softmax(1)
    first, second = q.argsort(1, descending=True)[:, :2].unbind(1)
    rival = torch.where(first == y, second, first)
    boosted = F.cross_entropy(adversarial, y) + F.nll_loss((1.0001 - q + 1e-12).log(), rival)
    kl = F.kl_div((q + 1e-12).log(), p, reduction="none").sum(1)
    weight = 1.0000001 - p.gather(1, y[:, None]).squeeze(1)
    return _update(optimiser, boosted + beta * (kl * weight).mean())


def cat_ce_step(
    model: nn.Module,
    optimiser: Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    radius: Tensor | None = None,
    noise: tuple[Tensor, Tensor] | None = None,
    eps: float = EPS,
    steps: int = 10,
    step_size: float = 0.007,
    eta: float = 0.005,
    c: float = 10.0,
    n_classes: int = 10,
) -> Tensor:
    """A radius and a soft label per image (arXiv 2002.06789, Algorithm 1).

    radius: (B,), the radii so far; written to; None is 0 for all. noise: the Dirichlet draws
    (B, K) of the labels before and after the attack.
    """
    radius = x.new_zeros(len(x)) if radius is None else radius
    before = radius.to(x.dtype)
    reached = (before + eta).clamp(max=eps)
    model.eval()
    delta = torch.zeros_like(x)
    first, second = noise or _dirichlet(x, n_classes)
    label = _soft(y, c * before, first)
    for _ in range(steps):
        delta = _backward_step(model, x, label, delta, reached.view(-1, 1, 1, 1), step_size)
    with torch.no_grad():
        right = model(x + delta).argmax(1) == y
    after = torch.where(right, reached, before)
    radius.copy_(after)
    label = _soft(y, c * after, second)
    model.train()
    return _update(optimiser, F.cross_entropy(model(x + delta), label))


LOOPS: dict[str, Callable[[nn.Module, Optimizer, Tensor, Tensor], Tensor]] = {
    "natural": natural_step,
    "madry": madry_step,
    "trades": trades_step,
    "mart": mart_step,
    "cat-ce": cat_ce_step,
    "free": free_step,
    "fast": fast_step,
}
"""By the name of the method, which does the same update with its default parameters."""


def _update(optimiser: Optimizer, loss: Tensor) -> Tensor:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()


def _image_ascent(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    noise: Tensor | None = None,
    eps: float = EPS,
    steps: int = 10,
    step_size: float = 0.007,
) -> Tensor:
    """Ascent on `loss` in eval mode from gaussian noise, by the gradient of the image only."""
    model.eval()
    x_adv = x + (0.001 * torch.randn_like(x) if noise is None else noise)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x_adv), [x_adv])
        x_adv = _projected(x_adv.detach() + step_size * gradient.sign(), x, eps)
    model.train()
    return x_adv


def _backward_step(
    model: nn.Module, x: Tensor, y: Tensor, delta: Tensor, eps: float | Tensor, step_size: float
) -> Tensor:
    """One step of ascent on cross entropy, whose backward goes through the weights too."""
    delta = delta.detach().requires_grad_()
    F.cross_entropy(model(x + delta), y).backward()
    assert delta.grad is not None
    moved = delta.detach() + step_size * delta.grad.sign()
    return _projected(x + moved, x, eps) - x


def _projected(x_adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    return torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)


def _dirichlet(x: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Two draws (B, K), uniform on the simplex."""
    draws = torch.distributions.Dirichlet(x.new_ones(n_classes)).sample((2, len(x)))
    return draws[0], draws[1]


def _soft(y: Tensor, share: Tensor, draw: Tensor) -> Tensor:
    """(B, K): (1 - share) onehot(y) + share draw."""
    hard = F.one_hot(y, draw.shape[1]).to(share.dtype)
    return (1 - share[:, None]) * hard + share[:, None] * draw.to(share.dtype)
