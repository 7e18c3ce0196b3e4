"""Several runs on the same images: each run attacks what the earlier ones did not break.

Shapes: B batch, n remaining images, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from bench.attacks.attack import Attack, Search
from bench.attacks.blocks import searched
from bench.attacks.maximise import (
    Keep,
    ModelMode,
    Objective,
    Start,
    attack_mode,
    check_choice,
    maximise,
    start_at,
    start_noise,
)
from bench.errors import ConfigError
from bench.spec import CHUNK
from bench.threat import Threat

Run = Callable[[Tensor], Tensor]
"""(n,) positions in the batch -> the x_adv of those images, (n, C, H, W)."""
Aim = Callable[[Tensor], Objective]
"""(n,) positions in the batch -> what a run increases on those images."""


def in_turn(
    runs: Iterable[Run], model: nn.Module, x: Tensor, y: Tensor, model_mode: ModelMode = "eval"
) -> Tensor:
    """Return each image (B, C, H, W) as left by the first run that broke it, or by the last."""
    x_adv = x.detach().clone()
    left = torch.arange(len(x), device=x.device)
    for number, run in enumerate(runs):
        if number > 0:
            left = left[is_correct(model, x_adv[left], y[left], model_mode)]
        if len(left) == 0:
            break
        x_adv[left] = run(left)
    return x_adv


def is_correct(model: nn.Module, x: Tensor, y: Tensor, model_mode: ModelMode = "eval") -> Tensor:
    """(n,) bool; logits that are not finite are incorrect, like in the evaluation."""
    with attack_mode(model, model_mode), torch.no_grad():
        logits = model(x)
    correct: Tensor = (logits.argmax(1) == y) & logits.isfinite().all(1)
    return correct


class Ascent(Attack):
    """Base class of attacks that are runs of `maximise` within eps, one per objective.

    A subclass is a dataclass with the fields that vary and defines `aims`.
    """

    steps: int
    """Gradient steps per run."""
    relative_step: float
    """Step length, in units of eps."""
    restarts: int = 1
    start: Start = "uniform"
    keep: Keep = "first"
    model_mode: ModelMode = "eval"

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} is out of range: at least 1")
        if not self.relative_step > 0:
            raise ConfigError(f"relative_step = {self.relative_step} is out of range: above 0")
        check_choice("start", self.start, Start)
        check_choice("keep", self.keep, Keep)
        check_choice("model_mode", self.model_mode, ModelMode)

    def aims(self, model: nn.Module, x: Tensor, y: Tensor) -> Sequence[Aim]:
        """Return one objective per run."""
        raise NotImplementedError

    def step_size(self, threat: Threat) -> float | Callable[[int], float]:
        """The step length in pixels, or a function of the step."""
        return self.relative_step * threat.eps

    @property
    def search(self) -> Search:
        """A copy in the model's own dtype; in train mode, the network."""
        return "fp32" if self.model_mode == "eval" else "network"

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
        copy = searched(model, self.search)
        return self.ascend(copy, x, y, threat, self.start, generator, rows)

    def ascend(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        start: Start | Tensor,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Attack `model` itself, from fresh noise for each run or from the images `start`."""
        if len(x) == 0:
            return x.detach().clone()

        def run(aim: Aim, left: Tensor) -> Tensor:
            begin = _begin(start, x.detach(), threat, generator, rows)
            return maximise(
                aim(left),
                model,
                x[left],
                y[left],
                threat=threat,
                radius=threat.eps,
                steps=self.steps,
                step_size=self.step_size(threat),
                start=begin[left],
                keep=self.keep,
                model_mode=self.model_mode,
                objective_of=lambda rows: aim(left[rows]),
            )

        runs = [partial(run, aim) for aim in self.aims(model, x, y)]
        return in_turn(runs, model, x, y, self.model_mode)


def _begin(
    start: Start | Tensor,
    x: Tensor,
    threat: Threat,
    generator: torch.Generator | None,
    rows: Tensor | None,
) -> Tensor:
    """(B, C, H, W): where a run begins. Every run draws the noise of the whole frame."""
    if isinstance(start, Tensor):
        return start
    if rows is None or start == "zero":
        noise = start_noise(start, x, threat, threat.eps, generator)
    else:
        frame = x.new_zeros(CHUNK, *x.shape[1:])
        noise = start_noise(start, frame, threat, threat.eps, generator)[rows]
    return start_at(start, x, noise)
