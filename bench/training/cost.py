"""Counts what a training computes: passes over images, which no clock and no machine distorts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class Cost:
    """Images that went through the network in each direction, while counting."""

    forward: int = 0
    backward: int = 0
    _counting: bool = False

    def watch(self, model: nn.Module) -> None:
        """See every pass through `model` from now on; those of its deep copies too."""

        # a plain function, since copying a bound method would copy this counter with it
        def count(model: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> None:
            if self._counting:
                self.forward += len(logits)
                if logits.requires_grad:
                    rows = len(logits)
                    logits.register_hook(lambda _: self._count_backward(rows))  # type: ignore[no-untyped-call]

        model.register_forward_hook(count)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Passes inside count; those outside, such as validation, do not."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def _count_backward(self, rows: int) -> None:
        if self._counting:
            self.backward += rows
