"""BatchNorm's running statistics, moved again as a forward pass moved them, without the pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def recorded_statistics(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Around one forward pass of `model`; gives a function that moves the statistics as it did.

    For a pass whose logits are known, since the images and the weights are those of the pass
    that was recorded: each layer in train mode sees the same batch once more. The result is that
    of the pass, to rounding. The function may be called once the pass is over.
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
    """One layer, with its running statistics before the pass, and after it those of the batch."""

    module: _BatchNorm
    mean: Tensor
    var: Tensor
    passes: Tensor
    """Seen before, and after the pass how many it was: none for a model on buffers of its own."""

    @classmethod
    def of(cls, module: _BatchNorm) -> _Layer:
        return cls(module, *(value.clone() for value in _buffers(module)))

    def close(self) -> None:
        mean, var, passes = _buffers(self.module)
        self.passes = passes - self.passes
        rate = self._rate()
        share = torch.where(rate > 0, rate, 1.0)  # 0: statistics that stay as they are
        self.mean = self.mean + (mean - self.mean) / share
        self.var = self.var + (var - self.var) / share

    def move(self) -> None:
        mean, var, passes = _buffers(self.module)
        passes.add_(self.passes)
        # as the layer itself does, unseen by autograd: the graph of a train-mode pass holds on to
        # the running statistics, and does not read them
        mean.data.lerp_(self.mean, self._rate())
        var.data.lerp_(self.var, self._rate())

    def _rate(self) -> Tensor:
        """By how much the passes moved: a share that is fixed, or that of a plain average."""
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
