"""A compiled FastCopy, for training on a GPU, where all batches have the same size.

torch.compile merges pointwise operations between convolutions and, on CUDA, records each pass as a
graph that is launched at once. On a CPU it is slower (docs/speed.md).

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.archs.arch import Arch
from bench.archs.fast import FastCopy, Precision, filled, only_counts

BACKEND = "inductor"
LOOKS_AT_GRAD = "The .grad attribute of a Tensor that is not a leaf"
"""Raised by the compiler itself, which reads the .grad of every input."""


class CompileWarning(UserWarning):
    """A network that could not be compiled: correct, but slower."""


class CompiledCopy(nn.Module):
    """A FastCopy compiled at its first call, which takes a minute.

    n_rows: batch size. Smaller batches are padded to it, since every size is compiled anew; larger
    ones run uncompiled.
    """

    layout = FastCopy.layout

    def __init__(self, model: Arch, precision: Precision, n_rows: int) -> None:
        super().__init__()
        self.copy = FastCopy(model, precision)
        self.training = False
        self.n_rows = n_rows
        for module in self.copy.modules():
            for key, hook in list(module._forward_hooks.items()):
                if only_counts(hook):  # which a graph does not call
                    self._forward_hooks[key] = module._forward_hooks.pop(key)
        # torch recompiles a forward pass only a few times, across models: forget earlier copies
        torch._dynamo.reset()
        on_cuda = next(model.parameters()).is_cuda
        how: dict[str, Any] = {"mode": "reduce-overhead"} if on_cuda else {}
        self._run: Callable[[Tensor], Tensor] | None = torch.compile(
            self.copy, dynamic=False, backend=BACKEND, **how
        )
        self._is_compiled = False

    @property
    def runs_compiled(self) -> bool:
        """Whether it was called, and the compiler did not fail."""
        return self._is_compiled and self._run is not None

    def refresh(self) -> None:
        self.copy.refresh()  # in place, where the graphs read them

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K), never a view.

        Warns with CompileWarning, and runs uncompiled, if the compiler fails.
        """
        if self._run is None or not 0 < len(x) <= self.n_rows:
            return self._uncompiled(x)
        rows = filled(x, self.n_rows)
        if not self._is_compiled:
            try:
                self._compile(rows)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a compiler may raise anything
                warnings.warn(CompileWarning(_notice(error)), stacklevel=2)
                self._run = None
                return self._uncompiled(x)
        logits = self._run(_Own.apply(rows))
        return logits[: len(x)].clone()  # the graph reuses this memory for its next logits

    def _uncompiled(self, x: Tensor) -> Tensor:
        logits: Tensor = self.copy(x)
        return logits

    def _compile(self, rows: Tensor) -> None:
        """Compile forward and backward now, where errors are caught."""
        assert self._run is not None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", LOOKS_AT_GRAD)
            with torch.enable_grad():
                x = rows.detach().clone().requires_grad_()
                torch.autograd.grad(self._run(_Own.apply(x)).sum(), x)
            with torch.no_grad():
                self._run(_Own.apply(rows.detach()))
        self._is_compiled = True


class _Own(torch.autograd.Function):
    """Copy images into the graph's layout, and their gradient out of its reused memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # not contiguous(), which leaves the strides of one channel as they are
        return x.clone(memory_format=CompiledCopy.layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()


def _notice(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2])  # which compiler failed, and at what
    return (
        f"the network was not compiled ({type(error).__name__}: {reason}); attacks run uncompiled: "
        "leave --compile out, or install what the compiler lacks"
    )
