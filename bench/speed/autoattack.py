"""AutoAttack as it is driven here beside the package's own evaluation, with the same seed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import pyautoattack
import torch
from torch import Tensor, nn

from bench.attacks import Cascade, PartOn, get_attack
from bench.seeding import generator_for, seed_for
from bench.speed.attacked import Attacked, compared, evaluated
from bench.speed.row import Row
from bench.speed.setting import Setting
from bench.speed.subject import Subject, make_subject, survivors
from bench.threat import Threat

PACKAGE = "pyautoattack"
MOST_ROUNDS = 3
"""A round takes minutes, beside which a machine's noise is small."""


def autoattack_rows(attack: str, setting: Setting) -> Iterator[Row]:
    """One row. With a share of the iterations both sides have fewer; ours is the attack alone."""
    subject = make_subject(setting)
    setting = replace(setting, n_rounds=min(setting.n_rounds, MOST_ROUNDS))
    n, effort = setting.sizes.n_autoattack, setting.sizes.effort
    subject = replace(subject, x=subject.x[:n], y=subject.y[:n])
    found = get_attack(attack)
    assert isinstance(found, Cascade)
    whole = effort == 1
    short = shortened(found, effort)
    ours = evaluated(subject, attack) if whole else _alone(subject, attack, short)
    yield compared(
        *(attack, setting, subject),
        ours,
        _theirs(subject, effort),
        reference=f"{PACKAGE} {version(PACKAGE)}",
        note=None if whole else f"{effort:.0%} of the iterations",
        warm_up=not whole,
    )


@dataclass(frozen=True, kw_only=True)
class ShortPart(PartOn):
    """A part with fewer iterations."""

    effort: float = 1.0

    def _attack(
        self, model: nn.Module, threat: Threat, n_class: int, seed: int, device: torch.device
    ) -> Any:
        attack = super()._attack(model, threat, n_class, seed, device)
        _shorten(attack, self.effort)
        return attack


def shortened(attack: Cascade, effort: float) -> Cascade:
    """The same with that share of its iterations."""
    return Cascade(
        parts=tuple(
            ShortPart(part=p.part, version=p.version, search=p.search, effort=effort)
            for p in attack.parts
        )
    )


def _shorten(attack: Any, effort: float) -> None:
    """Of the package's attacks, each has one of the two."""
    for name in ("n_iter", "n_queries"):
        if hasattr(attack, name):
            setattr(attack, name, max(1, round(getattr(attack, name) * effort)))


def _alone(subject: Subject, attack: str, short: Cascade) -> Attacked:
    s = subject

    def run() -> Tensor:
        generator = generator_for(0, attack, 0, device=s.x.device)
        return survivors(s.network, short(s.network, s.x, s.y, s.threat, generator=generator), s.y)

    return run


def _theirs(subject: Subject, effort: float) -> Attacked:
    """The package's standard evaluation, all images in one batch."""
    s = subject

    def run() -> Tensor:
        seed = seed_for(0, "autoattack", 0)
        suite = pyautoattack.AutoAttack(
            s.network, eps=s.threat.eps, seed=seed, version="standard", device=s.x.device
        )
        for part in (suite.apgd, suite.apgd_targeted, suite.fab, suite.square):
            _shorten(part, effort)
        with torch.random.fork_rng(devices=[s.x.device] if s.x.is_cuda else []), _silent():
            x_adv = suite.run_standard_evaluation(s.x, s.y, batch_size=len(s.y))[0]
        return survivors(s.network, x_adv.to(s.x.device), s.y)

    return run


@contextmanager
def _silent() -> Iterator[None]:
    """The package's notices on the model, which ours makes into warnings."""
    logger = logging.getLogger("auto-attack")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
