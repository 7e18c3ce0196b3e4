"""Do the short runs, compare with the pins, and say what moved; or pin anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb

from bench.attacks import list_attacks
from bench.errors import BenchError, NonFiniteLoss, RecordError, unknown_name
from bench.progress import Reporter, duration
from bench.registry import broken_methods, list_methods
from bench.verify.fact import Fact
from bench.verify.network import NETWORKS, load_network, make_networks
from bench.verify.pins import KINDS, Pin, pin_file, pinned_names, read_pin, write_pin
from bench.verify.survivors import outcome
from bench.verify.trace import trace

Key = tuple[str, str]
"""Kind (method or attack) and name."""


@dataclass(frozen=True)
class Verdict:
    """What became of the facts that were looked at."""

    lines: tuple[str, ...]
    """One for each method and attack that moved, or was pinned."""
    moved: tuple[str, ...]
    """Names of those that are not as pinned and, where `verify` pins, could not be pinned."""
    summary: str


def verify(folder: Path, only: Sequence[str], reporter: Reporter, *, pin: bool = False) -> Verdict:
    """Compare every method and attack, or those named in `only`, with the pins in `folder`.

    pin: write what is not as pinned instead. Raises ConfigError for an unknown name, RecordError
    for a pin that is damaged or networks that are missing, before anything is run.
    """
    since = time.monotonic()
    runs = _registered(folder)
    there = pinned_names(folder)
    chosen = _chosen(only, [*runs, *(key for key in there if key not in runs)])
    made = make_networks(folder) if pin else []
    for name in NETWORKS:
        load_network(folder, name)
    pins = {key: _read(there[key], pin) for key in chosen if key in there and key in runs}
    lines, moved = [f"network {name}: trained anew" for name in made], []
    with reporter.task("bench verify", len(chosen)) as task:
        for kind, name in chosen:
            task.advance(0, name)
            look = _pin if pin else _compare
            line, good = look(folder, (kind, name), runs.get((kind, name)), pins.get((kind, name)))
            lines += [f"{kind} {name}: {line}"] if line else []
            moved += [] if good else [name]
            task.advance()
    summary = _summary(chosen, moved, len(lines), time.monotonic() - since, pin)
    return Verdict(tuple(lines), tuple(moved), summary)


def _registered(folder: Path) -> dict[Key, Callable[[], Fact]]:
    """What there is to run, the cheap before the dear."""
    methods = {("method", name): lambda name=name: trace(name) for name in list_methods()}
    attacks = {("attack", name): lambda name=name: outcome(name, folder) for name in list_attacks()}
    return {**methods, **attacks}


def _chosen(only: Sequence[str], known: Sequence[Key]) -> list[Key]:
    names = {name for _, name in known}
    for name in only:
        if name not in names:
            raise unknown_name("method or attack", name, names)
    return [key for key in known if not only or key[1] in only]


def _read(path: Path, pin: bool) -> Pin | None:
    """The pin; where it is to be written anew, a damaged one is none."""
    try:
        return read_pin(path)
    except RecordError:
        if pin:
            return None
        raise


def _compare(
    folder: Path, key: Key, run: Callable[[], Fact] | None, pin: Pin | None
) -> tuple[str, bool]:
    """What to say of one fact, and whether it is as pinned."""
    if run is None:
        return f"is pinned and not registered{_broken()}; {_command(key)} removes the pin", False
    if pin is None:
        return f"has no pin; if it is new, {_command(key)} adds it", False
    try:
        moved = run().moved(pin.fact, elsewhere=pin.elsewhere)
    except Exception as error:  # whatever a method or an attack raises is its own, and is shown
        moved = _failure(error)
    return moved, not moved


def _pin(
    folder: Path, key: Key, run: Callable[[], Fact] | None, pin: Pin | None
) -> tuple[str, bool]:
    """As `_compare`, after writing the pin where it differs at all."""
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
        write_pin(path, fact, key[1])
    return moved and f"pinned, {moved}", True


def _command(key: Key) -> str:
    return f"bench verify --pin --only {key[1]}"


def _failure(error: Exception) -> str:
    """What went wrong, and where if that was not foreseen, in a line."""
    said = " ".join(str(error).split())
    if isinstance(error, BenchError | NonFiniteLoss):
        return f"fails: {said}"
    frame = extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
    return f"fails: {type(error).__name__} in {where}: {said or frame.line}"


def _broken() -> str:
    """Modules of methods that do not import: why a method may be missing."""
    return "".join(f" ({module}: {reason})" for module, reason in broken_methods().items())


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
