"""Data sets by name. Without torch, except for CIFAR."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.cifar import load_cifar
from bench.data.dataset import Dataset, Source, Split, cut, permutation
from bench.data.folder import load_folder, load_restricted_imagenet
from bench.data.npz import load_npz
from bench.errors import ConfigError, unknown_name
from bench.papers import plugins

N_DIGITS_TEST = 360
"""A fifth of the 1,797 digits."""
DIGITS_SEED = 0


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Arguments of a loader."""

    argument: str
    """The text after the colon of `npz:PATH`, else empty."""
    image_size: int | None
    """The number after `@`, in pixels per side, else None."""
    data_root: Path
    """Folder of downloads, or ImageNet."""
    download: bool
    trains: bool
    """Whether training images are required."""


@dataclass(frozen=True)
class Registered:
    """An entry of the registry."""

    description: str
    load: Callable[[LoadOptions], Source]
    sized: bool = False
    """Whether the name may end in @SIZE."""


def load_digits(request: LoadOptions) -> Source:
    """Return scikit-learn's 8x8 handwritten digits with grey levels 0..16; the last 360 are test.

    They are ordered by writer, so a fixed permutation shuffles them first.
    """
    from sklearn.datasets import load_digits as bundled

    raw = bundled()
    order = permutation(len(raw.target), DIGITS_SEED)
    x = raw.images[order].astype(np.uint8)[..., None]
    y = raw.target[order].astype(np.int64)
    return Source(
        name="digits",
        origin="dataset 'digits'",
        train=Split(x[:-N_DIGITS_TEST], y[:-N_DIGITS_TEST]),
        test=Split(x[-N_DIGITS_TEST:], y[-N_DIGITS_TEST:]),
        scale=1 / 16,
        pad=0,
        flip=False,
        class_names=tuple(str(name) for name in raw.target_names),
    )


SOURCES: dict[str, Registered] = {
    "digits": Registered(
        "handwritten digits, 8x8 grey, 1,797 images, embedded in scikit-learn", load_digits
    ),
    "cifar10": Registered(
        "CIFAR-10, 32x32 colour, 50,000 + 10,000 images, downloaded once",
        lambda request: load_cifar("cifar10", request.data_root, download=request.download),
    ),
    "cifar100": Registered(
        "CIFAR-100, 32x32 colour, 50,000 + 10,000 images, downloaded once",
        lambda request: load_cifar("cifar100", request.data_root, download=request.download),
    ),
    "npz:PATH": Registered(
        "your own .npz with x_train y_train x_test y_test, uint8 NHWC or NHW; the last two will do "
        "for bench evaluate",
        lambda request: load_npz(
            request.argument, reserved=tuple(sources()), trains=request.trains
        ),
    ),
    "folder:PATH": Registered(
        "your own image files in train/CLASS/ and test/CLASS/ or val/CLASS/ (without train/ for "
        "bench evaluate), read while they are used at 224x224; folder:PATH@64 for 64x64",
        lambda request: load_folder(
            request.argument,
            request.image_size,
            reserved=tuple(sources()),
            trains=request.trains,
        ),
        sized=True,
    ),
    "restricted-imagenet": Registered(
        "nine classes of animals from the ImageNet folder --data-root, read while they are used "
        "at 224x224; restricted-imagenet@64 for 64x64",
        lambda request: load_restricted_imagenet(
            request.data_root, request.image_size, trains=request.trains
        ),
        sized=True,
    ),
}


def sources() -> dict[str, Registered]:
    """Return our own data sources and the papers', by name."""
    return SOURCES | plugins("datasets")


def list_datasets() -> list[tuple[str, str]]:
    """Return (name, one-line description) of everything that `load_dataset` takes."""
    return [(name, source.description) for name, source in sources().items()]


def load_dataset(
    name: str,
    *,
    data_root: str | Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    download: bool = True,
    trains: bool = True,
) -> Dataset:
    """Return the data set called `name`, cut into train, val and test.

    data_root: the folder of downloads, or ImageNet's; default `data`. train_size, test_size: use
    only the first images; val is cut from the training images. trains: False for data that are only
    evaluated on; then train and val may be empty or lack classes, and train_size is a maximum.
    Raises ConfigError for an unknown name or an impossible size, DataError for data that are
    missing, damaged or malformed.
    """
    key, argument, image_size = _parsed(name)
    if key not in sources():
        raise unknown_name("dataset", name, sources())
    if key.endswith(":PATH") and not argument:
        raise ConfigError(f"dataset '{name}' names no file; write {key}")
    request = LoadOptions(
        argument=argument,
        image_size=image_size,
        data_root=Path(data_root or "data"),
        download=download,
        trains=trains,
    )
    source = sources()[key].load(request)
    return cut(source, train_size=train_size, test_size=test_size, trains=trains)


def _parsed(name: str) -> tuple[str, str, int | None]:
    """`folder:a/b@64` -> the key `folder:PATH`, the argument `a/b`, and 64.

    `@64` is a part of the name where the source takes no size.
    """
    whole, at, size = name.rpartition("@")
    if at and re.fullmatch("[0-9]+", size):
        key, argument = _key(whole)
        if key in sources() and sources()[key].sized:
            return key, argument, int(size)
    return *_key(name), None


def _key(name: str) -> tuple[str, str]:
    kind, colon, argument = name.partition(":")
    return f"{kind}:PATH" if colon else kind, argument
