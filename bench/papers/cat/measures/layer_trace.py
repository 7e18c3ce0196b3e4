"""Which layers a forward pass calls, in which order, and where BatchNorm joins one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Modules that multiply by a weight matrix."""

Hook = Callable[[str, nn.Module, Tensor, Tensor], Tensor | None]
"""(name, module, input, output) -> the output to go on with, or None to leave it."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a layer or of a BatchNorm; a module that is called twice has two."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    """Of the output of one image."""
    reads: int | None = None
    """For a BatchNorm, the position of the layer whose output it reads; else None."""

    @property
    def is_layer(self) -> bool:
        return isinstance(self.module, LAYERS)


def trace(model: nn.Module, x: Tensor) -> list[Call]:
    """Return the calls of one forward pass of x (B, C, H, W), in order.

    Modules that are never called are absent. An output that two BatchNorms read belongs to the
    first.
    """
    found: list[Call] = []
    # The outputs themselves are kept, so that no later tensor can have the identity of one.
    made: dict[int, tuple[int, Tensor]] = {}

    def note(name: str, module: nn.Module, h: Tensor, out: Tensor) -> None:
        reads = None
        if isinstance(module, LAYERS):
            made[id(out)] = len(found), out
        else:
            reads, _ = made.pop(id(h), (None, h))
        found.append(Call(name=name, module=module, shape=tuple(out.shape[1:]), reads=reads))

    with watched(model, note), torch.no_grad():
        model(x)
    return found


@contextmanager
def watched(model: nn.Module, hook: Hook) -> Iterator[None]:
    """Call `hook` after every call of a layer and of a BatchNorm."""

    def attach(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(
            lambda module, args, out: hook(name, module, args[0], out)
        )

    handles = [
        attach(name, module)
        for name, module in model.named_modules()
        if isinstance(module, (*LAYERS, _BatchNorm))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
