"""What the masking checks share: their context, their budget, and how a check is declared.

Shapes: m correctly classified images, C H W image, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bench.attacks import Attack, get_attack
from bench.attacks.networks import BatchedModel
from bench.evaluation.prediction import predictions
from bench.indicator import Indicator, State, worst
from bench.param import check_ranges, param
from bench.seeding import generator_for
from bench.threat import Threat

WHITE_BOX = ("pgd-20", "cw", "apgd-ce")
"""The gradient attacks that black-box attacks are compared with."""
LEAST_IMAGES = 2
"""No threshold is below two images: of 100 images, one point is a single image."""


@dataclass(frozen=True)
class Check:
    """One quantity that tells whether an evaluation can be trusted."""

    name: str
    """Its number and its worst indicator: `C8: scaling the logits breaks more: by`."""
    value: float
    threshold: float
    """The largest value that raises no alarm."""
    alarm: bool
    """Whether its lower limit (bench.indicator) exceeds the threshold too."""
    source: str = ""
    """Where the threshold comes from."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON: all indicators, and the curves behind them."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; numbers that are not finite become None."""
        names = ("name", "value", "threshold", "alarm", "state", "source", "detail")
        content = {name: _finite(getattr(self, name)) for name in names}
        if not self.detail:
            del content["detail"]
        return content

    @property
    def number(self) -> str:
        """`C8`."""
        return self.name.split(":")[0]

    @property
    def state(self) -> State:
        """`pass` up to the threshold; above it `alarm`, or `watch` if chance explains it."""
        return "alarm" if self.alarm else Indicator("", self.value, self.threshold, None).state


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Found: TypeAlias = tuple[Sequence[Indicator], Mapping[str, Any]]
"""Indicators, and the details for the record."""


@dataclass(frozen=True, kw_only=True)
class MaskingCheck:
    """A check, and its description in words for the documentation."""

    number: str
    find: Callable[[CheckContext], Found]
    looks_for: str
    compute: str
    raises: str
    """What raises an alarm."""
    source: str
    """Where the thresholds come from."""
    budget: tuple[str, ...] = ()
    """Fields of CheckBudget that its outcome depends on."""
    uses_surrogate: bool = False
    needs_surrogate: bool = False
    least_classes: int = 2

    def run(self, ctx: CheckContext) -> Check:
        """Return the check, named after its worst indicator, with all of them in its detail."""
        indicators, detail = self.find(ctx)
        named = worst(indicators)
        listed = [asdict(one) | {"limit": one.limit, "state": one.state} for one in indicators]
        return Check(
            name=f"{self.number}: {named.what}",
            value=named.value,
            threshold=named.threshold,
            alarm=named.alarm,
            source=self.source,
            detail={"figures": listed, **detail},
        )


def masking_check(
    number: str, **description: Any
) -> Callable[[Callable[[CheckContext], Found]], MaskingCheck]:
    """Declare a function as the check of that number; `description`: fields of MaskingCheck."""
    return lambda find: MaskingCheck(number=number, find=find, **description)


@dataclass(frozen=True, kw_only=True)
class CheckBudget:
    """How much the checks compute; the defaults are those of their sources."""

    steps: int = param(1000, ge=20)
    """Steps of the longest attack of C4."""
    samples: int = param(10_000, ge=1)
    """Random points per image in C6."""
    restarts: int = param(20, ge=6)
    """Restarts of C10, which compares them with five."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class CheckContext:
    """A model in eval mode with the images that it classifies correctly."""

    model: BatchedModel
    x: Tensor
    """(m, C, H, W)."""
    y: Tensor
    index: Tensor
    """(m,) positions among all images."""
    threat: Threat
    seed: int = 0
    budget: CheckBudget = field(default_factory=CheckBudget)
    surrogates: tuple[BatchedModel, ...] = ()
    """Naturally trained networks of the same arch, if any."""
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
        budget: CheckBudget | None = None,
        surrogates: Sequence[nn.Module] = (),
    ) -> CheckContext:
        """Build it from images (n, C, H, W) with labels (n,); `model` must be in eval mode."""
        blocked = BatchedModel(model, batch_size)
        right, _ = predictions(blocked, x, y)
        index = right.nonzero().squeeze(1).cpu()
        context = cls(blocked, x[right], y[right], index, threat, seed)
        return context.sharing(budget or CheckBudget(), surrogates)

    def sharing(self, budget: CheckBudget, surrogates: Sequence[nn.Module]) -> CheckContext:
        """Return a context for other parameters that shares the images and attack results."""
        blocked = tuple(BatchedModel(network, self.model.batch_size) for network in surrogates)
        return replace(self, budget=budget, surrogates=blocked)

    @cached_property
    def n_classes(self) -> int:
        with torch.no_grad():
            return int(self.model(self.x[:1]).shape[1])

    @property
    def least(self) -> float:
        """LEAST_IMAGES as a share of the images."""
        return LEAST_IMAGES / len(self.y)

    def points(self, percent: float) -> float:
        """Return a threshold in percentage points as a share, at least LEAST_IMAGES."""
        return max(percent / 100, self.least)

    def share(self, what: str, found: Tensor, threshold: float) -> Indicator:
        """Return the share of the images (m,) that have a property, as an indicator."""
        return Indicator(what, share(found), threshold, len(found))

    def largest(
        self, what: str, threshold: float, pairs: Sequence[tuple[Tensor, Tensor]]
    ) -> Indicator:
        """Return the worst share that is correct in the first of a pair, not in the second.

        pairs: of (m,) bool, correct under two attacks; images of the reverse count against it.
        """
        n, tries = len(self.y), len(pairs)
        found = [
            Indicator(what, share(a) - share(b), threshold, n, int((b & ~a).sum()), tries)
            for a, b in pairs
        ]
        return worst(found)

    def flipped(self, found: Tensor) -> list[int]:
        """(m,) bool -> positions of these images among all images."""
        positions: list[int] = self.index[found.cpu()].tolist()
        return positions

    def generator(self, purpose: str) -> torch.Generator:
        return generator_for(self.seed, "checks", purpose, device=self.x.device)

    def attack(
        self,
        attack: Attack,
        purpose: str,
        *,
        eps: float | None = None,
        on: nn.Module | None = None,
    ) -> Tensor:
        """Return x_adv (m, C, H, W), made on the model or `on`, at the threat's eps or `eps`."""
        threat = self.threat if eps is None else replace(self.threat, eps=eps)
        return attack(on or self.model, self.x, self.y, threat, generator=self.generator(purpose))

    def everyone(self) -> Tensor:
        """(m,) bool, all true: every image is correct without an attack."""
        return torch.ones_like(self.y, dtype=torch.bool)

    def still_right(self, x_adv: Tensor) -> Tensor:
        """(m, C, H, W) -> (m,) bool: the model is correct on these images."""
        return predictions(self.model, x_adv, self.y)[0]

    def survivors(self, name: str, **params: Any) -> Tensor:
        """(m,) bool: correct under a registered attack, which runs once."""
        return self.remembered(
            f"{name} {sorted(params.items())}",
            lambda: self.still_right(self.attack(get_attack(name, **params), name)),
        )

    def white_box(self) -> Tensor:
        """(m,) bool: correct under each of WHITE_BOX."""
        return self.remembered(
            "white box", lambda: torch.stack([self.survivors(n) for n in WHITE_BOX]).all(0)
        )

    def remembered(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the flags that `make` computes, computing them once per key."""
        if key not in self._survivors:
            self._survivors[key] = make()
        return self._survivors[key]


def share(flags: Tensor) -> float:
    """Mean of (m,) bool."""
    return int(flags.sum()) / len(flags)
