"""Images that live on the device, and the batches and augmentations that are made there.

B batch, N images, C H W image. No loop over images and no wait for the device in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.data.dataset import Split
from bench.errors import ConfigError, unknown_name
from bench.seeding import generator_for

PADDING_MODES = ("constant", "reflect")


@dataclass(frozen=True, eq=False)
class DeviceSplit:
    """A split on one device: a quarter of the memory of floats, and no loader processes."""

    x: Tensor
    """(N, C, H, W) uint8 or float32, contiguous."""
    y: Tensor
    """(N,) int64."""
    scale: float
    """x * scale is in [0, 1]."""

    @classmethod
    def of(cls, split: Split, scale: float, device: torch.device | str) -> DeviceSplit:
        """A copy of `split` on `device`; `scale` is the data set's."""
        # Moved as it is, then transposed there: a GPU does that a hundred times faster.
        x = torch.from_numpy(split.x).to(device).permute(0, 3, 1, 2)
        y = torch.from_numpy(split.y).to(device)
        return cls(x.clone(memory_format=torch.contiguous_format), y.clone(), scale)

    def __len__(self) -> int:
        return len(self.y)

    def images(self, index: Tensor) -> Tensor:
        """(B,) int64 -> (B, C, H, W) float32 in [0, 1]."""
        # Division, because 255 * float32(1 / 255) is not what everybody's ToTensor gives.
        return self.x[index].float().div_(1 / self.scale)

    def labels(self, index: Tensor) -> Tensor:
        """(B,) int64 -> (B,) int64."""
        return self.y[index]

    def views(self, index: Tensor, run_seed: int, batch_number: int) -> Tensor:
        """The images: all that is random about resident ones is made by `augment`."""
        return self.images(index)

    def expect(self, parts: Sequence[Tensor], batch_number: int) -> None:
        """Nothing is to be prepared."""


def augment(
    x: Tensor, *, pad: int, flip: bool, mode: str = "constant", generator: torch.Generator
) -> Tensor:
    """(B, C, H, W) -> the same shape and dtype: pad, crop at random, mirror each image with p 1/2.

    pad: pixels on each side, zeros for mode `constant`, the image mirrored for `reflect`; row and
    column offsets are uniform in 0..2*pad for each image. generator: on x's device. Draws the
    offsets (2, B) if pad > 0, then the coin flips (B,) if flip; with neither, x comes back as
    it is. Raises ConfigError for an impossible pad or an unknown mode.
    """
    n, channels, height, width = x.shape
    _check(pad, mode, min(height, width))
    if not pad and not flip:
        return x
    device = x.device
    rows = torch.arange(height, device=device).expand(n, -1)
    columns = torch.arange(width, device=device).expand(n, -1)
    offsets = None
    if pad:
        offsets = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator, device=device) - pad
    if flip:
        heads = torch.randint(0, 2, (n, 1), generator=generator, device=device).bool()
        columns = torch.where(heads, width - 1 - columns, columns)
    if offsets is not None:
        rows, columns = rows + offsets[0], columns + offsets[1]
    # (B, H) and (B, W) say which pixel of the unpadded image lands where. One gather over
    # flattened pixels is six times faster on a CPU than indexing by four tensors.
    source = _inside(rows, height)[:, :, None] * width + _inside(columns, width)[:, None, :]
    out = x.flatten(2).gather(2, source.view(n, 1, -1).expand(-1, channels, -1)).view_as(x)
    if mode == "constant" and offsets is not None:
        outside = _is_outside(rows, height)[:, :, None] | _is_outside(columns, width)[:, None, :]
        out.masked_fill_(outside[:, None], 0)
    return out


def epoch_order(n: int, run_seed: int, epoch: int, device: torch.device | str) -> Tensor:
    """The order in which an epoch visits n images, (n,) int64 on `device`.

    Drawn on the CPU, so that it is the same on every device.
    """
    return torch.randperm(n, generator=generator_for(run_seed, "order", epoch)).to(device)


def batches(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """(n,) -> consecutive slices of `batch_size`; the last one may be shorter, even 1."""
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size}: must be at least 1")
    return torch.split(order, batch_size)


def _check(pad: int, mode: str, size: int) -> None:
    if mode not in PADDING_MODES:
        raise unknown_name("padding mode", mode, PADDING_MODES)
    if pad < 0:
        raise ConfigError(f"pad {pad}: must be 0 or more pixels")
    if mode == "reflect" and pad >= size:
        raise ConfigError(f"pad {pad}: images of {size} pixels reflect at most {size - 1}")


def _inside(position: Tensor, size: int) -> Tensor:
    """Positions in [-pad, size + pad) mirrored at the edge pixels into [0, size)."""
    folded = size - 1 - (size - 1 - position.abs()).abs()
    return folded.clamp_min(0)  # zero padding may be wider than the image; it is masked anyway


def _is_outside(position: Tensor, size: int) -> Tensor:
    return (position < 0) | (position >= size)
