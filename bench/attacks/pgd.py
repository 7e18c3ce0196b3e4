"""Attacks of the PGD family: one loop, and what differs between the papers' definitions.

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from bench.attacks.attack import Attack, Search
from bench.attacks.maximise import Keep, ModelMode, Objective, Start, check_choice
from bench.attacks.search import searched
from bench.attacks.sequence import ascend_in_turn, still_right
from bench.errors import ConfigError
from bench.losses import cross_entropy, dlr, margin
from bench.threat import Threat

Loss = Literal["ce", "margin", "dlr", "ce+margin"]
LOSSES = {
    "ce": (cross_entropy,),
    "margin": (margin,),
    "dlr": (dlr,),
    "ce+margin": (cross_entropy, margin),
}


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient ascent on a loss, by signed steps (Madry et al., arXiv 1706.06083)."""

    steps: int
    """Gradient steps."""
    relative_step: float
    """Length of a step, in units of eps."""
    loss: Loss = "ce"
    """Cross entropy, the unclamped margin max_{j != y} Z_j - Z_y, the difference of logits ratio,
    or the first half of the restarts on cross entropy and the second on the margin."""
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
        check_choice("loss", self.loss, Loss)
        if self.restarts % len(LOSSES[self.loss]):
            raise ConfigError(
                f"restarts = {self.restarts} cannot be shared evenly by the losses of "
                f"'{self.loss}'; use a multiple of {len(LOSSES[self.loss])}"
            )
        check_choice("start", self.start, Start)
        check_choice("keep", self.keep, Keep)
        check_choice("model_mode", self.model_mode, ModelMode)

    @property
    def search(self) -> Search:
        """A copy in the model's own dtype; the network where its train mode is attacked."""
        return "fp32" if self.model_mode == "eval" else "network"

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

        rows: (B,) places of these images in a frame of 256, which the noise is drawn for.
        """
        copy = searched(model, self.search)
        return self._ascend(copy, x, y, threat, self.start, generator, rows)

    def _ascend(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        start: Start | Tensor,
        generator: torch.Generator | None,
        rows: Tensor | None,
    ) -> Tensor:
        losses = LOSSES[self.loss]
        fresh = not isinstance(start, Tensor)  # from one place a second run is the first again
        n_runs = self.restarts // len(losses) if fresh else 1
        runs = [loss for loss in losses for _ in range(n_runs)]
        return ascend_in_turn(
            [partial(_aim, loss) for loss in runs],
            model,
            x,
            y,
            threat,
            steps=self.steps,
            step_size=self.relative_step * threat.eps,
            start=start,
            keep=self.keep,
            model_mode=self.model_mode,
            generator=generator,
            rows=rows,
        )


def _aim(loss: Callable[[Tensor, Tensor], Tensor], left: Tensor) -> Objective:
    return lambda logits, y, _: loss(logits, y)


@dataclass(frozen=True, kw_only=True)
class PGDOn(PGD):
    """PGD that searches where it is told to, and not always on a copy in the model's own dtype.

    What a copy gets wrong and the network does not is attacked further, on the network, from
    where the copy left it.
    """

    search: Search = "bf16"
    """network, fp32 (a copy in the model's own dtype) or bf16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("search", self.search, Search)
        if self.model_mode == "train" and self.search != "network":
            raise ConfigError(
                f"search = '{self.search}' needs model_mode = 'eval': a copy has no train mode; "
                "use search = 'network'"
            )

    @property
    def passes(self) -> tuple[int, int]:
        """Gradients and plain forwards, about, of an image that nothing breaks."""
        gradients, forwards = super().passes
        return gradients, forwards + (0 if self.search == "network" else 1)  # the copy's own word

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
        """As PGD; `search` says on what. Given such a copy itself, it only searches."""
        copy = searched(model, self.search)
        x_adv = self._ascend(copy, x, y, threat, self.start, generator, rows)
        if copy is model or len(x) == 0:
            return x_adv
        again = misled(copy, x_adv, y, still_right(model, x_adv, y))
        x_adv[again] = self.refine(model, x[again], y[again], threat, x_adv[again])
        return x_adv

    @property
    def refines(self) -> bool:
        return True

    def refine(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, start: Tensor
    ) -> Tensor:
        """(n, C, H, W) -> x_adv: the same attack on the network, from where the copy left it."""
        return self._ascend(model, x, y, threat, start, generator=None, rows=None)


def misled(copy: nn.Module, x_adv: Tensor, y: Tensor, right: Tensor) -> Tensor:
    """(n,) places of the images that a copy gets wrong and the network does not.

    right: (B,) bool, whether the network gets each right.
    """
    left = right.nonzero().squeeze(1)
    return left[~still_right(copy, x_adv[left], y[left])] if len(left) > 0 else left


@dataclass(frozen=True, kw_only=True)
class Clean(Attack):
    """No attack: the images as they are."""

    @property
    def passes(self) -> tuple[int, int]:
        return 0, 1

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
