"""The copy that attacks run on, compiled: for trainings on a GPU, whose batches have one size.

torch.compile merges the pointwise work between the convolutions, and on CUDA records each pass as
a graph that is launched at once. On a CPU it costs time (docs/speed.md).

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.archs.arch import Arch
from bench.archs.fast import FastCopy, Precision
from bench.archs.rows import filled

BACKEND = "inductor"
COMPILERS = ("torch._dynamo", "torch._inductor")
"""Modules of the errors that are the compiler's own."""
LOOKS_AT_GRAD = "The .grad attribute of a Tensor that is not a leaf"
"""Of the compiler itself, which looks at that of every input."""


class CompileWarning(UserWarning):
    """A network that could not be compiled: right, and slower."""


class CompiledCopy(nn.Module):
    """A FastCopy that is compiled at its first call, which takes a minute.

    Fewer images than it has seen at once are filled up to as many, since every size would be
    compiled anew. What counts passes through layers counts those through the whole.
    """

    layout = FastCopy.layout

    def __init__(self, model: Arch, precision: Precision = "fp32") -> None:
        super().__init__()
        self.copy = FastCopy(model, precision, fuses=False)  # the compiler does that itself
        self.training = False
        self.n_rows = 0
        for module in self.copy.modules():  # a graph does not call them
            self._forward_hooks.update(module._forward_hooks)
            module._forward_hooks.clear()
        on_cuda = next(model.parameters()).is_cuda
        how: dict[str, Any] = {"mode": "reduce-overhead"} if on_cuda else {}
        self._run: Callable[[Tensor], Tensor] = torch.compile(
            self.copy, dynamic=False, backend=BACKEND, **how
        )

    def refresh(self) -> None:
        """Take over the model's present weights and running statistics."""
        self.copy.refresh()  # in place, where the graphs read them

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K), a tensor of its own.

        Warns with CompileWarning, and goes on without, where the compiler fails.
        """
        self.n_rows = max(self.n_rows, len(x))
        rows = filled(x, self.n_rows).contiguous(memory_format=self.layout)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", LOOKS_AT_GRAD)
                logits = self._run(rows)
        except RuntimeError as error:
            if not type(error).__module__.startswith(COMPILERS):
                raise
            warnings.warn(CompileWarning(_notice(error)), stacklevel=2)
            self._run = self.copy
            logits = self.copy(rows)
        return logits[: len(x)].clone()  # a graph writes its next logits where these are


def _notice(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2])  # which compiler failed, and at what
    return (
        f"the network was not compiled ({reason}); attacks run on it as it is: "
        "leave --compile out, or install what the compiler lacks"
    )
