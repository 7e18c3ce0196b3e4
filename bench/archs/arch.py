"""Base class of architectures: pixels in, logits out, normalisation inside.

Shapes: B batch, C H W image, K classes.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.errors import ConfigError
from bench.machine import exact_arithmetic


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """What an architecture must fit; raises ConfigError for an impossible value."""

    num_classes: int = 10
    """K, at least 2."""
    in_channels: int = 3
    """C, at least 1."""
    image_size: int = 32
    """H = W, in pixels; only `linear` needs it."""
    mean: Sequence[float] | None = None
    """One value per channel, in pixels of [0, 1]; None with `std` for no normalisation."""
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, least in (("num_classes", 2), ("in_channels", 1), ("image_size", 1)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name} {value}: must be at least {least}")


class Arch(nn.Module):
    """A classifier of images (B, C, H, W) in [0, 1] into logits (B, K).

    `forward(x)` is `rest(stem(x))`. A subclass writes `rest`, and `first_layer` unless it is
    `conv1`; neither may change its input in place, since the caller may keep it.
    """

    mean: Tensor | None
    std: Tensor | None
    conv1: nn.Module

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.in_channels = spec.in_channels
        # Buffers that are None have no key in the state dict, as in public checkpoints.
        self.register_buffer("mean", None)
        self.register_buffer("std", None)
        self.set_normalisation(spec.mean, spec.std)

    def set_normalisation(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Set the normalisation (x - mean) / std; None turns it off.

        For weights whose file lacks it: build without, load, then call this. Raises ConfigError for
        values that do not fit.
        """
        if (mean is None) != (std is None):
            raise ConfigError("mean and std go together: give both or neither")
        if mean is None or std is None:
            self.mean = self.std = None
            return
        like = next(self.parameters(), torch.empty(0))
        self.mean = per_channel("mean", mean, self.in_channels).to(like)
        self.std = per_channel("std", std, self.in_channels, positive=True).to(like)

    def normalise(self, x: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return x
        return (x - self.mean) / self.std

    @property
    def first_layer(self) -> nn.Module:
        """The layer that reads the normalised pixels."""
        return self.conv1

    def stem(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the first layer's output, which YOPO calls layer one.

        Exact on a GPU: TF32 would round the image to steps of half the start noise of TRADES.
        """
        on_gpu = next(self.parameters()).is_cuda
        with exact_arithmetic() if on_gpu else nullcontext():
            out: Tensor = self.first_layer(self.normalise(x))
        return out

    def rest(self, h: Tensor) -> Tensor:
        """The first layer's output -> logits (B, K)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x))


def conv3x3(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1; no bias, since BatchNorm follows."""
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)


def global_average(h: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C), for every image size, and deterministic on CUDA.

    For channels-last h, `h.mean((2, 3))` takes as long as a convolution; this keeps the layout in
    both directions. A sum, because its gradient is a view.
    """
    return h.movedim(1, -1).flatten(1, -2).sum(1) / (h.shape[2] * h.shape[3])


def per_channel(
    name: str, values: Sequence[float], n_channels: int, *, positive: bool = False
) -> Tensor:
    """(1, C, 1, 1), on the default device, which may be `meta`.

    Raises ConfigError, which names `name`, unless there are `n_channels` finite values.
    """
    numbers = [float(value) for value in values]
    if len(numbers) != n_channels:
        raise ConfigError(f"{name} has {len(numbers)} values, the images {n_channels} channels")
    if not all(math.isfinite(v) and (v > 0 or not positive) for v in numbers):
        kind = "finite and positive" if positive else "finite"
        raise ConfigError(f"{name} {numbers}: every value must be {kind}")
    return torch.tensor(numbers).view(1, -1, 1, 1)
