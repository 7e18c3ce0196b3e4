"""Attacks by name. Each definition that this literature calls "PGD-20" has a name of its own.

An attack is a frozen dataclass that is called as
`attack(model, x, y, threat, generator=g) -> x_adv`; it decides nothing about success.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.attacks.autoattack import AttackWarning, AutoAttackPart, Cascade, cascade
from bench.attacks.maximise import maximise
from bench.attacks.pgd import PGD, Clean
from bench.errors import unknown_name
from bench.threat import REFERENCE_EPS, Threat


class Attack(Protocol):
    """What every attack offers."""

    @property
    def passes(self) -> tuple[int, int]:
        """Gradients and plain forwards, about, of an image that nothing breaks."""

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
        """(B, C, H, W) in [0, 1], (B,) -> x_adv (B, C, H, W), detached."""


def relative(length: float, eps: float = REFERENCE_EPS) -> float:
    """A step that a source gives in pixels at its own eps, in units of eps."""
    return length / eps


_CAT_STEP = 1 / 5
ATTACKS: dict[str, tuple[Attack, str]] = {
    "clean": (Clean(), "no attack"),
    "fgsm": (
        PGD(steps=1, relative_step=1.0, start="zero"),
        "one step of eps on cross entropy, no random start (Goodfellow et al. 2015)",
    ),
    **{
        f"pgd-{n}": (
            PGD(steps=n, relative_step=_CAT_STEP),
            f"{n} steps of eps/5 on cross entropy, uniform start (CAT paper, section 4.2)",
        )
        for n in (10, 20, 50, 100, 500)
    },
    "pgd-20x10": (
        PGD(steps=20, relative_step=_CAT_STEP, restarts=10),
        "pgd-20 with ten restarts, the worst of them per image",
    ),
    "cw": (
        PGD(steps=20, relative_step=_CAT_STEP, loss="margin"),
        "C&W-inf as this literature means it: 20 steps of eps/5 on the unclamped margin",
    ),
    "pgd-20-cat-code": (
        PGD(steps=20, relative_step=relative(0.007, 0.03)),
        "CAT's released code: steps of 0.007 at eps 0.03, uniform start",
    ),
    "pgd-20-trades": (
        PGD(steps=20, relative_step=relative(0.003, 0.031), start="uniform-unclipped"),
        "TRADES' evaluation: steps of 0.003 at eps 0.031, start not clipped to the pixel range",
    ),
    "pgd-20-mart-wrn": (
        PGD(steps=20, relative_step=relative(0.0031, 0.031)),
        "MART's evaluation of WRN: steps of 0.0031 at eps 0.031",
    ),
    "pgd-20-dart": (
        PGD(steps=20, relative_step=1 / 4),
        "Dynamic AT's evaluation: steps of eps/4",
    ),
    "pgd-20-madry": (
        PGD(steps=20, relative_step=relative(2 / 255)),
        "Madry's challenge: steps of 2/255 at eps 8/255",
    ),
    "pgd-20-rob": (
        PGD(steps=20, relative_step=2.5 / 20, start="zero", keep="best"),
        "MadryLab/robustness: steps of 2.5 eps/20, no random start, the best iterate",
    ),
    "pgd-50x10-fast": (
        PGD(steps=50, relative_step=relative(2 / 255), restarts=10),
        "Fast AT's evaluation: 50 steps of 2/255 at eps 8/255, ten restarts",
    ),
    "autoattack": (
        cascade("standard"),
        "AutoAttack, standard version: apgd-ce, apgd-t, fab-t, square",
    ),
    "autoattack-plus": (cascade("plus"), "AutoAttack, plus version: six parts, five restarts"),
    "autoattack-rand": (cascade("rand"), "AutoAttack, rand version: two parts, 20 samples a step"),
    **{
        part: (AutoAttackPart(part=part), f"AutoAttack's {part} alone, as in the standard version")
        for part in ("apgd-ce", "apgd-t", "fab-t", "square")
    },
}


def get_attack(name: str) -> Attack:
    """The attack of that name; raises ConfigError with the nearest known name."""
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    return ATTACKS[name][0]


def list_attacks() -> list[str]:
    """Names, in the order of the table above."""
    return list(ATTACKS)


def describe_attack(name: str) -> str:
    """One line: what it does and whose definition it is."""
    get_attack(name)
    return ATTACKS[name][1]


def attack_params(name: str) -> dict[str, Any]:
    """Every parameter of the attack, for its record."""
    return asdict(get_attack(name))  # type: ignore[call-overload,no-any-return]


__all__ = [
    "ATTACKS",
    "Attack",
    "AttackWarning",
    "AutoAttackPart",
    "Cascade",
    "PGD",
    "attack_params",
    "describe_attack",
    "get_attack",
    "list_attacks",
    "maximise",
]
