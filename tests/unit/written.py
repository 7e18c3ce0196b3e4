"""What the tests of methods share: attacks and steps written out, without bench's own loop."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch, Method, TrainState
from bench.seeding import generator_for
from tests.harness import make_state, small_batch, small_net

LR = 0.05
EPS = 8 / 255
FOUR_BATCHES = (5, 5, 3, 2, 1)
"""Sizes of the batches that sixteen images make; the last has one image."""
Step = Callable[[nn.Module, Batch, int], Tensor]
"""(twin, batch, number of the batch) -> the loss of the update, in train mode."""


def wide(value: float | Tensor) -> float | Tensor:
    """A float unchanged, (B,) as (B, 1, 1, 1)."""
    return value.view(-1, 1, 1, 1) if isinstance(value, Tensor) else value


def uniform(x: Tensor, step: int = 0, *, seed: int = 0, purpose: str = "start") -> Tensor:
    """Noise in [-1, 1], the first draw of this batch's stream."""
    stream = generator_for(seed, "train", purpose, step)
    return torch.empty_like(x).uniform_(-1, 1, generator=stream)


def gaussian(x: Tensor, step: int = 0, *, seed: int = 0, eps: float = EPS) -> Tensor:
    """The noise of TRADES: 0.001 N(0, 1) at eps = 8/255."""
    stream = generator_for(seed, "train", "start", step)
    return 0.001 * eps / EPS * torch.empty_like(x).normal_(generator=stream)


def ascended(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    x_adv: Tensor,
    *,
    radius: float | Tensor,
    step: float | Tensor,
    steps: int,
) -> Tensor:
    """PGD as the papers have it: a signed step up `loss(x_adv)`, then the ball, then the box."""
    radius, step = wide(radius), wide(step)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x_adv), x_adv)
        x_adv = x_adv.detach() + step * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - radius), x + radius).clamp(0, 1)
    return x_adv


def attacked(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    x_adv: Tensor,
    *,
    mode: str = "eval",
    **lengths: Any,
) -> Tensor:
    """`ascended` with BatchNorm in `mode`; in train mode afterwards."""
    model.train(mode == "train")
    x_adv = ascended(loss, x, x_adv, **lengths)
    model.train()
    return x_adv


def descend(model: nn.Module, loss: Tensor, lr: float = LR) -> None:
    """One step of SGD in place."""
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.data -= lr * gradient


def shuffled(pool: Batch, sizes: Sequence[int], seed: int = 5) -> Iterator[Batch]:
    """One epoch over the pool in batches of these sizes."""
    order = torch.randperm(len(pool.y), generator=torch.Generator().manual_seed(seed))
    for index in torch.split(order, list(sizes)):
        yield Batch(x=pool.x[index], y=pool.y[index], index=index)


def assert_trains_as(
    method: Method,
    written: Step,
    batches: Sequence[Batch] | None = None,
    *,
    epochs: Sequence[int] = (),
    moves: bool = False,
    **state_of: Any,
) -> TrainState:
    """The method's steps are SGD on `written`: loss, weights and statistics to 1e-10.

    epochs: that of each batch, 0 by default. moves: `written` makes the step of SGD itself.
    """
    model = small_net()
    twin = copy.deepcopy(model)
    state = make_state(method, model, lr=LR, **state_of)
    if "radius" in state.examples:  # kept in single precision otherwise
        state.examples["radius"] = state.examples["radius"].double()
    for number, batch in enumerate(batches or list(shuffled(small_batch(16), FOUR_BATCHES))):
        state.epoch = epochs[number] if epochs else 0
        loss = written(twin, batch, number)
        if not moves:
            descend(twin, loss)
        logged = method.train_step(state, batch)["loss"]
        assert not logged.requires_grad
        assert_close(logged, loss.detach(), rtol=0, atol=1e-10)
        state.next_batch()
    assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=1e-10)
    return state


def five_steps(method: Method, **state_of: Any) -> TrainState:
    """A small network after five batches, in double precision."""
    state = make_state(method, small_net(), **state_of)
    for number in range(5):
        method.train_step(state, small_batch(seed=number))
        state.next_batch()
    return state


def assert_same_training(first: Method, second: Method, atol: float = 0, **state_of: Any) -> None:
    """Five steps of either end with the same weights."""
    ends = [five_steps(method, **state_of).model.state_dict() for method in (first, second)]
    assert_close(ends[0], ends[1], rtol=0, atol=atol)
    assert not torch.equal(ends[0]["conv.weight"], small_net().conv.weight)


def one_hot(y: Tensor, k: int) -> Tensor:
    return torch.eye(k, dtype=torch.float64)[y]


def dirichlet(
    n: int, k: int, *, draws: int, beta: float = 1.0, seed: int = 0, step: int = 0
) -> list[Tensor]:
    """The first draws of a batch's label stream."""
    stream = generator_for(seed, "train", "labels", step)
    gammas = [torch._standard_gamma(torch.full((n, k), beta), stream) for _ in range(draws)]
    return [(gamma / gamma.sum(1, keepdim=True)).double() for gamma in gammas]


def soft_ce(logits: Tensor, q: Tensor) -> Tensor:
    """Mean cross entropy with labels (B, K)."""
    return -(q * logits.log_softmax(1)).sum() / len(q)


def ce(p: Tensor, y: Tensor) -> Tensor:
    """(B,): -log p_y of probabilities."""
    return torch.stack([-row[label].log() for row, label in zip(p, y.tolist(), strict=True)])


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(1)


def madry_attack(
    net: nn.Module, batch: Batch, eps: float, number: int = 0, steps: int = 10
) -> Tensor:
    """PGD from uniform noise; the start is clipped to the pixels."""
    start = (batch.x + eps * uniform(batch.x, number)).clamp(0, 1)
    loss = lambda x_adv: F.cross_entropy(net(x_adv), batch.y)  # noqa: E731
    step = 2 / 255 * eps / EPS
    return attacked(net, loss, batch.x, start, radius=eps, step=step, steps=steps)


def trades_loss(net: nn.Module, batch: Batch, x_adv: Tensor) -> Tensor:
    """With the authors' third forward, whose statistics count."""
    p, q = net(batch.x).softmax(1), net(x_adv).softmax(1)
    net(batch.x)
    return ce(p, batch.y).mean() + 6 * kl(p, q).mean()


def mart_loss(net: nn.Module, batch: Batch, x_adv: Tensor, beta: float = 6.0) -> Tensor:
    total = torch.zeros((), dtype=batch.x.dtype)
    clean, adversarial = net(batch.x).softmax(1), net(x_adv).softmax(1)
    for p, q, y in zip(clean, adversarial, batch.y.tolist(), strict=True):
        best = max((k for k in range(len(q)) if k != y), key=q.tolist().__getitem__)
        boosted = -q[y].log() - (1.0001 - q[best] + 1e-12).log()
        divergence = sum(p[k] * (p[k].log() - (q[k] + 1e-12).log()) for k in range(len(p)))
        total = total + boosted + beta * divergence * (1.0000001 - p[y])
    return total / len(batch.y)
