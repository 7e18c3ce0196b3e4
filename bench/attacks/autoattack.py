"""AutoAttack (Croce and Hein, arXiv 2003.01690): the package's own attack code, part by part.

`pyautoattack` draws from the global generator, seeded anew for each part and batch, so that its
result depends on how images are batched. Here a call is one chunk and one seed, and the evaluator
makes the chunks; the survivors are then those of the package, run on that chunk with that seed.

Square's loop is run by code of our own, equal to the bit (`bench.attacks.square`). Parts that are
asked to search on a copy, which promise no such thing, take several target classes at once
(`bench.attacks.targets`) and have a FAB of our own (`bench.attacks.fab`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyautoattack
import torch
from torch import Tensor, nn

from bench.attacks.attack import Attack, AttackWarning, Search, Stages
from bench.attacks.maximise import attack_mode, check_choice
from bench.attacks.search import searched
from bench.attacks.sequence import in_turn
from bench.attacks.square import search_squares
from bench.attacks.targets import RUNS, by_groups
from bench.errors import ConfigError
from bench.threat import Threat

PARTS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
N_TARGETS = 9
"""Target classes of the targeted parts, where there are as many."""
MIN_CLASSES = 4
"""The targeted DLR loss takes the four largest logits."""


@dataclass(frozen=True, kw_only=True)
class AutoAttackPart(Attack):
    """One attack of the package, with the settings of one of its versions."""

    part: str
    """apgd-ce, apgd-dlr, apgd-t, fab, fab-t or square."""
    version: Literal["standard", "plus", "rand"] = "standard"
    """Whose restarts, iterations and samples."""

    @property
    def name(self) -> str:
        """Among the parts of a cascade."""
        return self.part

    @property
    def is_autoattack(self) -> bool:
        return True

    @property
    def min_classes(self) -> int:
        return MIN_CLASSES

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
        """(B, C, H, W), (B,) -> x_adv; images that it did not break come back as they were.

        The package takes a seed and no generator: it gets the one that `generator` began with.
        `rows` has no effect: a call is a chunk.
        """
        model = searched(model, self.search)
        seed = generator.initial_seed() if generator is not None else 0
        x, y = x.detach().contiguous(), y.detach()
        if len(x) == 0:
            return x.clone()
        devices = [x.device] if x.device.type == "cuda" else []
        with (
            attack_mode(model, "eval"),
            torch.random.fork_rng(devices=devices),
            torch.no_grad(),
            _notices(),
        ):
            attack = self._attack(model, threat, n_classes(model, x), seed, x.device)
            return self._perturb(attack, model, x, y).detach()

    @property
    def passes(self) -> tuple[int, int]:
        """Gradients and plain forwards, about, of an image that nothing breaks."""
        iterations, restarts = 100, 5 if self.version == "plus" else 1
        samples = 20 if self.version == "rand" else 1
        return {
            "apgd-ce": (samples * restarts * (iterations + 1), 2),
            "apgd-dlr": (samples * restarts * (iterations + 1), 2),
            "apgd-t": (N_TARGETS * (iterations + 1), N_TARGETS + 2),
            "fab": (restarts * iterations * N_TARGETS, restarts * iterations),
            "fab-t": (N_TARGETS * iterations, N_TARGETS * iterations),
            "square": (0, 5000),
        }[self.part]

    def _perturb(self, attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv: Tensor = attack.perturb(x.clone(), y.clone())
        return x_adv

    def _attack(
        self, model: nn.Module, threat: Threat, n_class: int, seed: int, device: torch.device
    ) -> Any:
        def own_logits(images: Tensor) -> Tensor:  # Square writes into what it is given
            logits: Tensor = model(images)
            return logits.clone()

        suite = pyautoattack.AutoAttack(
            own_logits, eps=threat.eps, seed=seed, version=self.version, device=device
        )
        # the targeted parts sort the other classes and raise where there are fewer than asked for
        suite.apgd_targeted.n_target_classes = min(N_TARGETS, n_class - 1)
        suite.fab.n_target_classes = min(N_TARGETS, n_class - 1)
        if self.part in ("apgd-ce", "apgd-dlr"):
            suite.apgd.loss = self.part.removeprefix("apgd-")
            return suite.apgd
        if self.part == "fab-t":
            suite.fab.targeted = True
            suite.fab.n_restarts = 1
        layout = getattr(model, "layout", torch.preserve_format)
        suite.square.attack_single_run = partial(search_squares, suite.square, layout=layout)
        return {
            "apgd-t": suite.apgd_targeted,
            "fab": suite.fab,
            "fab-t": suite.fab,
            "square": suite.square,
        }[self.part]


@dataclass(frozen=True, kw_only=True)
class PartOn(AutoAttackPart):
    """A part that searches where it is told to."""

    search: Search = "bf16"
    """network, fp32 (a copy in the model's own dtype) or bf16."""

    def __post_init__(self) -> None:
        check_choice("search", self.search, Search)

    @property
    def name(self) -> str:
        """Of its own even where the same part ran on a copy before."""
        return f"{self.part} on the network" if self.search == "network" else self.part

    def _perturb(self, attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if self.search == "network" or self.part not in RUNS:
            return super()._perturb(attack, model, x, y)
        return by_groups(RUNS[self.part], attack, model, x, y)


@dataclass(frozen=True, kw_only=True)
class Cascade(Attack):
    """Attacks one after the other, each on the images that the earlier ones did not break."""

    parts: tuple[AutoAttackPart, ...]
    """In order. All draw from the one seed, as the package does."""

    @property
    def stages(self) -> Stages:
        """The parts with their names."""
        return tuple((part.name, part) for part in self.parts)

    @property
    def is_autoattack(self) -> bool:
        return True

    @property
    def min_classes(self) -> int:
        return MIN_CLASSES

    @property
    def search(self) -> Search:
        """That of the first part."""
        return self.parts[0].search

    @property
    def passes(self) -> tuple[int, int]:
        """Gradients and plain forwards, about, of an image that nothing breaks."""
        each = [part.passes for part in self.parts]
        return sum(gradients for gradients, _ in each), sum(forwards for _, forwards in each)

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
        """(B, C, H, W), (B,) -> x_adv: for each image the part's result that broke it."""

        def run(part: AutoAttackPart, left: Tensor) -> Tensor:
            return part(model, x[left], y[left], threat, generator=generator)

        return in_turn([partial(run, part) for part in self.parts], model, x, y)


def cascade(version: Literal["standard", "plus", "rand"]) -> Cascade:
    """A version of AutoAttack as the package defines it."""
    return Cascade(parts=tuple(AutoAttackPart(part=p, version=version) for p in PARTS[version]))


def fast_cascade(search: Search) -> Cascade:
    """The standard version on a copy, and then apgd-ce on the network for what survived.

    The last part meets the images that a copy alone gets wrong, and those whose gradients a copy
    bends; it is the cheapest of the parts and the one that breaks most images.
    """
    on_copy = (PartOn(part=part, search=search) for part in PARTS["standard"])
    return Cascade(parts=(*on_copy, PartOn(part=PARTS["standard"][0], search="network")))


def n_classes(model: nn.Module, x: Tensor) -> int:
    """Number of logits; raises ConfigError below 4, where the DLR loss is not defined."""
    n = int(model(x[:1]).shape[1])
    if n < MIN_CLASSES:
        raise ConfigError(
            f"AutoAttack needs at least {MIN_CLASSES} classes and the model has {n}; "
            "use --attacks pgd-20,cw"
        )
    return n


@contextmanager
def _notices() -> Iterator[None]:
    """The package's log messages as Python warnings, where a caller can collect them."""
    logger = logging.getLogger("auto-attack")
    handler = _Handler(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    for message in dict.fromkeys(handler.messages):
        warnings.warn(AttackWarning(message), stacklevel=3)


class _Handler(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
