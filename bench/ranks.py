"""Ranks: the processes that train one network together, each on some rows of every minibatch.

Training depends only on its specification, not on the number of ranks. Every rank knows the whole
minibatch, draws random numbers for all of it, and uses its own rows; sums go over all ranks. So
results are equal up to the rounding of sums, and ranks agree to the bit.

Shapes: n images of the whole minibatch, B of them on this rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

Rows: TypeAlias = slice | Tensor
"""An index of the rows of a whole minibatch."""
DRAWN_DIRECTLY = (
    "the method gives the generator of `state.generator` to torch directly, so ranks would not "
    "draw what one process draws; write `drawn(x, generator, lambda x, g: "
    "torch.empty_like(x).uniform_(generator=g))` with `drawn` from bench.api, or train with "
    "--gpus-per-training 1"
)


class RankLost(Exception):
    """Another rank died or does not answer, so this one cannot continue either."""


@dataclass(frozen=True)
class Share:
    """The rows of a minibatch that are on this rank."""

    n: int
    rows: Rows
    share: float
    """B / n."""


class Ranks:
    """This process among those that train one network; by default it is the only one.

    Part of no copy of a network: a deep copy is the same object.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.part: Share | None = None
        """None unless several ranks share a minibatch right now."""

    def __deepcopy__(self, memo: object) -> Ranks:
        return self

    def rows(self, n: int) -> slice:
        """Return this rank's rows of n: consecutive, and on all ranks as many or one fewer."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    @contextmanager
    def sharing(self, n: int, rows: Rows | None = None) -> Iterator[Rows]:
        """Share n rows between the ranks inside; yields those of this rank."""
        if self.size == 1:
            yield slice(None)
            return
        before, own = self.part, self.rows(n) if rows is None else rows
        n_own = len(own) if isinstance(own, Tensor) else own.stop - own.start
        self.part = Share(n, own, n_own / max(n, 1))
        try:
            yield own
        except TypeError as error:
            if RowGenerator.__name__ not in str(error):
                raise
            place = extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            raise TypeError(f"{where}: {DRAWN_DIRECTLY}") from error
        finally:
            self.part = before

    def stream(self, generator: torch.Generator) -> Generator:
        """Return what to draw from for the rows here."""
        part = self.part
        return generator if part is None else RowGenerator(generator, part.n, part.rows)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over the ranks."""
        return value if self.size == 1 else _sum_(value.clone())

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over the whole minibatch, given the mean over the rows here."""
        return value if self.part is None else _sum_(value * self.part.share)

    def whole(self, own: Tensor) -> Tensor:
        """(B, ...) -> (n, ...): the rows of all ranks, bit for bit."""
        if self.part is None:
            return own
        # bytes, and zeros for the rows of other ranks: a sum moves no bit, of whatever dtype
        content = own.detach().reshape(len(own), math.prod(own.shape[1:])).contiguous()
        content = content.view(torch.uint8)
        filled = content.new_zeros((self.part.n, content.shape[1]))
        filled[self.part.rows] = content
        return _sum_(filled).view(own.dtype).view(self.part.n, *own.shape[1:])

    def sum_all_(self, values: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, all in one message."""
        if self.size == 1 or not values:
            return
        flat = _sum_(torch.cat([value.reshape(-1) for value in values]))
        start = 0
        for value in values:
            value.copy_(flat[start : start + value.numel()].view(value.shape))
            start += value.numel()

    def wait(self) -> None:
        """Return once every rank has called this."""
        if self.size > 1:
            self.sum(torch.zeros((), device=_device())).item()  # NCCL alone returns at once

    def agree(self, values: Mapping[str, Tensor]) -> bool:
        """Return whether the tensors have the same bits on all ranks."""
        if self.size == 1:
            return True
        found = [(name, tuple(v.shape), _bit_sum(v)) for name, v in sorted(values.items())]
        sha256 = hashlib.sha256(repr(found).encode()).digest()
        own = torch.tensor(list(sha256), dtype=torch.int64, device=_device())
        return bool((gather(own) == own).all())


ALONE = Ranks()


@dataclass(frozen=True)
class RowGenerator:
    """A stream that draws for a whole minibatch, of which this rank uses its rows.

    torch refuses it with a TypeError, so that no method draws the same noise on every rank.
    """

    generator: torch.Generator
    n: int
    rows: Rows


Generator: TypeAlias = torch.Generator | RowGenerator


def drawn(
    x: Tensor,
    generator: Generator | None,
    draw: Callable[[Tensor, torch.Generator | None], Tensor],
) -> Tensor:
    """Return `draw(x, generator)`, or this rank's rows of the draw for the whole minibatch.

    draw: returns random numbers with one row per row of its first argument, whose values it may
    not use: only shape, dtype and device.
    """
    if not isinstance(generator, RowGenerator):
        return draw(x, generator)
    whole = torch.empty((generator.n, *x.shape[1:]), dtype=x.dtype, device=x.device)
    return draw(whole, generator.generator)[generator.rows]


def gather(own: Tensor) -> Tensor:
    """(...) -> (ranks, ...): the tensors of all ranks, of the same shape."""
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    with _connected():
        dist.all_gather(parts, own)
    return torch.stack(parts)


def _sum_(value: Tensor) -> Tensor:
    with _connected():
        dist.all_reduce(value)
    return value


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo has no type of its own for a closed connection
        raise RankLost(str(error)) from error


def _device() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _bit_sum(value: Tensor) -> int:
    """Return the sum of a tensor's bytes with weights that tell their order."""
    content = value.detach().contiguous().view(-1).view(torch.uint8).to(torch.int64)
    places = torch.arange(len(content), device=content.device) % 65521
    return int((content * (places + 1)).sum())
