"""Data sets by name. Without torch, except for CIFAR, which torchvision reads."""

import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.dataset import Dataset, LoadOptions, Source, Split, cut, permutation, reason
from bench.data.folder import load_folder, load_restricted_imagenet
from bench.data.npz import load_npz
from bench.errors import ConfigError, DataError, unknown_name
from bench.papers import plugins

N_DIGITS_TEST = 360
DIGITS_SEED = 0


def load_digits(_: LoadOptions) -> Source:
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
        train=Split(x[:-N_DIGITS_TEST], y[:-N_DIGITS_TEST]),
        test=Split(x[-N_DIGITS_TEST:], y[-N_DIGITS_TEST:]),
        scale=1 / 16,
        pad=0,
        flip=False,
        class_names=tuple(str(name) for name in raw.target_names),
    )


def load_cifar(options: LoadOptions, name: str) -> Source:
    """Return torchvision's class `name` from its folder below data_root, downloaded if missing.

    An existing folder is never overwritten: it may be the user's own copy. Raises DataError if the
    folder is damaged, or missing and the download fails.
    """
    try:  # imported here: it takes seconds
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:
        # A torchvision built for another torch fails in each of these ways.
        raise DataError(
            f"torchvision fails to import ({reason(error)}); "
            "install torch and torchvision together, or use --dataset npz:PATH"
        ) from None
    dataset: Any = getattr(datasets, name)
    folder = options.data_root.expanduser() / dataset.base_folder
    others = f"or pass --data-root FOLDER with {folder.name} in it, or use --dataset npz:PATH"
    lacks = not folder.is_dir()
    if lacks and not options.download:
        raise DataError(
            f"there is no folder {folder} and downloading is off; allow the download, {others}"
        )
    try:
        train = dataset(folder.parent, train=True, download=lacks)
        test = dataset(folder.parent, train=False)
    except (OSError, EOFError, RuntimeError, HTTPException, tarfile.TarError) as error:
        if lacks:
            fault = f"there is no folder {folder}, and the download failed ({reason(error)})"
            cure = f"run again where the network is reachable, {others}"
        elif isinstance(error, OSError):
            fault = f"{folder} cannot be read ({reason(error)})"
            cure = "correct its permissions, or give a good copy by --data-root"
        else:  # torchvision found a file missing or a wrong checksum
            fault = f"{folder} is damaged: {_first_bad_file(dataset, folder) or reason(error)}"
            cure = (
                "delete that folder and run again to download it, or give a good copy by "
                "--data-root"
            )
        raise DataError(f"{fault}; {cure}") from None
    return Source(
        name=name.lower(),
        train=_cifar_split(train),
        test=_cifar_split(test),
        scale=1 / 255,
        pad=4,
        flip=True,
        class_names=tuple(train.classes),
    )


def _first_bad_file(dataset: Any, folder: Path) -> str | None:
    from torchvision.datasets.utils import check_integrity

    meta = (dataset.meta["filename"], dataset.meta["md5"])
    for filename, md5 in [*dataset.train_list, *dataset.test_list, meta]:
        if not (folder / filename).is_file():
            return f"{filename} is missing"
        if not check_integrity(folder / filename, md5):
            return f"{filename} has the wrong checksum"
    return None


def _cifar_split(part: Any) -> Split:
    # torchvision's array is a transposed view of the files' channel-first rows.
    return Split(np.ascontiguousarray(part.data), np.asarray(part.targets, dtype=np.int64))


@dataclass(frozen=True)
class Registered:
    """An entry of the registry."""

    description: str
    load: Callable[[LoadOptions], Source]
    sized: bool = False
    """Whether the name may end in @SIZE."""


SOURCES: dict[str, Registered] = {
    "digits": Registered(
        "handwritten digits, 8x8 grey, 1,797 images, embedded in scikit-learn", load_digits
    ),
    **{
        f"cifar{n}": Registered(
            f"CIFAR-{n}, 32x32 colour, 50,000 + 10,000 images, downloaded once",
            partial(load_cifar, name=f"CIFAR{n}"),
        )
        for n in (10, 100)
    },
    "npz:PATH": Registered(
        "your own .npz with x_train y_train x_test y_test, uint8 NHWC or NHW; the last two will do "
        "for bench evaluate",
        load_npz,
    ),
    "folder:PATH": Registered(
        "your own image files in train/CLASS/ and test/CLASS/ or val/CLASS/ (without train/ for "
        "bench evaluate), read while they are used at 224x224; folder:PATH@64 for 64x64",
        load_folder,
        sized=True,
    ),
    "restricted-imagenet": Registered(
        "nine classes of animals from the ImageNet folder --data-root, read while they are used "
        "at 224x224; restricted-imagenet@64 for 64x64",
        load_restricted_imagenet,
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
    kind, _, _ = key.partition(":")
    origin = f"{kind} data '{argument}'" if argument else f"dataset '{kind}'"
    options = LoadOptions(
        argument=argument,
        image_size=image_size,
        data_root=Path(data_root or "data"),
        download=download,
        trains=trains,
        reserved=tuple(sources()),
    )
    try:
        source = replace(sources()[key].load(options), origin=origin)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{origin}: {error}") from None
    return cut(source, train_size=train_size, test_size=test_size, trains=trains)


def _parsed(name: str) -> tuple[str, str, int | None]:
    """`folder:a/b@64` -> the key `folder:PATH`, the argument `a/b`, and 64.

    `@64` is a part of the name where the source takes no size.
    """
    whole, _, size = name.rpartition("@")
    for text, image_size in ((whole, size), (name, "")):
        kind, colon, argument = text.partition(":")
        key = f"{kind}:PATH" if colon else kind
        if re.fullmatch("[0-9]+", image_size) and key in sources() and sources()[key].sized:
            return key, argument, int(image_size)
    return key, argument, None
