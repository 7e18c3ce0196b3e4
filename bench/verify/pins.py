"""The files in which facts are pinned: one a method and one an attack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.errors import RecordError
from bench.machine import describe_machine
from bench.storage import write_json
from bench.verify.fact import Fact
from bench.verify.survivors import AttackOutcome
from bench.verify.trace import MethodTrace

KINDS: dict[str, type[Fact]] = {cls.kind: cls for cls in (MethodTrace, AttackOutcome)}
DECIDING = ("torch", "numpy", "pyautoattack")
"""Packages whose version may change the last bits."""


@dataclass(frozen=True)
class Pin:
    """A fact, and where it was found."""

    fact: Fact
    provenance: Mapping[str, Any]

    @property
    def elsewhere(self) -> bool:
        """Whether it was found with other software or on another processor than this."""
        return _place(self.provenance) != _place(here())


def here() -> dict[str, Any]:
    """Versions and processor of this process; facts are found with one thread."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {**describe_machine(torch.device("cpu")), "threads": 1, "instructions": capability}


def pin_file(folder: Path, kind: str, name: str) -> Path:
    """Where the fact of that method or attack is pinned."""
    return folder / f"{kind}-{name}.json"


def pinned_names(folder: Path) -> dict[tuple[str, str], Path]:
    """(kind, name) of every pin that is there -> its file."""
    return {
        (kind, path.stem.removeprefix(f"{kind}-")): path
        for kind in KINDS
        for path in sorted(folder.glob(f"{kind}-*.json"))
    }


def read_pin(path: Path) -> Pin:
    """Raises RecordError that names a damaged file and what to do."""
    kind, _, name = path.stem.partition("-")
    try:
        content = json.loads(path.read_bytes())
        fact = KINDS[kind](**content["fact"])
        _check(fact)
        return Pin(fact, dict(content["provenance"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecordError(
            f"{path} is no pin, or damaged ({type(error).__name__}: {reason}): restore it from "
            f"git, or write it again with bench verify --pin --only {name}"
        ) from None


def write_pin(path: Path, fact: Fact, name: str) -> None:
    """The fact as it was found here."""
    content = {"kind": fact.kind, "name": name, "fact": asdict(fact), "provenance": here()}
    write_json(path, content)


def _check(fact: Fact) -> None:
    """Raises TypeError for values that no comparison could take."""
    good = isinstance(fact.asked, dict) and all(isinstance(n, float) for n in fact.numbers)
    if not good or not isinstance(getattr(fact, "survivors", ""), str):
        raise TypeError("a value is of the wrong kind")


def _place(provenance: Mapping[str, Any]) -> tuple[Any, ...]:
    packages = provenance.get("packages", {})
    processor = provenance.get("processor"), provenance.get("instructions")
    return (*processor, *(packages.get(name) for name in DECIDING))
