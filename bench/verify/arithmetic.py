"""Arithmetic that two machines agree on, as far as two machines can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tolerance:
    """What two numbers may differ by and still be equal."""

    relative: float
    absolute: float
    """For numbers near 0, such as the margin of an image on the boundary."""


FLOAT64 = Tolerance(1e-9, 1e-12)
"""Of two processors, whose sums are rounded in another order: 1e-16 apart at first, and at most
1e-13 after 20 steps, measured with the instructions of three processors."""
FLOAT32 = Tolerance(1e-3, 1e-5)
"""Of two processors that go by one name: 1e-5 apart, measured in the same way."""


@contextmanager
def arithmetic(dtype: torch.dtype) -> Iterator[None]:
    """One thread, and `dtype` for all that is made or drawn without naming one.

    Draws follow the dtype: float64 and float32 take different numbers from one seed.
    """
    threads, before = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)
