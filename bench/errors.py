"""Errors that a user can act on: one line that says what is wrong and what to do."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class BenchError(Exception):
    """A user's mistake or an unusable input; the CLI prints its one line and exits with 2."""


class ConfigError(BenchError):
    """A value of the configuration is unknown, out of range, or clashes with another."""


class ModelError(ConfigError):
    """A model from outside cannot do what an attack or a check needs."""


class DataError(BenchError):
    """A data set is missing, damaged, or not what its specification says."""


class MemoryLimit(BenchError):
    """A training does not fit into the memory of the device."""


class CheckpointError(BenchError):
    """Weights or a resumable state cannot be used."""


class RecordError(BenchError):
    """A results folder or a record in it cannot be read or written."""


class NonFiniteLoss(Exception):
    """Training met a loss that is NaN or infinite; recorded as a failed run, others go on."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the loss is not finite at epoch {epoch}, step {step}")
        self.epoch = epoch
        self.step = step


def one_line(found: object, limit: int = 300) -> str:
    """Return text, cut to `limit`, or the type and message of an exception, on one line."""
    line = " ".join(str(found).split())
    line = line if len(line) <= limit else f"{line[: limit - 3]}..."
    if not isinstance(found, BaseException):
        return line
    return f"{type(found).__name__}: {line}" if line else type(found).__name__


MAX_LISTED = 120
"""Most names that an error lists; of a longer list, such as a model zoo, only the nearest."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a name that no registry holds, with the nearest known one."""
    names = sorted(known)
    close = get_close_matches(name, names, n=8, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    if len(names) > MAX_LISTED:
        near = f", such as {', '.join(close)}" if close else ""
        return ConfigError(f"unknown {kind} '{name}'.{hint} {len(names)} are known{near}")
    return ConfigError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}")


def refuse_unknown(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)
