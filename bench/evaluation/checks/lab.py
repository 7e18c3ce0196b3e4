"""What the masking checks share: the clean-correct images, and attacks that are run once.

Shapes: m clean-correct images, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks import Attack, get_attack
from bench.attacks.blocks import Blocked
from bench.errors import ConfigError
from bench.evaluation.check import Check
from bench.evaluation.chunk import predictions
from bench.seeding import generator_for
from bench.threat import Threat

WHITE_BOX = ("pgd-20", "cw", "apgd-ce")
"""The gradient attacks that a black-box attack is compared with."""
LEAST_IMAGES = 2
"""No threshold is below so many images: a point of 100 images is one image."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How far the checks go; the defaults are those of their sources."""

    steps: int = 1000
    """Of the longest attack of C4."""
    samples: int = 10_000
    """Random points an image in C6."""
    restarts: int = 20
    """Of C10, which compares them with five."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 20), ("samples", 1), ("restarts", 6)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"checks: {name} = {value} is out of range: a whole number, at least {least}"
                )


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a check with the largest value that raises no alarm."""

    what: str
    value: float
    threshold: float

    @property
    def excess(self) -> float:
        """How far it is above its threshold; NaN is the worst."""
        excess = self.value - self.threshold
        return excess if excess == excess else float("inf")

    @property
    def alarm(self) -> bool:
        """Above the threshold, by more than the rounding of a difference of shares."""
        return self.excess > 1e-9


@dataclass
class Lab:
    """A model in eval mode with the images that it gets right; asked by one check after another."""

    model: Blocked
    x: Tensor
    """(m, C, H, W), clean-correct."""
    y: Tensor
    index: Tensor
    """(m,) their places among the images that were given."""
    threat: Threat
    seed: int = 0
    effort: Effort = field(default_factory=Effort)
    surrogates: tuple[Blocked, ...] = ()
    """Naturally trained networks of the same arch, where there are any."""
    _survivors: dict[Hashable, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        seed: int = 0,
        batch_size: int = 256,
        effort: Effort | None = None,
        surrogates: Sequence[nn.Module] = (),
    ) -> Lab:
        """On images (n, C, H, W) with labels (n,); the model is in eval mode already."""
        blocked = Blocked(model, batch_size)
        right, _ = predictions(blocked, x, y)
        return cls(
            model=blocked,
            x=x[right],
            y=y[right],
            index=right.nonzero().squeeze(1).cpu(),
            threat=threat,
            seed=seed,
            effort=effort or Effort(),
            surrogates=tuple(Blocked(network, batch_size) for network in surrogates),
        )

    def asked(self, effort: Effort, surrogates: Sequence[nn.Module]) -> Lab:
        """The same images and what was found on them, for a check with its own parameters."""
        blocked = tuple(Blocked(network, self.model.batch_size) for network in surrogates)
        return replace(self, effort=effort, surrogates=blocked)

    @cached_property
    def n_classes(self) -> int:
        """K."""
        with torch.no_grad():
            return int(self.model(self.x[:1]).shape[1])

    @property
    def least(self) -> float:
        """The share that LEAST_IMAGES are."""
        return LEAST_IMAGES / len(self.y)

    def points(self, percent: float) -> float:
        """A threshold in percentage points as a share, never below LEAST_IMAGES."""
        return max(percent / 100, self.least)

    def generator(self, purpose: str) -> torch.Generator:
        """A stream of its own for each purpose."""
        return generator_for(self.seed, "checks", purpose, device=self.x.device)

    def attack(
        self, attack: Attack, purpose: str, *, at: Threat | None = None, on: nn.Module | None = None
    ) -> Tensor:
        """x_adv (m, C, H, W), made on the model or `on`, at eps or `at`."""
        return attack(
            on or self.model, self.x, self.y, at or self.threat, generator=self.generator(purpose)
        )

    def still_right(self, x_adv: Tensor) -> Tensor:
        """(m,) bool: the model's own prediction on these images; NaN is not right."""
        return predictions(self.model, x_adv, self.y)[0]

    def survivors(self, name: str, **params: Any) -> Tensor:
        """(m,) bool: right under a registered attack, which is run once."""
        key = f"{name} {sorted(params.items())}"
        if key not in self._survivors:
            self._survivors[key] = self.still_right(self.attack(get_attack(name, **params), name))
        return self._survivors[key]

    def white_box(self) -> Tensor:
        """(m,) bool: right under each of WHITE_BOX."""
        return self.remembered(
            "white box", lambda: torch.stack([self.survivors(n) for n in WHITE_BOX]).all(0)
        )

    def remembered(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The flags that `make` gives, made once."""
        if key not in self._survivors:
            self._survivors[key] = make()
        return self._survivors[key]


def is_right(logits: Tensor, y: Tensor) -> Tensor:
    """(B, K), (B,) -> (B,) bool; a row that is not finite is not right."""
    return (logits.argmax(1) == y) & logits.isfinite().all(1)


def share(flags: Tensor) -> float:
    """Mean of (m,) bool."""
    return int(flags.sum()) / len(flags)


def verdict(
    name: str, figures: Sequence[Figure], source: str, detail: dict[str, Any] | None = None
) -> Check:
    """The check of several figures: the worst of them stands for it, all are in its detail."""
    worst = max(figures, key=lambda figure: figure.excess)
    listed = [
        {"what": f.what, "value": f.value, "threshold": f.threshold, "alarm": f.alarm}
        for f in figures
    ]
    return Check(
        name=f"{name}: {worst.what}",
        value=worst.value,
        threshold=worst.threshold,
        alarm=worst.alarm,
        source=source,
        detail={"figures": listed} | (detail or {}),
    )
