"""What training and evaluation see of a split, wherever its images are kept.

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
        """(B,) int64 -> (B, C, H, W) float32 in [0, 1], as they are evaluated."""

    def labels(self, index: Tensor) -> Tensor:
        """(B,) int64 -> (B,) int64."""

    def views(self, index: Tensor, run_seed: int, batch_number: int) -> Tensor:
        """(B,) int64 -> (B, C, H, W) float32 in [0, 1], as they are trained on, before `augment`.

        A random view is a function of its arguments and each image's index alone.
        """

    def expect(self, parts: Sequence[Tensor], batch_number: int) -> None:
        """A hint: `views` will be asked for these tensors, the first with that batch number."""


def loader(split: StoredSplit, scale: float, device: torch.device | str) -> Loader:
    """The split on `device`: resident, or streamed from its files; `scale` is the data set's."""
    if isinstance(split, Split):
        return DeviceSplit.of(split, scale, device)
    return StreamedSplit(split, device)
