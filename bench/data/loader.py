"""The interface through which training and evaluation read a split.

B batch, N images, C H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from bench.data.dataset import Split, StoredSplit
from bench.data.device import DeviceSplit
from bench.data.stream import StreamedSplit


class Loader(Protocol):
    """The images of a split, by index, on the device of `y`."""

    @property
    def y(self) -> Tensor:
        """(N,) int64."""

    def __len__(self) -> int: ...

    def images(self, index: Tensor) -> Tensor:
        """(B,) int64 -> (B, C, H, W) float32 in [0, 1], the images for evaluation."""

    def labels(self, index: Tensor) -> Tensor:
        """(B,) int64 -> (B,) int64."""

    def views(self, index: Tensor, run_seed: int, batch_number: int) -> Tensor:
        """(B,) int64 -> (B, C, H, W) float32 in [0, 1], the training images before `augment`.

        A random view depends only on the arguments and each image's index.
        """

    def expect(self, parts: Sequence[Tensor], batch_number: int) -> None:
        """Announce the next calls of `views`: these tensors, the first with `batch_number`."""


def loader(split: StoredSplit, scale: float, device: torch.device | str) -> Loader:
    """Return the split on `device`: resident, or streamed from its files."""
    if isinstance(split, Split):
        return DeviceSplit.of(split, scale, device)
    return StreamedSplit(split, device)
