"""Attacks by name.

An attack is a frozen dataclass that is called as
`attack(model, x, y, threat, generator=g) -> x_adv`; it decides nothing about success.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from bench.attacks.attack import Attack, AttackWarning, Search
from bench.attacks.autoattack import AutoAttackPart, Cascade, PartOn
from bench.attacks.definitions import DEFINITIONS
from bench.attacks.maximise import maximise
from bench.attacks.md import MD
from bench.attacks.multitargeted import MultiTargeted
from bench.attacks.pgd import PGD, PGDOn
from bench.attacks.transfer import NAME, Transfer
from bench.errors import unknown_name

ATTACKS: dict[str, tuple[Attack, str]] = {
    **DEFINITIONS,
    NAME: (
        Transfer(),
        f"{Transfer().definition}; transfer:madry or transfer:natural+madry name other sources",
    ),
}


def get_attack(name: str, **params: Any) -> Attack:
    """The attack of that name, with `params` in place of its own.

    `transfer:A+B` names the sources of a transfer; `surrogate=` gives it their networks. Raises
    ConfigError for a name or a parameter that is unknown, with the nearest known one.
    """
    base, colon, sources = name.partition(":")
    if base == NAME and colon:
        params = {"sources": tuple(sources.split("+"))} | params
    elif name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    attack: Any = ATTACKS[base][0]
    known = [field.name for field in fields(attack)] if is_dataclass(attack) else []
    for key in params:
        if key not in known:
            raise unknown_name(f"parameter of attack {name}", key, known)
    changed: Attack = replace(attack, **params) if params else attack
    return changed


def list_attacks() -> list[str]:
    """Names, in the order of the table above."""
    return list(ATTACKS)


def describe_attack(name: str) -> str:
    """One line: what it does and whose definition it is."""
    if name in ATTACKS:
        return ATTACKS[name][1]
    attack = get_attack(name)
    assert isinstance(attack, Transfer)
    return attack.definition


def attack_params(name: str, **params: Any) -> dict[str, Any]:
    """Every parameter of `get_attack(name, **params)` as plain JSON values, for its record."""
    plain: dict[str, Any] = _plain(get_attack(name, **params))
    return plain


def _plain(value: Any) -> Any:
    """Fields that are not compared, such as a network, are no parameters."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.compare}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


__all__ = [
    "ATTACKS",
    "Attack",
    "AttackWarning",
    "AutoAttackPart",
    "Cascade",
    "MD",
    "MultiTargeted",
    "PGD",
    "PGDOn",
    "PartOn",
    "Search",
    "Transfer",
    "attack_params",
    "describe_attack",
    "get_attack",
    "list_attacks",
    "maximise",
]
