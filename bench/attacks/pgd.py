"""Attacks of the PGD family: one loop, and what differs between the papers' definitions.

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bench.attacks.maximise import (
    Keep,
    ModelMode,
    Start,
    attack_mode,
    check_choice,
    maximise,
    start_noise,
)
from bench.errors import ConfigError
from bench.losses import cross_entropy, margin
from bench.spec import CHUNK
from bench.threat import Threat

LOSSES = {"ce": cross_entropy, "margin": margin}


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent on a loss, by signed steps (Madry et al., arXiv 1706.06083)."""

    steps: int
    """Gradient steps."""
    relative_step: float
    """Length of a step, in units of eps."""
    loss: Literal["ce", "margin"] = "ce"
    """Cross entropy, or the unclamped margin max_{j != y} Z_j - Z_y."""
    start: Start = "uniform"
    """Noise of the start; uniform is clipped to the pixel range before the first gradient."""
    restarts: int = 1
    """Runs from fresh noise; an image is broken if one of them breaks it."""
    keep: Keep = "last"
    """Which iterate is returned."""
    model_mode: ModelMode = "eval"
    """Mode of BatchNorm in the attack."""

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} is out of range: at least 1")
        if not self.relative_step > 0:
            raise ConfigError(f"relative_step = {self.relative_step} is out of range: above 0")
        if self.loss not in LOSSES:
            raise ConfigError(f"loss '{self.loss}' is unknown; use {' or '.join(LOSSES)}")
        check_choice("start", self.start, Start)
        check_choice("keep", self.keep, Keep)
        check_choice("model_mode", self.model_mode, ModelMode)

    @property
    def passes(self) -> tuple[int, int]:
        """Gradients and plain forwards, about, of an image that nothing breaks."""
        return self.restarts * self.steps, self.restarts

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) in [0, 1], (B,) -> x_adv (B, C, H, W), detached, inside the threat.

        rows: (B,) places of these images in a frame of 256. Noise is drawn for the whole frame,
        so that an image's noise does not depend on which others are attacked beside it.
        """
        loss = LOSSES[self.loss]
        x_adv = x.detach().clone()
        left = torch.arange(len(x), device=x.device)
        for restart in range(self.restarts):
            if len(left) == 0:
                break
            noise = self._noise(x, threat, generator, rows)
            begin = x + noise
            if self.start == "uniform":
                begin = begin.clamp(0.0, 1.0)
            x_adv[left] = maximise(
                lambda logits, labels, _: loss(logits, labels),
                model,
                x[left],
                y[left],
                threat=threat,
                radius=threat.eps,
                steps=self.steps,
                step_size=self.relative_step * threat.eps,
                start=begin[left],
                keep=self.keep,
                model_mode=self.model_mode,
            )
            if restart + 1 < self.restarts:
                left = left[self._correct(model, x_adv[left], y[left])]
        return x_adv

    def _noise(
        self, x: Tensor, threat: Threat, generator: torch.Generator | None, rows: Tensor | None
    ) -> Tensor:
        if rows is None or self.start == "zero":
            return start_noise(self.start, x, threat, threat.eps, generator)
        frame = x.new_zeros(CHUNK, *x.shape[1:])
        return start_noise(self.start, frame, threat, threat.eps, generator)[rows]

    def _correct(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with attack_mode(model, self.model_mode), torch.no_grad():
            correct: Tensor = model(x).argmax(1) == y
            return correct


@dataclass(frozen=True, kw_only=True)
class Clean:
    """No attack: the images as they are."""

    passes = (0, 1)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) -> a copy of it."""
        return x.detach().clone()
