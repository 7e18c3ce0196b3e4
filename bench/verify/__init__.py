"""Compare short runs of every method and attack with their pins, or pin them anew."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch

from bench.attacks import list_attacks
from bench.errors import BenchError, NonFiniteLoss, RecordError, unknown_name
from bench.machine import describe_machine
from bench.progress import Reporter, duration
from bench.registry import broken_methods, list_methods
from bench.storage import write_json
from bench.verify.baselines import (
    AttackBaseline,
    Baseline,
    TrainingBaseline,
    run_attack,
    run_method,
)
from bench.verify.networks import NETWORKS, load_network, make_networks

Key = tuple[str, str]
"""Kind (method or attack) and name."""
KINDS: dict[str, type[Baseline]] = {cls.kind: cls for cls in (TrainingBaseline, AttackBaseline)}
DECIDING = ("torch", "numpy", "pyautoattack")
"""Packages whose version may change the last bits."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    lines: tuple[str, ...]
    """One for each method and attack that moved, or was pinned."""
    moved: tuple[str, ...]
    """Names of those that are not as pinned and, where `verify` pins, could not be pinned."""
    summary: str


@dataclass(frozen=True)
class Pin:
    """A baseline, and where it was found."""

    fact: Baseline
    provenance: Mapping[str, Any]

    @property
    def elsewhere(self) -> bool:
        """Whether it was found with other software or on another processor than this."""
        return _place(self.provenance) != _place(here())


def verify(
    folder: Path, only: Sequence[str], reporter: Reporter, *, pin: bool = False
) -> Verification:
    """Compare every method and attack, or those named in `only`, with the pins in `folder`.

    pin: write what is not as pinned instead. Raises ConfigError for an unknown name, RecordError
    for a pin that is damaged or networks that are missing, before anything is run.
    """
    since = time.monotonic()
    runs: dict[Key, Callable[[], Baseline]] = {
        **{("method", name): partial(run_method, name) for name in list_methods()},
        **{("attack", name): partial(run_attack, name, folder) for name in list_attacks()},
    }
    there = pinned(folder)
    known = [*runs, *(key for key in there if key not in runs)]
    names = {name for _, name in known}
    for name in only:
        if name not in names:
            raise unknown_name("method or attack", name, names)
    chosen = [key for key in known if not only or key[1] in only]
    made = make_networks(folder) if pin else []
    for name in NETWORKS:
        load_network(folder, name)
    pins = {key: _read(there[key], pin) for key in chosen if key in there and key in runs}
    lines, moved = [f"network {name}: trained anew" for name in made], []
    with reporter.task("bench verify", len(chosen)) as task:
        for key in chosen:
            task.advance(0, key[1])
            look = _pin if pin else _compare
            line, good = look(folder, key, runs.get(key), pins.get(key))
            lines += [f"{' '.join(key)}: {line}"] if line else []
            moved += [] if good else [key[1]]
            task.advance()
    summary = _summary(chosen, moved, len(lines), time.monotonic() - since, pin)
    return Verification(tuple(lines), tuple(moved), summary)


def here() -> dict[str, Any]:
    """Return versions and processor of this process; runs use one thread."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {**describe_machine(torch.device("cpu")), "threads": 1, "instructions": capability}


def pin_file(folder: Path, kind: str, name: str) -> Path:
    """Return the file of the pin of that method or attack."""
    return folder / f"{kind}-{name}.json"


def pinned(folder: Path) -> dict[Key, Path]:
    """Return the file of every pin in the folder."""
    return {
        (kind, path.stem.removeprefix(f"{kind}-")): path
        for kind in KINDS
        for path in sorted(folder.glob(f"{kind}-*.json"))
    }


def read_pin(path: Path) -> Pin:
    """Return a pin; raises RecordError that names a damaged file and what to do."""
    kind, _, name = path.stem.partition("-")
    try:
        content = json.loads(path.read_bytes())
        fact = KINDS[kind](**content["fact"])
        good = isinstance(fact.asked, dict) and all(isinstance(n, float) for n in fact.numbers)
        if not good or not isinstance(getattr(fact, "survivors", ""), str):
            raise TypeError("a value is of the wrong kind")
        return Pin(fact, dict(content["provenance"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecordError(
            f"{path} is no pin, or damaged ({type(error).__name__}: {reason}): restore it from "
            f"git, or write it again with bench verify --pin --only {name}"
        ) from None


def _read(path: Path, pin: bool) -> Pin | None:
    """The pin; where it is to be written anew, a damaged one is none."""
    try:
        return read_pin(path)
    except RecordError:
        if pin:
            return None
        raise


def _compare(
    folder: Path, key: Key, run: Callable[[], Baseline] | None, pin: Pin | None
) -> tuple[str, bool]:
    """What to say of one run, and whether it is as pinned."""
    command = f"bench verify --pin --only {key[1]}"
    if run is None:
        # a method may be missing because its module does not import
        broken = "".join(f" ({module}: {why})" for module, why in broken_methods().items())
        return f"is pinned and not registered{broken}; {command} removes the pin", False
    if pin is None:
        return f"has no pin; if it is new, {command} adds it", False
    try:
        moved = run().moved(pin.fact, elsewhere=pin.elsewhere)
    except Exception as error:  # whatever a method or an attack raises is its own, and is shown
        moved = _failure(error)
    return moved, not moved


def _pin(
    folder: Path, key: Key, run: Callable[[], Baseline] | None, pin: Pin | None
) -> tuple[str, bool]:
    """Like `_compare`, after writing the pin where it differs at all."""
    path = pin_file(folder, *key)
    if run is None:
        path.unlink()
        return "no longer registered: pin removed", True
    try:
        fact = run()
    except Exception as error:
        return f"not pinned, {_failure(error)}", False
    moved = fact.moved(pin.fact, elsewhere=False) if pin else "new"
    if moved:
        content = {"kind": fact.kind, "name": key[1], "fact": asdict(fact), "provenance": here()}
        write_json(path, content)
    return moved and f"pinned, {moved}", True


def _failure(error: Exception) -> str:
    """What went wrong, and where if that was not foreseen, in a line."""
    said = " ".join(str(error).split())
    if isinstance(error, BenchError | NonFiniteLoss):
        return f"fails: {said}"
    frame = extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
    return f"fails: {type(error).__name__} in {where}: {said or frame.line}"


def _summary(
    chosen: Sequence[Key], moved: Sequence[str], n_lines: int, seconds: float, pin: bool
) -> str:
    counts = {kind: sum(key[0] == kind for key in chosen) for kind in KINDS}
    looked = " and ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in counts.items() if n)
    looked = f"{looked} ({duration(seconds)})"
    if pin:
        return f"{n_lines - len(moved)} pins written or removed, of {looked}"
    if not moved:
        return f"as pinned: {looked}"
    named = f" --only {','.join(moved)}" if len(moved) < len(chosen) else ""
    return (
        f"{len(moved)} moved, of {looked}; if that is meant, run bench verify --pin{named} and "
        "commit the pins with the change that moved them"
    )


def _place(provenance: Mapping[str, Any]) -> tuple[Any, ...]:
    packages = provenance.get("packages", {})
    processor = provenance.get("processor"), provenance.get("instructions")
    return (*processor, *(packages.get(name) for name in DECIDING))
