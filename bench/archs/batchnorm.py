"""Repeat a forward pass's update of BatchNorm's running statistics without the pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def recorded_statistics(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Record one forward pass of `model`; yields a function that repeats its statistics update.

    Replaces a second pass on the same images and weights, whose logits are known. Equals that pass
    up to rounding. Call the function after the recorded pass.
    """
    layers = [
        _Layer.of(module)
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]

    def again() -> None:
        for layer in layers:
            layer.move()

    yield again
    for layer in layers:
        layer.close()


@dataclass
class _Layer:
    """One layer with its running statistics before the pass, and after `close` the batch's."""

    module: _BatchNorm
    mean: Tensor
    var: Tensor
    passes: Tensor
    """Passes seen before; after `close` the recorded passes, 0 if the model used other buffers."""

    @classmethod
    def of(cls, module: _BatchNorm) -> _Layer:
        return cls(module, *(value.clone() for value in _buffers(module)))

    def close(self) -> None:
        mean, var, passes = _buffers(self.module)
        self.passes = passes - self.passes
        rate = self._rate()
        share = torch.where(rate > 0, rate, 1.0)  # 0: unchanged statistics
        self.mean = self.mean + (mean - self.mean) / share
        self.var = self.var + (var - self.var) / share

    def move(self) -> None:
        mean, var, passes = _buffers(self.module)
        passes.add_(self.passes)
        # .data hides this from autograd, like in the layer: the graph of a train-mode pass keeps
        # the running statistics without reading them
        mean.data.lerp_(self.mean, self._rate())
        var.data.lerp_(self.var, self._rate())

    def _rate(self) -> Tensor:
        """Weight of the batch in the update: fixed, or that of a cumulative average."""
        mean, _, passes = _buffers(self.module)
        if self.module.momentum is None:
            return self.passes.to(mean.dtype) / passes.clamp(min=1)
        return 1 - (1 - mean.new_full((), self.module.momentum)) ** self.passes


def _buffers(module: _BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Running mean, running variance, passes seen."""
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    return module.running_mean, module.running_var, module.num_batches_tracked
