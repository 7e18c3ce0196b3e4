"""Data sets of the right sizes without an image, for an estimate where the data are not there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from bench.data import Dataset, Source, cut, load_dataset
from bench.data.files import FileSplit
from bench.data.folder import IMAGE_SIZE, RANGES

N_SYNSETS = sum(last - first + 1 for first, last in RANGES.values())


@dataclass(frozen=True, kw_only=True)
class Known:
    """How many images a data set has."""

    n_train: int
    n_test: int
    num_classes: int
    image_size: int


KNOWN = {
    "cifar10": Known(n_train=50_000, n_test=10_000, num_classes=10, image_size=32),
    "cifar100": Known(n_train=50_000, n_test=10_000, num_classes=100, image_size=32),
    "restricted-imagenet": Known(
        n_train=1300 * N_SYNSETS,  # ImageNet has 1,300 of most synsets, and never more
        n_test=50 * N_SYNSETS,
        num_classes=len(RANGES),
        image_size=IMAGE_SIZE,
    ),
}
"""Those that are downloaded or asked for; the others are embedded, or are the user's own files."""


@cache
def stand_in(
    name: str, data_root: str | None, train_size: int | None, test_size: int | None
) -> Dataset:
    """The data set of that name: of a known one its sizes alone, another is loaded.

    Raises ConfigError and DataError as `load_dataset` does.
    """
    base, _, side = name.partition("@")
    if base not in KNOWN:
        return load_dataset(
            name, data_root=data_root, train_size=train_size, test_size=test_size, download=False
        )
    known = KNOWN[base]
    side_pixels = int(side) if side else known.image_size
    source = Source(
        name=name,
        origin=f"dataset '{name}'",
        train=_images(known.n_train, known.num_classes, side_pixels),
        test=_images(known.n_test, known.num_classes, side_pixels),
        scale=1 / 255,
        pad=0,
        flip=False,
    )
    return cut(source, train_size=train_size, test_size=test_size)


def _images(n: int, num_classes: int, image_size: int) -> FileSplit:
    """Files that nobody opens; colour images."""
    return FileSplit(
        root=Path("nowhere"),
        paths=("image",) * n,
        sizes=np.ones(n, dtype=np.int64),
        y=np.arange(n, dtype=np.int64) % num_classes,
        image_size=image_size,
    )
