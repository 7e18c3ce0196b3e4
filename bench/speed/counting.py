"""Counts what a piece of work computes, beside the seconds that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from bench.archs.arch import Arch
from bench.archs.fast import counts_rows
from bench.training.cost import Cost
from bench.training.passes import Passes


@dataclass
class Counter(Cost):
    """Images that went through a network while counting."""

    updates: int = 0
    """Backward passes that also made gradients of the weights."""

    def watch(self, model: nn.Module, first_layer: nn.Module) -> None:
        """See every pass through `model` from now on; those of its deep copies too."""
        super().watch(model, first_layer)
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        last.register_forward_hook(self._weight_hook())

    def _weight_hook(self) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        @counts_rows
        def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            trains = any(parameter.requires_grad for parameter in module.parameters())
            if self._counting and output.requires_grad and trains:
                rows = len(output)
                output.register_hook(lambda _: self._count_update(rows))  # type: ignore[no-untyped-call]

        return count

    def _count_update(self, rows: int) -> None:
        if self._counting:
            self.updates += rows


class Counted:
    """A piece of work whose first call is counted."""

    def __init__(self, work: Callable[[], object], network: Arch, n_images: int) -> None:
        self.work, self.n_images = work, n_images
        self.counter = Counter()
        self.counter.watch(network, network.first_layer)
        self._called = False

    def __call__(self) -> None:
        """Work; the first time, count."""
        if self._called:
            self.work()
            return
        self._called = True
        with self.counter.counting():
            self.work()

    @property
    def passes(self) -> Passes:
        """An image, of the first call."""
        n, count = self.n_images, self.counter
        return Passes(count.forward / n, count.backward / n, count.first_layer / n)

    @property
    def updates(self) -> float:
        """Backward passes an image that also made gradients of the weights."""
        return self.counter.updates / self.n_images
