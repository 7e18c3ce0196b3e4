"""Several runs on the same images: each goes to those that the earlier ones did not break.

Shapes: B batch, n images that are left, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from bench.attacks.maximise import (
    Keep,
    ModelMode,
    Objective,
    Start,
    attack_mode,
    maximise,
    start_at,
    start_noise,
)
from bench.spec import CHUNK
from bench.threat import Threat

Run = Callable[[Tensor], Tensor]
"""(n,) places in the batch -> the x_adv of those images, (n, C, H, W)."""
Aim = Callable[[Tensor], Objective]
"""(n,) places in the batch -> what a run increases on those images."""


def in_turn(
    runs: Iterable[Run], model: nn.Module, x: Tensor, y: Tensor, model_mode: ModelMode = "eval"
) -> Tensor:
    """(B, C, H, W), (B,) -> each image as the first run that broke it, or the last, left it."""
    x_adv = x.detach().clone()
    left = torch.arange(len(x), device=x.device)
    for number, run in enumerate(runs):
        if number > 0:
            left = left[still_right(model, x_adv[left], y[left], model_mode)]
        if len(left) == 0:
            break
        x_adv[left] = run(left)
    return x_adv


def ascend_in_turn(
    aims: Iterable[Aim],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: float | Callable[[int], float],
    start: Start | Tensor,
    keep: Keep,
    model_mode: ModelMode = "eval",
    generator: torch.Generator | None,
    rows: Tensor | None,
) -> Tensor:
    """A run of `maximise` within eps for each aim; lengths in pixels.

    start: a kind of noise, fresh for each run, or the images to start from, (B, C, H, W).
    rows: (B,) places of these images in a frame of 256. Every run draws the noise of the whole
    frame, so that an image's noise does not depend on which others are attacked beside it.
    """

    def ascend(aim: Aim, left: Tensor) -> Tensor:
        begin = _begin(start, x.detach(), threat, generator, rows)
        return maximise(
            aim(left),
            model,
            x[left],
            y[left],
            threat=threat,
            radius=threat.eps,
            steps=steps,
            step_size=step_size,
            start=begin[left],
            keep=keep,
            model_mode=model_mode,
            objective_of=lambda rows: aim(left[rows]),
        )

    return in_turn([partial(ascend, aim) for aim in aims], model, x, y, model_mode)


def _begin(
    start: Start | Tensor,
    x: Tensor,
    threat: Threat,
    generator: torch.Generator | None,
    rows: Tensor | None,
) -> Tensor:
    """(B, C, H, W): where a run on these images begins."""
    if isinstance(start, Tensor):
        return start
    if rows is None or start == "zero":
        noise = start_noise(start, x, threat, threat.eps, generator)
    else:
        frame = x.new_zeros(CHUNK, *x.shape[1:])
        noise = start_noise(start, frame, threat, threat.eps, generator)[rows]
    return start_at(start, x, noise)


def still_right(model: nn.Module, x: Tensor, y: Tensor, model_mode: ModelMode = "eval") -> Tensor:
    """(n,) bool; logits that are not finite are not right, as in the evaluation."""
    with attack_mode(model, model_mode), torch.no_grad():
        logits = model(x)
    right: Tensor = (logits.argmax(1) == y) & logits.isfinite().all(1)
    return right
