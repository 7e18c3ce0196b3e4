"""Image files that threads decode on demand, the next batches ahead.

What an image becomes depends on its file, the run's seed, the batch number and the image's index;
never on the number of threads, or on what was decoded ahead.

`centre` uses a file that already has the network's size unchanged; `crop` pads it by size // 8
pixels of zero on each side and takes a random crop of that size, like every public recipe for CIFAR
and Tiny-ImageNet, and like `npz:` data in training.

Other files are treated like in torchvision, pixel for pixel: `centre` is Resize(size * 256 / 224)
and CenterCrop(size); `crop` is RandomResizedCrop(size) with its default scale and ratio.
MadryLab/robustness adds colour jitter of 0.1 and lighting noise of 0.05 in training; they are left
out, like in torchvision's own ImageNet recipe. Flips are made later, on the device. A change of any
pixel needs a new `bench.data.dataset.PIPELINE`.

B batch, N images, C H W image.
"""

import math
import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from bench.data.dataset import FileSplit, padding, reason, shorter_side
from bench.data.loader import Loader
from bench.errors import DataError
from bench.machine import sent
from bench.seeding import seed_for

AHEAD = 4
"""Batches that are decoded before they are needed."""

Reading: TypeAlias = list[Future[NDArray[np.uint8]]]
AREA = (0.08, 1.0)
"""Share of the image that a random crop covers, least and most."""
LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
"""Logarithm of width / height of a random crop, least and most."""
TRIES = 10
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""At most eight bits per channel; PIL silently clips other modes at white."""


def centre(path: Path, size: int) -> NDArray[np.uint8]:
    """Return the image, or its centre crop if it has another size, (size, size, 3)."""
    image = _opened(path)
    if image.size == (size, size):
        return np.asarray(image)
    scaled = functional.resize(image, shorter_side(size))
    return np.asarray(functional.center_crop(scaled, size))


def crop(path: Path, size: int, seed: int) -> NDArray[np.uint8]:
    """Return a random crop of the image, scaled, or padded if it has the size already."""
    image = _opened(path)
    if image.size == (size, size):
        return _shifted(np.asarray(image), padding(size), random.Random(seed))
    part = image.crop(random_box(image.width, image.height, random.Random(seed)))
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))


def random_box(width: int, height: int, stream: random.Random) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of a crop of random area and shape.

    If ten draws do not fit into the image: the largest central crop of an allowed shape.
    """
    for _ in range(TRIES):
        area = width * height * stream.uniform(*AREA)
        ratio = math.exp(stream.uniform(*LOG_RATIO))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(stream.random() * (width - w + 1))
            top = int(stream.random() * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * math.exp(LOG_RATIO[1])))
    h = min(height, round(width / math.exp(LOG_RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _shifted(image: NDArray[np.uint8], pad: int, stream: random.Random) -> NDArray[np.uint8]:
    height, width, _ = image.shape
    top, left = (int(stream.random() * (2 * pad + 1)) for _ in range(2))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return padded[top : top + height, left : left + width]


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode in MODES:
                return image.convert("RGB")
            fault = f"pixels of mode {image.mode}"
    except Exception as error:  # a damaged file fails in a dozen ways, in PIL, zlib or struct
        fault = reason(error)
    raise DataError(
        f"image file {path} cannot be decoded ({fault}); replace it by an 8-bit grey or colour "
        "image, or remove it"
    )


class StreamedSplit(Loader):
    """A split of image files for one device."""

    def __init__(
        self, split: FileSplit, device: torch.device | str, n_threads: int | None = None
    ) -> None:
        self.split = split
        self.y = torch.tensor(split.y, device=device)
        self._pool = ThreadPoolExecutor(n_threads or torch.get_num_threads(), "decoder")
        self._expected: dict[int, tuple[Tensor, Sequence[int]]] = {}
        self._ahead: dict[tuple[int, int], tuple[Tensor, Reading]] = {}

    def images(self, index: Tensor) -> Tensor:
        size = self.split.image_size
        paths = [self._path(row) for row in index.tolist()]
        return self._gathered([self._pool.submit(centre, path, size) for path in paths])

    def views(self, index: Tensor, run_seed: int, batch_number: int) -> Tensor:
        held, reading = self._ahead.pop((run_seed, batch_number), (None, []))
        if held is not index:  # comparing contents would wait for the device
            part, rows = self._expected.get(batch_number, (None, ()))
            rows = rows if part is index else index.tolist()
            reading = self._read(rows, run_seed, batch_number)
        for number in range(batch_number + 1, batch_number + 1 + AHEAD):
            if number in self._expected and (run_seed, number) not in self._ahead:
                part, rows = self._expected[number]
                self._ahead[run_seed, number] = part, self._read(rows, run_seed, number)
        return self._gathered(reading)

    def expect(self, parts: Sequence[Tensor], batch_number: int) -> None:
        rows = torch.cat(list(parts)).tolist()  # one wait for the device, and none while training
        self._ahead.clear()
        self._expected.clear()
        start = 0
        for number, part in enumerate(parts, batch_number):
            self._expected[number] = part, rows[start : start + len(part)]
            start += len(part)

    def _read(self, rows: Sequence[int], run_seed: int, batch_number: int) -> Reading:
        size, purpose = self.split.image_size, ("train", "augmentation", batch_number)
        seeds = [seed_for(run_seed, *purpose, row) for row in rows]
        files = zip(rows, seeds, strict=True)
        return [self._pool.submit(crop, self._path(row), size, seed) for row, seed in files]

    def _path(self, row: int) -> Path:
        return self.split.root / self.split.paths[row]

    def _gathered(self, reading: Reading) -> Tensor:
        # uint8 to the device, then floats: a quarter of the transfer. Division as in DeviceSplit.
        pixels = torch.from_numpy(np.stack([future.result() for future in reading]))
        x = sent(pixels, self.y.device).permute(0, 3, 1, 2)
        return x.contiguous().float().div_(255)
