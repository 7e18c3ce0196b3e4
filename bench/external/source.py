"""What every source of outside models gives, and the errors that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from bench.errors import ConfigError

EXTRA = "pip install 'atbench[robustbench]'"


@dataclass(frozen=True, kw_only=True)
class Built:
    """A network as its source builds it."""

    network: nn.Module
    source_sha256: str | None = None
    """Of the file whose code it is, with those beside it that it imports; None for code of an
    installed package."""
    mean: tuple[float, ...] | None = None
    """What its pretrained weights expect to be normalised by outside of it, one a channel."""
    std: tuple[float, ...] | None = None
    constants: Sequence[str] = ()
    """Names in its state dict that a file of weights may leave out."""


def match_classes(model: str, has: int, wanted: int, dataset: str) -> None:
    """Raises ConfigError where pretrained weights are for another number of classes."""
    if has != wanted:
        raise ConfigError(
            f"the pretrained weights of {model} are for {has} classes and {dataset} has {wanted}; "
            "name weights for it with --weights"
        )


@contextmanager
def downloading(model: str) -> Iterator[None]:
    """An exception of any kind inside, which a failed download can raise, becomes one line."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"the pretrained weights of {model} cannot be had ({type(error).__name__}: {reason}); "
            "fetch their file elsewhere and name it with --weights"
        ) from error
