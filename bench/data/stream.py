"""Image files that are decoded when they are asked for, by threads, the next batches ahead.

B batch, N images, C H W image. What an image becomes depends on its file, the run's seed, the
batch number and the image's index; never on the number of threads, or on what was decoded ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.decode import centre, crop
from bench.data.files import FileSplit
from bench.seeding import seed_for

AHEAD = 2
"""Batches that are decoded while a network works on one."""

Reading: TypeAlias = list[Future[NDArray[np.uint8]]]


class StreamedSplit:
    """A split of image files for one device."""

    def __init__(
        self, split: FileSplit, device: torch.device | str, n_threads: int | None = None
    ) -> None:
        """n_threads: decoders; default: as many as torch may use, this process's share of cores."""
        self.split = split
        self.y = torch.tensor(split.y, device=device)
        self._pool = ThreadPoolExecutor(n_threads or torch.get_num_threads(), "decoder")
        self._expected: dict[int, tuple[Tensor, Sequence[int]]] = {}
        self._ahead: dict[tuple[int, int], tuple[Tensor, Reading]] = {}

    def __len__(self) -> int:
        return len(self.split)

    def images(self, index: Tensor) -> Tensor:
        """(B,) int64 -> (B, 3, H, W) float32 in [0, 1]: the middle of each image.

        Raises DataError for a file that cannot be decoded.
        """
        size = self.split.image_size
        return self._gathered(
            [self._pool.submit(centre, self._path(i), size) for i in index.tolist()]
        )

    def labels(self, index: Tensor) -> Tensor:
        """(B,) int64 -> (B,) int64."""
        return self.y[index]

    def views(self, index: Tensor, run_seed: int, batch_number: int) -> Tensor:
        """(B,) int64 -> (B, 3, H, W) float32 in [0, 1]: a random part of each image.

        Raises DataError for a file that cannot be decoded.
        """
        held, reading = self._ahead.pop((run_seed, batch_number), (None, []))
        if held is not index:  # comparing contents would wait for the device
            reading = self._read(index.tolist(), run_seed, batch_number)
        for number in range(batch_number + 1, batch_number + 1 + AHEAD):
            if number in self._expected and (run_seed, number) not in self._ahead:
                part, rows = self._expected[number]
                self._ahead[run_seed, number] = part, self._read(rows, run_seed, number)
        return self._gathered(reading)

    def expect(self, parts: Sequence[Tensor], batch_number: int) -> None:
        """The next calls of `views` will be for these tensors, the first with that number."""
        rows = torch.cat(list(parts)).tolist()  # one wait for the device, and none while training
        self._ahead.clear()
        self._expected.clear()
        start = 0
        for number, part in enumerate(parts, batch_number):
            self._expected[number] = part, rows[start : start + len(part)]
            start += len(part)

    def _read(self, rows: Sequence[int], run_seed: int, batch_number: int) -> Reading:
        size = self.split.image_size
        return [
            self._pool.submit(
                crop,
                self._path(row),
                size,
                seed_for(run_seed, "train", "augmentation", batch_number, row),
            )
            for row in rows
        ]

    def _path(self, row: int) -> Path:
        return self.split.root / self.split.paths[row]

    def _gathered(self, reading: Reading) -> Tensor:
        # uint8 to the device, then floats: a quarter of the transfer. Division as in DeviceSplit.
        pixels = torch.from_numpy(np.stack([future.result() for future in reading]))
        x = pixels.to(self.y.device).permute(0, 3, 1, 2)
        return x.contiguous().float().div_(255)
