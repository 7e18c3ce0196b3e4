"""CIFAR-10 and CIFAR-100 through torchvision, with one-line errors."""

from __future__ import annotations

import tarfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.dataset import Source, Split, reason
from bench.errors import DataError

CLASSES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}


def load_cifar(name: str, root: Path, *, download: bool) -> Source:
    """Return `cifar10` or `cifar100` from its folder under `root`, downloaded if missing.

    An existing folder is never overwritten: it may be the user's own copy. Raises DataError if the
    folder is damaged, or missing and the download fails.
    """
    dataset = _torchvision_class(name)
    root = root.expanduser()
    folder = root / dataset.base_folder
    if folder.is_dir():
        parts = _read(dataset, name, folder)
    elif download:
        parts = _download(dataset, name, folder)
    else:
        raise DataError(
            f"dataset '{name}': there is no folder {folder} and downloading is off; "
            f"{_ways_out(dataset, 'allow the download')}"
        )
    train, test = (_split(part) for part in parts)
    return Source(
        name=name,
        origin=f"dataset '{name}'",
        train=train,
        test=test,
        scale=1 / 255,
        pad=4,
        flip=True,
        class_names=tuple(parts[0].classes),
    )


def _torchvision_class(name: str) -> Any:
    # Imported here: it takes seconds.
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:
        # A torchvision built for another torch fails in each of these ways.
        raise DataError(
            f"dataset '{name}' needs torchvision, which fails to import ({reason(error)}); "
            "install torch and torchvision together, or use --dataset npz:PATH"
        ) from None
    return getattr(datasets, CLASSES[name])


def _read(dataset: Any, name: str, folder: Path) -> tuple[Any, Any]:
    try:
        return dataset(folder.parent, train=True), dataset(folder.parent, train=False)
    except OSError as error:
        raise DataError(
            f"dataset '{name}': {folder} cannot be read ({reason(error)}); "
            "correct its permissions, or give a good copy by --data-root"
        ) from None
    except RuntimeError as error:  # torchvision found a file missing or a wrong checksum
        raise DataError(
            f"dataset '{name}': {folder} is damaged: "
            f"{_first_bad_file(dataset, folder) or reason(error)}; delete that folder and run "
            "again to download it, or give a good copy by --data-root"
        ) from None


def _download(dataset: Any, name: str, folder: Path) -> tuple[Any, Any]:
    try:
        train = dataset(folder.parent, train=True, download=True)
        return train, dataset(folder.parent, train=False)
    except (OSError, EOFError, RuntimeError, HTTPException, tarfile.TarError) as error:
        raise DataError(
            f"dataset '{name}': there is no folder {folder}, and the download failed "
            f"({reason(error)}); {_ways_out(dataset, 'run again where the network is reachable')}"
        ) from None


def _ways_out(dataset: Any, first: str) -> str:
    return (
        f"{first}, or pass --data-root FOLDER with {dataset.base_folder} in it, "
        "or use --dataset npz:PATH"
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


def _split(part: Any) -> Split:
    # torchvision's array is a transposed view of the files' channel-first rows.
    return Split(np.ascontiguousarray(part.data), np.asarray(part.targets, dtype=np.int64))
