"""BatchNorm's running statistics, moved again as a forward pass moved them, without the pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
        _Layer(module, module.running_mean.clone(), module.running_var.clone())
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.training
        and module.running_mean is not None
        and module.running_var is not None
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

    def close(self) -> None:
        rate = self._rate() or 1.0  # 0: statistics that stay as they are
        assert self.module.running_mean is not None
        assert self.module.running_var is not None
        self.mean = self.mean + (self.module.running_mean - self.mean) / rate
        self.var = self.var + (self.module.running_var - self.var) / rate

    def move(self) -> None:
        module = self.module
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.add_(1)
        assert module.running_mean is not None
        assert module.running_var is not None
        # as the layer itself does, unseen by autograd: the graph of a train-mode pass holds on to
        # the running statistics, and does not read them
        module.running_mean.data.lerp_(self.mean, self._rate())
        module.running_var.data.lerp_(self.var, self._rate())

    def _rate(self) -> float:
        """By how much the last pass moved: a share that is fixed, or that of a plain average."""
        if self.module.momentum is not None:
            return self.module.momentum
        assert self.module.num_batches_tracked is not None
        return 1.0 / float(self.module.num_batches_tracked)
