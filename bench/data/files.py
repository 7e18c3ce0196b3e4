"""Image files, listed and fingerprinted without opening them, and without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError

PIPELINE = 2
"""Version of how `bench.data.stream` decodes a file; it enters every checksum.

1: files of the network's size were resized and cropped like all others.
"""
RESIZE = 256, 224
"""Shorter side before the centre crop, and side of the crop."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def shorter_side(size: int) -> int:
    return size * RESIZE[0] // RESIZE[1]


def padding(size: int) -> int:
    return size // 8


@dataclass(frozen=True, eq=False, kw_only=True)
class FileSplit:
    """Image files and their labels, in a fixed order."""

    root: Path
    paths: tuple[str, ...]
    """(N,) relative to `root`."""
    sizes: NDArray[np.int64]
    """(N,) bytes of each file."""
    y: NDArray[np.int64]
    """(N,), in [0, num_classes)."""
    image_size: int
    """Pixels per side of the decoded image."""

    def __post_init__(self) -> None:
        assert self.sizes.shape == self.y.shape == (len(self.paths),)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, 3

    def take(self, rows: NDArray[np.int64]) -> FileSplit:
        return FileSplit(
            root=self.root,
            paths=tuple(self.paths[row] for row in rows),
            sizes=self.sizes[rows],
            y=self.y[rows],
            image_size=self.image_size,
        )

    @cached_property
    def sha256(self) -> str:
        """Hex digest of image size, pipeline, and each file's relative path, bytes and label.

        Not of pixels: reading all of ImageNet takes a hundred times longer than listing it. So a
        file that changes at equal length goes unnoticed; renamed, added, removed, relabelled and
        resized ones do not. The folder's location does not matter.
        """
        digest = hashlib.sha256(f"files {self.image_size} pipeline {PIPELINE}\n".encode())
        for path, size, label in zip(self.paths, self.sizes, self.y, strict=True):
            digest.update(os.fsencode(path) + f"\0{size}\0{label}\n".encode())
        return digest.hexdigest()


def list_files(
    root: Path, labels: Mapping[str, int], image_size: int, where: str, *, gaps: bool = False
) -> FileSplit:
    """Return the images of the class folders `labels` (folder below `root` -> label), by path.

    Searches sub-folders, skips hidden and other files. gaps: whether a class folder may be empty.
    Raises DataError, which begins with `where`, for an empty folder or file.
    """
    found: list[tuple[str, int, int]] = []
    for name, label in labels.items():
        n_before = len(found)
        for path, size in _images(root / name, where):
            if size == 0:
                raise DataError(f"{where}: image file {path} is empty; replace it or remove it")
            found.append((path.relative_to(root).as_posix(), size, label))
        if len(found) == n_before and not gaps:
            raise DataError(
                f"{where}: class folder {root / name} holds no image ({' '.join(SUFFIXES)}); "
                "put images in it, or remove the class"
            )
    found.sort()
    return FileSplit(
        root=root,
        paths=tuple(path for path, _, _ in found),
        sizes=np.array([size for _, size, _ in found], dtype=np.int64),
        y=np.array([label for _, _, label in found], dtype=np.int64),
        image_size=image_size,
    )


def _images(folder: Path, where: str) -> Iterator[tuple[Path, int]]:

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{where}: {error.filename} cannot be read ({error.strerror}); check the folder, its "
            "links and its permissions"
        ) from None

    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = (name for name in folders if not name.startswith("."))
        for name in files:
            # "._a.jpg" is what macOS leaves beside a copied a.jpg, and no image.
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                try:
                    yield path, path.stat().st_size
                except OSError as error:
                    refuse(error)
