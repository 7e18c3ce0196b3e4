"""Repeat a forward pass's update of BatchNorm's running statistics without the pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def recorded_statistics(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Record one forward pass of `model`; yields a function that repeats its statistics update.

    Replaces a second pass on the same images and weights, whose logits are known. Equals that pass
    up to rounding. Call the function after the recorded pass.
    """
    before = [
        (module, [value.clone() for value in _buffers(module)])
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    batch: list[tuple[_BatchNorm, Tensor, Tensor, Tensor]] = []

    def again() -> None:
        for module, batch_mean, batch_var, n in batch:
            mean, var, passes = _buffers(module)
            passes.add_(n)
            # .data hides this from autograd, like in the layer: the graph of a train-mode pass
            # keeps the running statistics without reading them
            mean.data.lerp_(batch_mean, _rate(module, n))
            var.data.lerp_(batch_var, _rate(module, n))

    yield again
    for module, (old_mean, old_var, old_passes) in before:
        mean, var, passes = _buffers(module)
        n = passes - old_passes  # 0 if the model used other buffers
        rate = _rate(module, n)
        share = torch.where(rate > 0, rate, 1.0)  # 0: unchanged statistics
        means = old_mean + (mean - old_mean) / share, old_var + (var - old_var) / share
        batch.append((module, *means, n))


def _rate(module: _BatchNorm, n: Tensor) -> Tensor:
    """Weight of n passes in the running statistics: fixed, or that of a cumulative average."""
    mean, _, passes = _buffers(module)
    if module.momentum is None:
        return n.to(mean.dtype) / passes.clamp(min=1)
    return 1 - (1 - mean.new_full((), module.momentum)) ** n


def _buffers(module: _BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    return module.running_mean, module.running_var, module.num_batches_tracked
