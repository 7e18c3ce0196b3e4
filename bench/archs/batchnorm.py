"""BatchNorm's statistics: of all ranks' images, of some images only, or again without a pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from bench.errors import ConfigError
from bench.ranks import Ranks, gather


class SharedBatchNorm2d(nn.BatchNorm2d):
    """In train mode it normalises by the statistics of the whole minibatch that ranks share.

    Elsewhere it is nn.BatchNorm2d. Unlike nn.SyncBatchNorm it also works on a CPU, and on a rank
    without any row.
    """

    ranks: Ranks

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.ranks.part is None:
            return super().forward(x)
        y, mean, var, n = _Normalise.apply(x, self.weight, self.bias, self.eps, self.ranks)
        if self.track_running_stats:
            running_mean, running_var, passes = _buffers(self)
            with torch.no_grad():
                passes.add_(1)
                unbiased = var * (n / (n - 1))
                for running, value in ((running_mean, mean), (running_var, unbiased)):
                    rate = 1 / passes if self.momentum is None else self.momentum
                    # .data, like in the layer itself: an earlier pass's graph does not read it
                    running.data.mul_(1 - rate).add_((rate * value).to(running.dtype))
        out: Tensor = y
        return out


def share_batchnorm(model: nn.Module, ranks: Ranks) -> None:
    """Let each BatchNorm2d of the model see all ranks' rows; names, weights and hooks stay.

    Raises ConfigError for a layer of another kind.
    """
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d and module.affine:
            module.__class__ = SharedBatchNorm2d
            vars(module)["ranks"] = ranks
        elif isinstance(module, _BatchNorm):
            raise ConfigError(
                f"--gpus-per-training: {name} is a {type(module).__name__}, and only a BatchNorm2d "
                "with weights can be shared by several GPUs; train this network on one"
            )


class _Normalise(torch.autograd.Function):
    """(B, C, H, W) -> the normalised rows, mean (C,), biased variance (C,), count of all ranks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(weight.dtype)  # from bf16
        count = x.numel() // x.shape[1]
        mean = wide.sum((0, 2, 3)) / max(count, 1)
        squares = (wide - _wide(mean)).square().sum((0, 2, 3))
        own = torch.stack([mean, squares, torch.full_like(mean, count)])
        means, every_squares, counts = gather(own).unbind(1)  # (ranks, C) each
        n = counts[:, 0].sum()
        mean = (means * counts).sum(0) / n
        var = (every_squares + counts * (means - mean).square()).sum(0) / n
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(x, mean, weight, scale, n)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, var, n)
        y = (wide - _wide(mean)) * _wide(scale * weight) + _wide(bias)
        return y.to(x.dtype), mean, var, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, mean, weight, scale, n = ctx.saved_tensors
        dy = gradient.to(weight.dtype)
        normal = (x.to(weight.dtype) - _wide(mean)) * _wide(scale)
        d_bias, d_weight = dy.sum((0, 2, 3)), (dy * normal).sum((0, 2, 3))
        if not ctx.needs_input_grad[0]:
            return None, d_weight, d_bias, None, None
        mean_dy, mean_dy_normal = ctx.ranks.sum(torch.stack([d_bias, d_weight])) / n
        dx = (dy - _wide(mean_dy) - normal * _wide(mean_dy_normal)) * _wide(weight * scale)
        return dx.to(x.dtype), d_weight, d_bias, None, None


def _wide(value: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)."""
    return value.view(1, -1, 1, 1)


@contextmanager
def recorded_statistics(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Record one forward pass of `model`; yields a function that repeats its statistics update.

    Replaces a second pass on the same images and weights, whose logits are known. Equals that pass
    up to rounding. Call the function after the recorded pass.
    """
    groups: dict[object, list[_BatchNorm]] = {}  # each layer by itself would be 30 launches
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
            groups.setdefault((module.momentum, _buffers(module)[0].dtype), []).append(module)
    before = [_joined(modules) for modules in groups.values()]
    batch: list[tuple[list[_BatchNorm], Tensor, Tensor, Tensor]] = []

    def again() -> None:
        for modules, batch_mean, batch_var, n in batch:
            means, variances, passes = (
                list(of) for of in zip(*map(_buffers, modules), strict=True)
            )
            torch._foreach_add_(passes, list(n.unbind()))
            sizes = [len(mean) for mean in means]
            rate = _repeated(_rate(modules[0], n, torch.stack(passes)), sizes)
            for values, of_batch in ((means, batch_mean), (variances, batch_var)):
                moved = torch.split(torch.cat(values).lerp_(of_batch, rate), sizes)
                # .data hides this from autograd, like in the layer: the graph of a train-mode pass
                # keeps the running statistics without reading them
                torch._foreach_copy_([value.data for value in values], list(moved))

    yield again
    for modules, (old_mean, old_var, old_passes) in zip(groups.values(), before, strict=True):
        mean, var, passes = _joined(modules)
        n = passes - old_passes  # 0 if the model used other buffers
        rate = _rate(modules[0], n, passes)
        share = torch.where(rate > 0, rate, 1.0)  # 0: unchanged statistics
        share = _repeated(share, [module.num_features for module in modules])
        means = old_mean + (mean - old_mean) / share, old_var + (var - old_var) / share
        batch.append((modules, *means, n))


def _joined(modules: list[_BatchNorm]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the means and variances of all layers in one vector each, and their passes."""
    means, variances, passes = zip(*map(_buffers, modules), strict=True)
    return torch.cat(means), torch.cat(variances), torch.stack(passes)


def _repeated(values: Tensor, sizes: list[int]) -> Tensor:
    """(M,) -> one vector, in which each value stands `sizes` times."""
    pairs = zip(values.unbind(), sizes, strict=True)
    return torch.cat([value.expand(size) for value, size in pairs])


@contextmanager
def statistics_of(model: nn.Module, rows: Tensor) -> Iterator[None]:
    """Inside, train-mode BatchNorm in `model` uses and records the statistics of some images only.

    rows: (B,) bool, the images that count, of every batch that is passed. For them it equals, up to
    rounding, passes of these images alone, without a batch size that depends on values, for which
    the host would wait for the device. If fewer than two count, layers act as in eval mode.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    for module in norms:
        module.forward = partial(_of_rows, module, rows)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in norms:
            del module.forward


def _of_rows(module: _BatchNorm, rows: Tensor, x: Tensor) -> Tensor:
    running_mean, running_var, passes = _buffers(module)
    counted = rows.view(-1, *(1,) * (x.ndim - 1))
    values, dims = x.to(running_mean.dtype), [0, *range(2, x.ndim)]
    n = rows.sum() * x[0, 0].numel()
    enough = rows.sum() > 1
    mean = torch.where(counted, values, 0.0).sum(dims, keepdim=True) / n.clamp(min=1)
    squares = torch.where(counted, values - mean, 0.0).square().sum(dims)
    mean, unbiased = mean.flatten(), squares / (n - 1).clamp(min=1)
    passes.add_(enough)
    rate = _rate(module, enough, passes)
    running_mean.lerp_(mean, rate)
    running_var.lerp_(unbiased, rate)
    mean = torch.where(enough, mean, running_mean)
    var = torch.where(enough, squares / n.clamp(min=1), running_var)
    return F.batch_norm(x, mean, var, module.weight, module.bias, eps=module.eps)


def _rate(module: _BatchNorm, n: Tensor, passes: Tensor) -> Tensor:
    """Weight of n passes in the running statistics: fixed, or that of a cumulative average."""
    dtype = _buffers(module)[0].dtype
    if module.momentum is None:
        return n.to(dtype) / passes.clamp(min=1)
    return 1 - (1 - torch.full_like(n, module.momentum, dtype=dtype)) ** n


def _buffers(module: _BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    return module.running_mean, module.running_var, module.num_batches_tracked
