"""AutoAttack (Croce and Hein, arXiv 2003.01690): the package's own attack code, part by part.

`pyautoattack` reseeds the global generator for each part and batch, so its result depends on the
batch size. Here a call is one chunk and one seed, and the evaluator makes the chunks; survivors
then equal those of the package, run on that chunk with that seed.

Square's loop is our own, bit-equal to the package's. Parts that search on a copy need not be equal:
they take several target classes at once and run our own FAB (`bench.attacks.searches`).
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from logging.handlers import BufferingHandler
from typing import Any, Literal

import pyautoattack
import torch
from torch import Tensor, nn

from bench.attacks.attack import (
    COPIES,
    Attack,
    AttackWarning,
    Definitions,
    Noise,
    Search,
    Stages,
    in_turn,
)
from bench.attacks.maximise import attack_mode, check_choice
from bench.attacks.networks import gradient_source
from bench.attacks.searches import RUNS, by_groups, search_squares
from bench.errors import ConfigError
from bench.threat import Threat

PARTS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
N_TARGETS = 9
"""Most target classes of the targeted parts."""
MIN_CLASSES = 4
"""The targeted DLR loss takes the four largest logits."""


@dataclass(frozen=True, kw_only=True)
class AutoAttackPart(Attack):
    """One attack of the package, with the settings of one of its versions."""

    part: str
    """apgd-ce, apgd-dlr, apgd-t, fab, fab-t or square."""
    version: Literal["standard", "plus", "rand"] = "standard"
    """Sets restarts, iterations and samples."""

    is_autoattack, min_classes = True, MIN_CLASSES

    @property
    def name(self) -> str:
        return self.part

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return x_adv; images that were not broken come back unchanged.

        The package takes a seed instead of a generator: the initial seed of the generator. A call
        is a chunk, so `noise.rows` has no effect.
        """
        model = gradient_source(model, self.search)
        if len(x) == 0:
            return x.clone()
        seed = noise.generator.initial_seed() if noise.generator is not None else 0
        devices = [x.device] if x.device.type == "cuda" else []
        with (
            attack_mode(model, "eval"),
            torch.random.fork_rng(devices=devices),
            torch.no_grad(),
            _notices(),
        ):
            attack = self._attack(model, threat, n_classes(model, x), seed, x.device)
            x_adv: Tensor = self._perturb(attack, model, x.contiguous(), y).detach()
        return x_adv

    @property
    def passes(self) -> tuple[int, int]:
        iterations, restarts = 100, 5 if self.version == "plus" else 1
        samples = 20 if self.version == "rand" else 1
        return {
            "apgd-t": (N_TARGETS * (iterations + 1), N_TARGETS + 2),
            "fab": (restarts * iterations * N_TARGETS, restarts * iterations),
            "fab-t": (N_TARGETS * iterations, N_TARGETS * iterations),
            "square": (0, 5000),
        }.get(self.part, (samples * restarts * (iterations + 1), 2))

    def _perturb(self, attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        return attack.perturb(x.clone(), y.clone())

    def _attack(
        self, model: nn.Module, threat: Threat, n_class: int, seed: int, device: torch.device
    ) -> Any:
        def fresh_logits(images: Tensor) -> Tensor:  # Square writes into the logits
            logits: Tensor = model(images)
            return logits.clone()

        suite = pyautoattack.AutoAttack(
            fresh_logits, eps=threat.eps, seed=seed, version=self.version, device=device
        )
        # the targeted parts raise if there are fewer other classes than targets
        suite.apgd_targeted.n_target_classes = min(N_TARGETS, n_class - 1)
        suite.fab.n_target_classes = min(N_TARGETS, n_class - 1)
        if self.part == "fab-t":
            suite.fab.targeted, suite.fab.n_restarts = True, 1
        suite.apgd.loss = self.part.removeprefix("apgd-")
        layout = getattr(model, "layout", torch.preserve_format)
        suite.square.attack_single_run = partial(search_squares, suite.square, layout=layout)
        attacks = {"apgd-t": suite.apgd_targeted, "fab-t": suite.fab, "fab": suite.fab}
        return ({"square": suite.square} | attacks).get(self.part, suite.apgd)


@dataclass(frozen=True, kw_only=True)
class FastAutoAttackPart(AutoAttackPart):
    """A part that searches on a chosen copy."""

    search: Search = "bf16"
    """network, fp32 (a copy in the model's own dtype) or bf16."""

    def __post_init__(self) -> None:
        check_choice("search", self.search, Search)

    @property
    def name(self) -> str:
        return f"{self.part} on the network" if self.search == "network" else self.part

    def _perturb(self, attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Any:
        if self.search == "network" or self.part not in RUNS:
            return super()._perturb(attack, model, x, y)
        return by_groups(RUNS[self.part], attack, model, x, y)


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """Attacks one after the other, each on the images that the earlier ones did not break."""

    parts: tuple[AutoAttackPart, ...]
    """In order. All draw from the one seed, like in the package."""

    is_autoattack, min_classes = True, MIN_CLASSES

    @property
    def stages(self) -> Stages:
        return tuple((part.name, part) for part in self.parts)

    @property
    def search(self) -> Search:
        return self.parts[0].search

    @property
    def passes(self) -> tuple[int, int]:
        each = [part.passes for part in self.parts]
        return sum(gradients for gradients, _ in each), sum(forwards for _, forwards in each)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: Noise) -> Tensor:
        def run(part: AutoAttackPart, left: Tensor) -> Tensor:
            return part.craft(model, x[left], y[left], threat, noise)

        return in_turn([partial(run, part) for part in self.parts], model, x, y)


def cascade(version: Literal["standard", "plus", "rand"]) -> AutoAttack:
    return AutoAttack(parts=tuple(AutoAttackPart(part=p, version=version) for p in PARTS[version]))


def fast_cascade(search: Search) -> AutoAttack:
    """Return the standard version on a copy, followed by apgd-ce on the network.

    The last part attacks the survivors, among them images that only the copy misclassifies or
    whose gradients it distorts. It is the cheapest part and the one that breaks most images.
    """
    on_copy = (FastAutoAttackPart(part=part, search=search) for part in PARTS["standard"])
    return AutoAttack(
        parts=(*on_copy, FastAutoAttackPart(part=PARTS["standard"][0], search="network"))
    )


def n_classes(model: nn.Module, x: Tensor) -> int:
    """The number of logits; raises ConfigError below 4, too few for the targeted DLR loss."""
    n = int(model(x[:1]).shape[1])
    if n < MIN_CLASSES:
        raise ConfigError(
            f"AutoAttack needs at least {MIN_CLASSES} classes and the model has {n}; "
            "use --attacks pgd-20,cw"
        )
    return n


@contextmanager
def _notices() -> Iterator[None]:
    """Turn the package's log messages into AttackWarning, once each."""
    logger, handler = logging.getLogger("auto-attack"), BufferingHandler(sys.maxsize)
    handler.setLevel(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    for message in dict.fromkeys(record.getMessage() for record in handler.buffer):
        warnings.warn(AttackWarning(message), stacklevel=3)


DEFINITIONS: Definitions = {
    "autoattack": (
        cascade("standard"),
        "AutoAttack, standard version: apgd-ce, apgd-t, fab-t, square",
    ),
    "autoattack-plus": (cascade("plus"), "AutoAttack, plus version: six parts, five restarts"),
    "autoattack-rand": (cascade("rand"), "AutoAttack, rand version: two parts, 20 samples a step"),
    **{
        f"autoattack-fast{suffix}": (
            fast_cascade(search),
            f"AutoAttack's standard version searched on {copy}, then apgd-ce on the network itself "
            "for what survived (ours; not a standard AutoAttack result)",
        )
        for suffix, search, copy in COPIES
    },
    **{
        part: (AutoAttackPart(part=part), f"AutoAttack's {part} alone, as in the standard version")
        for part in ("apgd-ce", "apgd-t", "fab-t", "square")
    },
}
