"""The one loop of projected gradient ascent: every method and every PGD-type attack runs it.

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from bench.threat import REFERENCE_EPS, Threat, per_example, rowwise

Objective = Callable[[Tensor, Tensor, int], Tensor]
"""(logits (B, K), y, step) -> (B,): what the adversary increases."""
OnStep = Callable[[int, Tensor, Tensor, Tensor], Tensor | None]
"""(step, x_adv, logits, gradient) -> (B,) bool, the examples that go on; None for all."""
Start = Literal["zero", "uniform", "uniform-unclipped", "gaussian"]
ModelMode = Literal["eval", "train"]

GAUSSIAN_STD = 0.001 / REFERENCE_EPS
"""Standard deviation of the gaussian start, in units of eps: 0.001 at 8/255 (TRADES)."""


@contextmanager
def attack_mode(model: nn.Module, mode: ModelMode) -> Iterator[None]:
    """Parameters frozen and modules in `mode` inside; everything as it was afterwards.

    A model that is in train mode already stays as it is for `train`, so that a BatchNorm layer
    that was frozen by hand is not thawed. Every module's own flag is restored.
    """
    flags = [(module, module.training) for module in model.modules()]
    thawed = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in thawed:
            parameter.requires_grad_(False)
        if mode == "eval" or not model.training:
            model.train(mode == "train")
        yield
    finally:
        for module, flag in flags:
            module.training = flag
        for parameter in thawed:
            parameter.requires_grad_(True)


def start_noise(
    kind: Start,
    x: Tensor,
    threat: Threat,
    radius: float | Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """The noise (B, C, H, W) that a start of this kind adds to x."""
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "gaussian":
        noise = torch.empty_like(x).normal_(generator=generator)
        return noise * (GAUSSIAN_STD * threat.eps)
    return threat.uniform(x, generator) * per_example(radius, x)


def maximise(
    objective: Objective,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: Threat,
    radius: float | Tensor,
    steps: int,
    step_size: float | Tensor | Callable[[int], float | Tensor],
    start: Start | Tensor = "zero",
    keep: Literal["last", "best", "first"] = "last",
    on_step: OnStep | None = None,
    generator: torch.Generator | None = None,
    model_mode: ModelMode = "eval",
) -> Tensor:
    """Ascend `objective` within `radius` of x by signed steps; returns x_adv (B, C, H, W).

    x: (B, C, H, W) in [0, 1]. y: whatever the objective takes. radius, step_size: pixels, a float
    or (B,); step_size may be a function of the step. start: a kind of noise, or the images to
    start from (not projected before the first gradient). keep: the last iterate; the best by the
    objective, start and last included; or the first that is misclassified (y are indices then),
    and the last where none is. on_step is called after each gradient and before the step.

    Only the gradient of the input is computed. The result is detached; the model's modes, its
    gradients and x are left as they were.
    """
    x = x.detach()
    if isinstance(start, Tensor):
        x_adv = start.detach().clone()
    else:
        x_adv = x + start_noise(start, x, threat, radius, generator)
        if start == "uniform":
            x_adv = x_adv.clamp(0.0, 1.0)
    kept = _Kept(keep, x_adv, y)
    with attack_mode(model, model_mode):
        for step in range(steps):
            x_adv.requires_grad_()
            with torch.enable_grad():
                logits = model(x_adv)
                value = objective(logits, y, step)
                (gradient,) = torch.autograd.grad(value.sum(), x_adv)
            x_adv = x_adv.detach()
            kept.offer(x_adv, logits.detach(), value.detach())
            active = on_step(step, x_adv, logits.detach(), gradient) if on_step else None
            size = step_size(step) if callable(step_size) else step_size
            moved = x_adv + per_example(size, x) * threat.direction(gradient)
            moved = threat.project(moved, x, radius)
            x_adv = moved if active is None else torch.where(rowwise(active, x), moved, x_adv)
        if keep == "last":
            return x_adv
        with torch.no_grad():
            logits = model(x_adv)
            kept.offer(x_adv, logits, objective(logits, y, steps))
    return kept.x_adv


class _Kept:
    """The iterate to return, per example, for keep = best or first."""

    def __init__(self, keep: str, x_adv: Tensor, y: Tensor) -> None:
        self.keep = keep
        self.x_adv = x_adv
        self.y = y
        self.value = x_adv.new_full((len(x_adv),), -torch.inf)
        self.found = torch.zeros(len(x_adv), dtype=torch.bool, device=x_adv.device)

    def offer(self, x_adv: Tensor, logits: Tensor, value: Tensor) -> None:
        if self.keep == "best":
            better = value > self.value
            self.value = torch.where(better, value, self.value)
        elif self.keep == "first":
            better = ~self.found
            self.found |= logits.argmax(1) != self.y
        else:
            return
        self.x_adv = torch.where(rowwise(better, x_adv), x_adv, self.x_adv)
