"""Count the passes of a training over images, a cost that does not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from bench.archs.fast import counts_rows

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@dataclass
class Cost:
    """Images that passed through the network while counting."""

    forward: int = 0
    """Through the whole network."""
    backward: int = 0
    """Back from its logits."""
    first_layer: int = 0
    """Forward through the first layer, which YOPO runs more often than the rest."""
    _counting: bool = False

    def watch(self, model: nn.Module, first_layer: nn.Module) -> None:
        """Observe every pass through `model`, and through its deep copies.

        A pass is one of the last linear layer: a method may call `stem` and `rest` separately.
        """
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        first_layer.register_forward_hook(self._first_hook())
        last.register_forward_hook(self._last_hook())

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the passes inside; those outside, such as validation, do not count."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    # plain functions as hooks: copying a bound method would copy this counter with it
    def _first_hook(self) -> Hook:
        @counts_rows
        def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if self._counting:
                self.first_layer += len(output)

        return count

    def _last_hook(self) -> Hook:
        @counts_rows
        def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if self._counting:
                rows = len(output)
                self.forward += rows
                if output.requires_grad:
                    output.register_hook(lambda _: self._count_backward(rows))  # type: ignore[no-untyped-call]

        return count

    def _count_backward(self, rows: int) -> None:
        if self._counting:
            self.backward += rows
