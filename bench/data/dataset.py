"""Data sets in memory or as image files, and how train, val and test are cut. Without torch.

Shapes: N images, H W C image. Pixels are uint8, or floats if the data are not images; `scale` maps
them to [0, 1].
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError, DataError, one_line

MAX_VAL = 1000
VAL_SEED = 0
"""Never change it: another seed is another validation split, and records cannot be compared."""
PIPELINE = 2
"""Version of how `bench.data.stream` decodes a file; it enters every checksum.

1: files of the network's size were resized and cropped like all others.
"""
RESIZE = 256, 224
"""Shorter side before the centre crop, and side of the crop."""


def shorter_side(size: int) -> int:
    return size * RESIZE[0] // RESIZE[1]


def padding(size: int) -> int:
    return size // 8


def reason(error: Exception) -> str:
    """Return the message of a library's exception on one line."""
    return one_line(str(error)) or type(error).__name__


def permutation(n: int, seed: int) -> NDArray[np.int64]:
    """Return a random order of 0..n-1 that is the same in every version of numpy.

    numpy guarantees the raw stream of a bit generator, not `Generator.permutation` (NEP 19).
    """
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels in a fixed order, never written to."""

    x: NDArray[Any]
    """(N, H, W, C), C contiguous; uint8 or float32."""
    y: NDArray[np.int64]
    """(N,), in [0, num_classes)."""

    def __post_init__(self) -> None:
        assert self.x.dtype in (np.uint8, np.float32)
        assert self.x.ndim == 4
        assert self.x.flags.c_contiguous
        assert self.y.dtype == np.int64
        assert self.y.shape == self.x.shape[:1]

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.x.shape[1:]
        return height, width, channels

    def take(self, rows: NDArray[np.int64]) -> Split:
        """Copy those images; a view would keep all others in memory."""
        return Split(self.x[rows], self.y[rows])

    @cached_property
    def sha256(self) -> str:
        """Hex digest over the shape of x and the bytes of x and y; computed once."""
        digest = hashlib.sha256(repr(self.x.shape).encode())
        digest.update(self.x.data)
        digest.update(np.ascontiguousarray(self.y).data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class FileSplit:
    """Image files and their labels, in a fixed order."""

    root: Path
    paths: tuple[str, ...]
    """(N,) relative to `root`."""
    sizes: NDArray[np.int64]
    y: NDArray[np.int64]
    """(N,), in [0, num_classes)."""
    image_size: int

    def __post_init__(self) -> None:
        assert self.sizes.shape == self.y.shape == (len(self.paths),)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, 3

    def take(self, rows: NDArray[np.int64]) -> FileSplit:
        paths = tuple(self.paths[row] for row in rows)
        return replace(self, paths=paths, sizes=self.sizes[rows], y=self.y[rows])

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


StoredSplit: TypeAlias = Split | FileSplit
"""In memory, or files that are decoded on demand."""


def first_images(split: StoredSplit, n: int) -> StoredSplit:
    return split if n == len(split) else split.take(np.arange(n))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as its files hold it: all of train and test, without val."""

    name: str
    """Label in every table and record, such as `digits` or `cifar10-q75`."""
    origin: str = ""
    """Name in messages, such as `npz data 'mine.npz'`."""
    train: StoredSplit
    """May be empty, like val, in data that are only evaluated on."""
    test: StoredSplit
    """Opened by evaluation only."""
    scale: float
    """Stored pixel * scale is in [0, 1]."""
    pad: int
    """Default augmentation: pixels of padding on each side before the random crop; 0 is none."""
    flip: bool
    """Default augmentation: whether to mirror half of the images."""
    class_names: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    """What a user may not expect of these data, one line each."""
    mean: tuple[float, ...] | None = None
    """Default normalisation inside the network, one value per channel; None is the identity."""
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset(Source):
    """Three disjoint splits and what is needed to feed them to a model."""

    val: StoredSplit
    """Cut from the training images; all selection uses it."""
    num_classes: int
    """Of the whole source: a small subset may lack some of them."""
    all_classes: bool = True
    """False if a model may know more classes, since not every class has a training image."""

    @property
    def in_channels(self) -> int:
        return self.test.shape[2]

    @property
    def image_size(self) -> int:
        return self.test.shape[0]

    def seen_by(self, num_classes: int) -> Dataset:
        """The same images for a model with more classes, of which the data may lack the last."""
        if self.all_classes:
            return self
        return replace(self, num_classes=max(num_classes, self.num_classes), all_classes=True)

    def lines(self, *, trains: bool = False) -> list[str]:
        """Return lines for the user: how files become images, and the warnings."""
        warnings = [f"  warning: {self.origin}: {text}" for text in self.warnings]
        if not isinstance(self.test, FileSplit):
            return warnings
        size = self.image_size
        n = f"{len(self.train) + len(self.val)} training and " if trains else ""
        how = (
            f"{self.origin}: {n}{len(self.test)} test images, {self.num_classes} classes; files of "
            f"{size}x{size} pixels are taken as they are, others are resized to "
            f"{shorter_side(size)} and centre-cropped to {size}"
        )
        in_training = (
            f"; in training the former are padded by {padding(size)} and cropped at random, the "
            "others are cropped by RandomResizedCrop"
        )
        return [how + in_training * trains, *warnings]

    def notes(self, others: Sequence[str] = ()) -> dict[str, list[str]]:
        """Return the entry `notes` of a record, or nothing: `others` and the warnings."""
        entries = [*others, *(f"{self.origin}: {text}" for text in self.warnings)]
        return {"notes": entries} if entries else {}


def cut(
    source: Source,
    *,
    train_size: int | None = None,
    test_size: int | None = None,
    trains: bool = True,
) -> Dataset:
    """Return the first `train_size` and `test_size` images (None: all), with val cut from train.

    val is min(1000, n // 10) images, at least one, of the n training images, by indices that depend
    only on n. Every split keeps the source's order. trains: False for data that are only evaluated
    on, whose training images may be few, lack classes, or be absent.

    Raises ConfigError for an impossible size, DataError for classes without images.
    """
    num_classes, all_classes = _count_classes(source, trains)
    sizes = {"train": len(source.train), "test": len(source.test)}
    for part, size in (("train", train_size), ("test", test_size)):
        if size is None:
            continue
        if part == "train" and not trains:
            size = min(size, sizes[part])
        elif not 0 < size <= sizes[part]:
            raise ConfigError(
                f"{part}_size {size}: {source.origin} has {sizes[part]} {part} images; "
                f"give a number from 1 to {sizes[part]}, or leave it out for all"
            )
        sizes[part] = size
    n_train = sizes["train"]
    is_val = np.zeros(n_train, dtype=bool)
    is_val[permutation(n_train, VAL_SEED)[: max(1, min(MAX_VAL, n_train // 10))]] = True
    train = source.train.take(np.flatnonzero(~is_val))
    n_present = len(np.unique(train.y))
    if trains and n_present < 2:
        raise DataError(
            f"{source.origin}: the first {n_train} training images leave {len(train)} image(s) of "
            f"{n_present} class(es) after the cut for validation; training needs 2 classes, so "
            "raise train_size, or shuffle the data if they are sorted by class"
        )
    whole = {field.name: getattr(source, field.name) for field in fields(Source)}
    whole |= {"train": train, "test": first_images(source.test, sizes["test"])}
    val = source.train.take(np.flatnonzero(is_val))
    return Dataset(**whole, val=val, num_classes=num_classes, all_classes=all_classes)


def _count_classes(source: Source, trains: bool) -> tuple[int, bool]:
    """Largest label + 1, or the named classes, and whether each class has a training image."""
    present = np.unique(source.train.y)
    n = int(max(present.max(initial=0), source.test.y.max())) + 1
    if not trains:
        n = max(n, len(source.class_names or ()))
    elif len(present) < n:
        # One stray label of 10**9 must not become a list of 10**9 classes.
        first = np.flatnonzero(np.append(present, -1) != np.arange(len(present) + 1))[0]
        raise DataError(
            f"{source.origin}: empty classes: the largest label is {n - 1}, but "
            f"{n - len(present)} of the classes 0..{n - 1} have no training image (the first is "
            f"{first}); number the labels 0..K-1 and give each class training images"
        )
    return n, len(present) == n


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What the name and the options of a data set say to its loader."""

    argument: str
    """The text after the colon of `npz:PATH`, else empty."""
    image_size: int | None
    """The number after `@`, in pixels per side, else None."""
    data_root: Path
    download: bool
    trains: bool
    reserved: Sequence[str]
    """Names of the known data sets, refused as the label of others."""

    def is_taken(self, name: str) -> bool:
        """Whether a reader could confuse `name` with a known data set."""
        return _bare(name) in {_bare(other) for other in self.reserved}

    def label(self, stem: str, kind: str) -> str:
        """Return `stem` as a label; a file called cifar10.npz need not hold CIFAR-10's pixels."""
        label = re.sub(r"[^\w.-]+", "-", stem) or kind
        return f"{kind}-{label}" if self.is_taken(label) else label


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
