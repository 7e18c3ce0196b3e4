"""Compare short runs of every method and attack with their pins, or write new pins."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from bench.verify.baselines import CPU, Outcome, difference, run_attack, run_method
from bench.verify.networks import NETWORKS, load_network, make_networks

Key = tuple[str, str]
"""Kind (method or attack) and name."""
FIELDS: dict[str, dict[str, type]] = {
    "method": {"asked": dict, "losses": list, "weights": float},
    "attack": {"asked": dict, "survivors": str, "margins": list},
}
"""What a pin of each kind holds; lists are of floats."""
DECIDING = ("torch", "numpy", "pyautoattack")
"""Packages whose version may change the last bits."""


@dataclass(frozen=True)
class Verification:
    """The result of `verify`."""

    lines: tuple[str, ...]
    """One for each method and attack that moved, or was pinned."""
    moved: tuple[str, ...]
    """Names of those that differ from their pins or, where `verify` pins, could not be pinned."""
    summary: str


@dataclass(frozen=True)
class Pin:
    """A pinned outcome and the machine and software that it was measured with."""

    fact: Outcome
    provenance: Mapping[str, Any]

    @property
    def elsewhere(self) -> bool:
        """Whether it was measured with other software or on another processor."""
        return _place(self.provenance) != _place(here())


def verify(
    folder: Path,
    only: Sequence[str],
    reporter: Reporter,
    *,
    pin: bool = False,
    device: torch.device = CPU,
) -> Verification:
    """Compare every method and attack, or those named in `only`, with the pins in `folder`.

    pin: write what differs instead. device: where to run, from random numbers of the CPU. Raises
    ConfigError for an unknown name, RecordError for a damaged pin or missing networks, before
    anything is run.
    """
    since = time.monotonic()
    runs: dict[Key, Callable[[], Outcome]] = {
        **{("method", name): partial(run_method, name, device) for name in list_methods()},
        **{("attack", name): partial(run_attack, name, folder, device) for name in list_attacks()},
    }
    files = {
        (kind, path.stem.removeprefix(f"{kind}-")): path
        for kind in FIELDS
        for path in sorted(folder.glob(f"{kind}-*.json"))
    }
    known = list({**runs, **files})
    names = {name for _, name in known}
    for name in only:
        if name not in names:
            raise unknown_name("method or attack", name, names)
    chosen = [key for key in known if not only or key[1] in only]
    made = make_networks(folder) if pin else []
    for name in NETWORKS:
        load_network(folder, name)
    pins = {key: _read(files[key], pin) for key in chosen if key in files and key in runs}
    lines, moved = [f"network {name}: trained anew" for name in made], []
    with reporter.task("bench verify", len(chosen)) as task:
        for key in chosen:
            task.advance(0, key[1])
            check = _pin if pin else partial(_compare, device=device)
            line, good = check(folder, key, runs.get(key), pins.get(key))
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
    return folder / f"{kind}-{name}.json"


def read_pin(path: Path) -> Pin:
    """Return a pin; raise RecordError for a damaged file, with the command that repairs it."""
    kind, _, name = path.stem.partition("-")
    try:
        content = json.loads(path.read_bytes())
        fact = content["fact"]
        for field, of in FIELDS[kind].items():
            value = fact[field]
            numbers = value if of is list else ()
            if not isinstance(value, of) or not all(isinstance(n, float) for n in numbers):
                raise TypeError(f"{field} is of the wrong kind")
        return Pin(fact, dict(content["provenance"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecordError(
            f"{path} is no pin, or damaged ({type(error).__name__}: {reason}): restore it from "
            f"git, or write it again with bench verify --pin --only {name}"
        ) from None


def _read(path: Path, pin: bool) -> Pin | None:
    """The pin; None if it is damaged and about to be rewritten."""
    try:
        return read_pin(path)
    except RecordError:
        if pin:
            return None
        raise


def _compare(
    folder: Path,
    key: Key,
    run: Callable[[], Outcome] | None,
    pin: Pin | None,
    device: torch.device = CPU,
) -> tuple[str, bool]:
    """The line about one run, and whether it matches its pin."""
    command = f"bench verify --pin --only {key[1]}"
    if run is None:
        # a method may be missing because its module does not import
        broken = "".join(f" ({module}: {why})" for module, why in broken_methods().items())
        return f"is pinned and not registered{broken}; {command} removes the pin", False
    if pin is None:
        return f"has no pin; if it is new, {command} adds it", False
    try:
        moved = difference(run(), pin.fact, elsewhere=pin.elsewhere or device != CPU)
    except Exception as error:  # methods and attacks may raise anything
        moved = _failure(error)
    return moved, not moved


def _pin(
    folder: Path, key: Key, run: Callable[[], Outcome] | None, pin: Pin | None
) -> tuple[str, bool]:
    """Like `_compare`, after writing the pin if it differs at all."""
    path = pin_file(folder, *key)
    if run is None:
        path.unlink()
        return "no longer registered: pin removed", True
    try:
        fact = run()
    except Exception as error:
        return f"not pinned, {_failure(error)}", False
    moved = difference(fact, pin.fact, elsewhere=False) if pin else "new"
    if moved:
        write_json(path, {"kind": key[0], "name": key[1], "fact": fact, "provenance": here()})
    return moved and f"pinned, {moved}", True


def _failure(error: Exception) -> str:
    """One line on an error, with its place in the code unless it is one of ours."""
    said = " ".join(str(error).split())
    if isinstance(error, BenchError | NonFiniteLoss):
        return f"fails: {said}"
    frame = extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
    return f"fails: {type(error).__name__} in {where}: {said or frame.line}"


def _summary(
    chosen: Sequence[Key], moved: Sequence[str], n_lines: int, seconds: float, pin: bool
) -> str:
    counts = {kind: sum(key[0] == kind for key in chosen) for kind in FIELDS}
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
