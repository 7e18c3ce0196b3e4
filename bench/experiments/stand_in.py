"""Stand-ins for data sets that are not here, to plan with: sizes without images."""

from functools import cache
from pathlib import Path

import numpy as np

from bench.data.dataset import Dataset, FileSplit, Source, cut
from bench.data.folder import IMAGE_SIZE, RANGES
from bench.data.sources import load_dataset
from bench.errors import DataError

N_SYNSETS = sum(last - first + 1 for first, last in RANGES.values())
SIZES = {
    "cifar10": (50_000, 10_000, 10, 32),
    "cifar100": (50_000, 10_000, 100, 32),
    # ImageNet has 1,300 training images of most synsets, and never more
    "restricted-imagenet": (1300 * N_SYNSETS, 50 * N_SYNSETS, len(RANGES), IMAGE_SIZE),
}
"""Training and test images, classes and pixels a side of the data that may have to be fetched."""


@cache
def stand_in(
    name: str, data_root: str | None, train_size: int | None, test_size: int | None
) -> Dataset:
    """Return a dataset of the right sizes without files; load it if its sizes are unknown.

    Raises ConfigError and DataError as `load_dataset` does.
    """
    base, _, side = name.partition("@")
    if base not in SIZES:
        return load_dataset(
            name, data_root=data_root, train_size=train_size, test_size=test_size, download=False
        )
    n_train, n_test, n_classes, image_size = SIZES[base]

    def images(n: int) -> FileSplit:
        return FileSplit(
            root=Path("nowhere"),
            paths=("image",) * n,
            sizes=np.ones(n, dtype=np.int64),
            y=np.arange(n, dtype=np.int64) % n_classes,
            image_size=int(side) if side else image_size,
        )

    source = Source(
        name=name, origin=f"dataset '{name}'", train=images(n_train), test=images(n_test),
        scale=1 / 255, pad=0, flip=False,
        warnings=("its images are not here, so what is done on them is not recognised",),
    )  # fmt: skip
    return cut(source, train_size=train_size, test_size=test_size)


def here_or_stand_in(
    name: str, data_root: str | None, train_size: int | None, test_size: int | None
) -> Dataset:
    """Return a data set if its files are here, so that records are recognised, else a stand-in.

    Nothing is downloaded. Raises ConfigError and DataError as `load_dataset` does.
    """
    try:
        return load_dataset(
            name, data_root=data_root, train_size=train_size, test_size=test_size, download=False
        )
    except DataError:
        return stand_in(name, data_root, train_size, test_size)
