"""One image file as the pixels that a network is given. Without torch.

A file that has the network's size already is taken as it is by `centre`; `crop` pads it by
size // 8 pixels of zero on each side and takes a random part of the network's size, as every
public recipe for CIFAR and Tiny-ImageNet does, and as `npz:` data are trained on.

For all other files both ways are torchvision's, pixel for pixel: `centre` is
Resize(size * 256 / 224) and CenterCrop(size); `crop` is RandomResizedCrop(size) with its default
scale and ratio. MadryLab/robustness adds colour jitter of 0.1 and lighting noise of 0.05 in
training; they are left out here, as in torchvision's own ImageNet recipe.

Flips are made later, on the device. A change of any pixel is a new `bench.data.files.PIPELINE`.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.files import padding, shorter_side
from bench.errors import DataError

AREA = (0.08, 1.0)
"""Share of the image that a random crop covers."""
LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
"""Width by height of a random crop."""
TRIES = 10
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Eight bits a channel or less; PIL cuts the others off at white without a word."""


def centre(path: Path, size: int) -> NDArray[np.uint8]:
    """The image, or the middle of one of another size, (size, size, 3).

    Raises DataError that names the file.
    """
    image = _opened(path)
    if image.size == (size, size):
        return np.asarray(image)
    width, height = image.size
    shorter = shorter_side(size)
    scaled = image.resize(
        (
            shorter if width <= height else int(shorter * width / height),
            shorter if height <= width else int(shorter * height / width),
        ),
        Image.Resampling.BILINEAR,
    )
    left, top = (round((side - size) / 2.0) for side in scaled.size)
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


def crop(path: Path, size: int, seed: int) -> NDArray[np.uint8]:
    """A random part of the image, (size, size, 3); `seed` decides which.

    It is scaled to that size, or is a part of the padded image where that has the size already.
    Raises DataError that names the file.
    """
    image = _opened(path)
    if image.size == (size, size):
        return _shifted(np.asarray(image), padding(size), random.Random(seed))
    part = image.crop(random_box(image.width, image.height, random.Random(seed)))
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))


def random_box(width: int, height: int, stream: random.Random) -> tuple[int, int, int, int]:
    """left, top, right, bottom of a crop of random area and shape.

    Where ten draws do not fit into the image, it is the largest central crop of allowed shape.
    """
    for _ in range(TRIES):
        area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * stream.random())
        ratio = math.exp(LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * stream.random())
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
    """The image (H, W, C) padded by zeros, from a random row and column in 0..2*pad on."""
    height, width, _ = image.shape
    top, left = (int(stream.random() * (2 * pad + 1)) for _ in range(2))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return padded[top : top + height, left : left + width]


def _opened(path: Path) -> Image.Image:
    """The decoded image in RGB."""
    try:
        with Image.open(path) as image:
            if image.mode in MODES:
                return image.convert("RGB")
            fault = f"pixels of mode {image.mode}"
    except Exception as error:  # a damaged file fails in a dozen ways, in PIL, zlib or struct
        fault = " ".join(str(error).split()) or type(error).__name__
    raise DataError(
        f"image file {path} cannot be decoded ({fault}); replace it by an 8-bit grey or colour "
        "image, or remove it"
    )
