"""Rows of a batch: filled up to a size, and counted.

Shapes: n images, ... the rest of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

MARK = "_counts_rows"
Hook = TypeVar("Hook", bound=Callable[..., object])


def filled(x: Tensor, n_rows: int) -> Tensor:
    """(n, ...) -> at least n_rows rows, the last one again and again; none stays none."""
    lacking = n_rows - len(x)
    if lacking <= 0 or len(x) == 0:
        return x
    return torch.cat([x, x[-1:].expand(lacking, *x.shape[1:])])


def counts_rows(hook: Hook) -> Hook:
    """Mark a forward hook that asks how many rows a layer puts out, and whether they come back.

    Such a one may be called for another layer, or for the network as a whole.
    """
    setattr(hook, MARK, True)
    return hook


def only_counts(hook: Callable[..., object]) -> bool:
    """Whether a hook is marked so."""
    return hasattr(hook, MARK)
