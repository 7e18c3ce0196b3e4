"""Projected gradient ascent: the one loop of every method and every PGD-type attack.

Shapes: B batch, C H W image, K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bench.errors import ConfigError
from bench.ranks import Generator, drawn
from bench.threat import REFERENCE_EPS, Threat, per_example, rowwise

Objective = Callable[[Tensor, Tensor, int], Tensor]
"""(logits (B, K), y, step) -> (B,): what the adversary increases."""
OnStep = Callable[[int, Tensor, Tensor, Tensor], Tensor | None]
"""(step, x_adv, logits, gradient) -> (B,) bool, the examples to move; None for all."""
Start = Literal["zero", "uniform", "uniform-unclipped", "gaussian"]
Keep = Literal["last", "best", "first"]
ModelMode = Literal["eval", "train"]

NARROWS_EVERY = {"cpu": 1, "cuda": 5}
"""Steps between two counts of the remaining examples: each makes a GPU wait for the host."""
GAUSSIAN_STD = 0.001 / REFERENCE_EPS
"""Standard deviation of the gaussian start, in units of eps: 0.001 at 8/255 (TRADES)."""


def check_choice(name: str, value: str, kinds: Any) -> None:
    """Raise ConfigError unless `value` is one of the Literal `kinds`."""
    if value not in get_args(kinds):
        raise ConfigError(f"{name} '{value}' is unknown; use {' or '.join(get_args(kinds))}")


@contextmanager
def attack_mode(model: nn.Module, mode: ModelMode) -> Iterator[None]:
    """Freeze parameters and set modules to `mode`; restore every flag afterwards.

    For `train`, a model already in train mode is left unchanged, so that a BatchNorm layer frozen
    by hand stays frozen.
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
    generator: Generator | None,
) -> Tensor:
    """Return the noise (B, C, H, W) that a start of this kind adds to x."""
    check_choice("start", kind, Start)
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "gaussian":
        noise = drawn(x, generator, lambda x, g: torch.empty_like(x).normal_(generator=g))
        return noise * (GAUSSIAN_STD * threat.eps)
    return threat.uniform(x, generator) * per_example(radius, x)


def start_at(kind: Start, x: Tensor, noise: Tensor) -> Tensor:
    return (x + noise).clamp(0.0, 1.0) if kind == "uniform" else x + noise


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
    keep: Keep = "last",
    on_step: OnStep | None = None,
    generator: Generator | None = None,
    model_mode: ModelMode = "eval",
    objective_of: Callable[[Tensor], Objective] | None = None,
) -> Tensor:
    """Return x_adv (B, C, H, W): ascend `objective` within `radius` of x by signed steps.

    x: (B, C, H, W) in [0, 1]. y: whatever the objective takes. radius, step_size: pixels, a float
    or (B,); step_size may be a function of the step. start: a kind of noise, or the images to
    start from (not projected before the first gradient). keep: the last iterate; the best by the
    objective, start and last included; or the first that is misclassified (y must be indices), else
    the last; a start outside the threat is never kept. on_step is called after each gradient and
    before the step.

    objective_of: (n,) rows of x -> the objective on those rows. With it, an example broken under
    keep = first leaves the batch: the same result for less work. It has no effect with on_step,
    which sees every example, or in train mode, where logits depend on the whole batch.

    Computes only the gradient of the input. The result is detached and within the threat; the
    model's modes, its gradients and x are unchanged.
    """
    check_choice("keep", keep, Keep)
    x = x.detach()
    if isinstance(start, Tensor):
        x_adv = start.detach().clone()
    else:
        x_adv = start_at(start, x, start_noise(start, x, threat, radius, generator))
    if keep != "first" or on_step is not None or model_mode != "eval":
        objective_of = None
    layout = getattr(model, "layout", torch.preserve_format)
    x, x_adv = x.to(memory_format=layout), x_adv.to(memory_format=layout)  # once, not at every pass
    batch = _Batch(x, x_adv, y, threat, radius, keep)
    every = NARROWS_EVERY.get(x.device.type, NARROWS_EVERY["cuda"])
    with attack_mode(model, model_mode):
        for step in range(steps):
            if objective_of is not None and step % every == 0 and batch.narrow():
                if len(batch.rows) == 0:
                    break
                objective = objective_of(batch.rows)
            x_adv = batch.x_adv.requires_grad_()
            with torch.enable_grad():
                logits = model(x_adv)
                value = objective(logits, batch.y, step)
                (gradient,) = torch.autograd.grad(value.sum(), x_adv)
            batch.x_adv, logits = x_adv.detach(), logits.detach()
            if objective_of is not None:
                active: Tensor | None = batch.look(logits, step)
            else:
                batch.offer(logits, value.detach())
                active = on_step(step, batch.x_adv, logits, gradient) if on_step else None
            size = batch.values(step_size(step) if callable(step_size) else step_size)
            batch.move(per_example(size, x) * threat.direction(gradient), active)
        if objective_of is not None:
            return batch.leave()
        if keep == "best":
            with torch.no_grad():
                logits = model(batch.x_adv)
                batch.offer(logits, objective(logits, batch.y, steps))
        return batch.outcome()


class _Batch:
    """The examples that are still attacked, and the image that is returned for each of all."""

    def __init__(
        self,
        x: Tensor,
        x_adv: Tensor,
        y: Tensor,
        threat: Threat,
        radius: float | Tensor,
        keep: Keep,
    ) -> None:
        self.x_adv, self.y, self.keep = x_adv, y, keep
        self.low, self.high = threat.bounds(x, radius)
        self.rows = torch.arange(len(x), device=x.device)
        """Positions among all examples."""
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.kept = self.project(x_adv)
        self.value = x_adv.new_full((len(x),), -torch.inf)

    def look(self, logits: Tensor, step: int) -> Tensor:
        """(n,) bool, the examples not broken yet; broken ones do not move until they leave."""
        wrong = logits.argmax(1) != self.y
        if step == 0:  # every later iterate is a projection
            wrong &= self.inside()
        self.broken |= wrong
        return ~self.broken

    def narrow(self) -> bool:
        """Drop broken examples; return whether there were any."""
        stay = (~self.broken).nonzero().squeeze(1)
        if len(stay) == len(self.broken):
            return len(stay) == 0
        self.leave()
        self.rows, self.x_adv, self.y = self.rows[stay], self.x_adv[stay], self.y[stay]
        self.low, self.high, self.broken = self.low[stay], self.high[stay], self.broken[stay]
        return True

    def leave(self) -> Tensor:
        """Keep the present images; return all kept ones."""
        self.kept[self.rows] = self.project(self.x_adv)  # moves only a start, without any step
        return self.kept

    def offer(self, logits: Tensor, value: Tensor) -> None:
        """Keep the present images that are better than the kept ones, in a batch that is whole."""
        if self.keep == "last":
            return
        better = self.inside()
        if self.keep == "best":
            better &= value > self.value
            self.value = torch.where(better, value, self.value)
        else:
            better &= ~self.broken & (logits.argmax(1) != self.y)
            self.broken |= better
        self.kept = torch.where(rowwise(better, self.kept), self.x_adv, self.kept)

    def outcome(self) -> Tensor:
        if self.keep == "best":
            return self.kept
        last = self.project(self.x_adv)  # moves what on_step froze at a start outside
        if self.keep == "first":
            return torch.where(rowwise(self.broken, last), self.kept, last)
        return last

    def values(self, value: float | Tensor) -> float | Tensor:
        """Select this batch's values from one per example; a one-element tensor is for all."""
        if isinstance(value, Tensor) and value.numel() > 1:
            return value[self.rows]
        return value

    def move(self, change: Tensor, active: Tensor | None) -> None:
        moved = self.project(self.x_adv + change)
        if active is not None:
            moved = torch.where(rowwise(active, moved), moved, self.x_adv)
        self.x_adv = moved

    def inside(self) -> Tensor:
        return (self.x_adv == self.project(self.x_adv)).flatten(1).all(1)

    def project(self, x_adv: Tensor) -> Tensor:
        return torch.clamp(x_adv, self.low, self.high)
