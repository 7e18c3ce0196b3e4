"""Images on a device: resident or streamed from files, with batches and augmentations made there.

B batch, N images, C H W image. Resident images need no loop and no synchronisation with the device.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.dataset import Split, StoredSplit
from bench.errors import ConfigError, unknown_name
from bench.machine import sent
from bench.ranks import Generator, drawn
from bench.seeding import generator_for

PADDING_MODES = ("constant", "reflect")


class Loader:
    """The images of a split, by index, on the device of `y`."""

    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def labels(self, index: Tensor) -> Tensor:
        return self.y[index]

    def images(self, index: Tensor) -> Tensor:
        """(B,) int64 -> (B, C, H, W) float32 in [0, 1], the images for evaluation."""
        raise NotImplementedError

    def views(self, index: Tensor, run_seed: int, batch_number: int) -> Tensor:
        """(B,) int64 -> (B, C, H, W) float32 in [0, 1], the training images before `augment`.

        A random view depends only on the arguments and each image's index.
        """
        return self.images(index)

    def expect(self, parts: Sequence[Tensor], batch_number: int) -> None:
        """Announce the next calls of `views`: these tensors, the first with `batch_number`."""


class DeviceSplit(Loader):
    """A split resident on one device, as uint8 where possible; its views are the images."""

    x: Tensor
    """(N, C, H, W) uint8 or float32, contiguous."""
    scale: float
    """x * scale is in [0, 1]."""

    def __init__(self, split: Split, scale: float, device: torch.device | str) -> None:
        # Transposed after the move: a GPU does that a hundred times faster.
        x = torch.from_numpy(split.x).to(device).permute(0, 3, 1, 2)
        self.x = x.clone(memory_format=torch.contiguous_format)
        self.y = torch.from_numpy(split.y).to(device).clone()
        self.scale = scale

    def images(self, index: Tensor) -> Tensor:
        # Division, like ToTensor: a product with float32(1 / 255) differs.
        return self.x[index].float().div_(1 / self.scale)


def loader(split: StoredSplit, scale: float, device: torch.device | str) -> Loader:
    """Return the split on `device`: resident, or streamed from its files."""
    if isinstance(split, Split):
        return DeviceSplit(split, scale, device)
    from bench.data.stream import StreamedSplit  # which needs PIL

    return StreamedSplit(split, device)


def augment(
    x: Tensor, *, pad: int, flip: bool, mode: str = "constant", generator: Generator
) -> Tensor:
    """Return x (B, C, H, W) padded, randomly cropped, and mirrored with probability 1/2 per image.

    pad: pixels on each side, zeros for mode `constant`, mirrored for `reflect`; row and column
    offsets are uniform in 0..2*pad per image. generator: on x's device; draws the offsets (2, B) if
    pad > 0, then the coin flips (B,) if flip. Without either, returns x itself. Raises ConfigError
    for an impossible pad or an unknown mode.
    """
    n, channels, height, width = x.shape
    if mode not in PADDING_MODES:
        raise unknown_name("padding mode", mode, PADDING_MODES)
    if pad < 0:
        raise ConfigError(f"pad {pad}: must be 0 or more pixels")
    if mode == "reflect" and pad >= (size := min(height, width)):
        raise ConfigError(f"pad {pad}: images of {size} pixels reflect at most {size - 1}")
    if not pad and not flip:
        return x
    device = x.device
    # (B, H) and (B, W): which row and column of the padded image lands where
    rows = torch.arange(height, device=device).expand(n, -1)
    columns = torch.arange(width, device=device).expand(n, -1)
    offsets: Tensor | list[int] = [0, 0]
    if pad:
        offsets = _draw((2,), 2 * pad + 1, x, generator)
    if flip:
        heads = _draw((), 2, x, generator).bool()
        columns = torch.where(heads, width - 1 - columns, columns)
    rows, columns = rows + offsets[0], columns + offsets[1]
    # one gather over flattened pixels is six times faster on a CPU than indexing by four tensors
    source = rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]
    padded = F.pad(x, (pad,) * 4, mode=mode).flatten(2)
    return padded.gather(2, source.view(n, 1, -1).expand(-1, channels, -1)).view_as(x)


def _draw(shape: tuple[int, ...], high: int, x: Tensor, generator: Generator) -> Tensor:
    """(*shape, B, 1): integers in 0..high - 1, one set per image of x."""

    def draw(rows: Tensor, generator: torch.Generator | None) -> Tensor:
        size = (*shape, len(rows), 1)
        found = torch.randint(0, high, size, generator=generator, device=rows.device)
        return found.movedim(-2, 0)

    return drawn(x, generator, draw).movedim(0, -2)


def epoch_order(n: int, run_seed: int, epoch: int, device: torch.device | str) -> Tensor:
    """Return the order of n images in an epoch, (n,) int64, drawn on the CPU for all devices."""
    order = torch.randperm(n, generator=generator_for(run_seed, "order", epoch))
    return sent(order, torch.device(device))


def batches(order: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """Split (n,) into consecutive slices of `batch_size`; the last may be shorter, even 1."""
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size}: must be at least 1")
    return torch.split(order, batch_size)
