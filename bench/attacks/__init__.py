"""Attacks by name: `get_attack("pgd-20")(model, x, y, threat, generator=g) -> x_adv`."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from bench.attacks.attack import Attack, AttackWarning, Search, definitions
from bench.attacks.autoattack import AutoAttack, AutoAttackPart, FastAutoAttackPart
from bench.attacks.margins import MD, MultiTargeted
from bench.attacks.maximise import maximise
from bench.attacks.pgd import PGD, FastPGD
from bench.attacks.transfer import NAME, Transfer
from bench.errors import unknown_name

ATTACKS: dict[str, tuple[Attack, str]] = {
    **definitions(),
    NAME: (
        Transfer(),
        f"{Transfer().definition}; transfer:madry or transfer:natural+madry name other sources",
    ),
}


def get_attack(name: str, **params: Any) -> Attack:
    """Return the attack called `name`, with its parameters replaced by `params`.

    `transfer:A+B` names the sources of a transfer; `surrogate=` takes their networks. Raises
    ConfigError for an unknown name or parameter, with the nearest known one.
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
    return list(ATTACKS)


def describe_attack(name: str) -> str:
    """Return one line: what the attack does, and whose definition it is."""
    if name in ATTACKS:
        return ATTACKS[name][1]
    attack = get_attack(name)
    assert isinstance(attack, Transfer)
    return attack.definition


def attack_params(name: str, **params: Any) -> dict[str, Any]:
    """Return every parameter of `get_attack(name, **params)` as JSON values, for its record."""
    values: dict[str, Any] = _as_json(get_attack(name, **params))
    return values


def _as_json(value: Any) -> Any:
    """Fields that are not compared, such as a network, are no parameters."""
    if is_dataclass(value):
        return {f.name: _as_json(getattr(value, f.name)) for f in fields(value) if f.compare}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_json(item) for item in value]
    return value


__all__ = [
    "ATTACKS",
    "Attack",
    "AttackWarning",
    "AutoAttackPart",
    "AutoAttack",
    "MD",
    "MultiTargeted",
    "PGD",
    "FastPGD",
    "FastAutoAttackPart",
    "Search",
    "Transfer",
    "attack_params",
    "describe_attack",
    "get_attack",
    "list_attacks",
    "maximise",
]
