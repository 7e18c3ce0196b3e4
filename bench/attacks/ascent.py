"""Attacks that are runs of `maximise` within eps, one per objective.

Shapes: B batch, n remaining images, C H W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from bench.attacks.attack import Attack, Noise, Search, in_turn
from bench.attacks.blocks import searched
from bench.attacks.maximise import Keep, ModelMode, Objective, Start, check_choice, maximise
from bench.errors import ConfigError
from bench.threat import Threat

Aim = Callable[[Tensor], Objective]
"""(n,) positions in the batch -> what a run increases on those images."""


class Ascent(Attack):
    """Base class: a subclass is a dataclass with the fields that vary and defines `aims`."""

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
        for name, kinds in (("start", Start), ("keep", Keep), ("model_mode", ModelMode)):
            check_choice(name, getattr(self, name), kinds)

    def aims(self, model: nn.Module, x: Tensor, y: Tensor) -> Sequence[Aim]:
        """Return one objective per run."""
        raise NotImplementedError

    def step_size(self, threat: Threat) -> float | Callable[[int], float]:
        """Return the step length in pixels, or a function of the step."""
        return self.relative_step * threat.eps

    @property
    def search(self) -> Search:
        return "fp32" if self.model_mode == "eval" else "network"

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: Noise) -> Tensor:
        return self.ascend(searched(model, self.search), x, y, threat, self.start, noise)

    def ascend(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        start: Start | Tensor,
        noise: Noise,
    ) -> Tensor:
        if len(x) == 0:
            return x.detach().clone()

        def run(aim: Aim, left: Tensor) -> Tensor:
            return maximise(
                aim(left),
                model,
                x[left],
                y[left],
                threat=threat,
                radius=threat.eps,
                steps=self.steps,
                step_size=self.step_size(threat),
                start=noise.start(start, x.detach(), threat)[left],
                keep=self.keep,
                model_mode=self.model_mode,
                objective_of=lambda rows: aim(left[rows]),
            )

        runs = [partial(run, aim) for aim in self.aims(model, x, y)]
        return in_turn(runs, model, x, y, self.model_mode)
