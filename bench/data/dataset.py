"""Loaded data sets, and how train, val and test are cut. Without torch.

Shapes: N images, H W C image. Pixels are uint8, or floats if the data are not images; `scale` maps
them to [0, 1].
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.data.files import FileSplit, padding, shorter_side
from bench.errors import ConfigError, DataError, one_line

MAX_VAL = 1000
VAL_SEED = 0
"""Never change it: another seed is another validation split, and records cannot be compared."""


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
        """Return lines for the user: the warnings, and how files become images."""
        told = [f"{self.origin}: {self._reading(trains)}"] * isinstance(self.test, FileSplit)
        return [*told, *(f"  warning: {self.origin}: {text}" for text in self.warnings)]

    def notes(self, others: Sequence[str] = ()) -> dict[str, list[str]]:
        """Return the entry `notes` of a record, or nothing: `others` and the warnings."""
        found = [*others, *(f"{self.origin}: {text}" for text in self.warnings)]
        return {"notes": found} if found else {}

    def _reading(self, trains: bool) -> str:
        size, pad = self.image_size, padding(self.image_size)
        n = f"{len(self.train) + len(self.val)} training and " if trains else ""
        said = (
            f"{n}{len(self.test)} test images, {self.num_classes} classes; files of {size}x{size} "
            f"pixels are taken as they are, others are resized to {shorter_side(size)} and "
            f"centre-cropped to {size}"
        )
        return said + trains * (
            f"; in training the former are padded by {pad} and cropped at random, the others are "
            "cropped by RandomResizedCrop"
        )


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
    n_train = len(source.train)
    if trains:
        n_train = _checked_size(source, "train", n_train, train_size)
    elif train_size is not None:
        n_train = min(n_train, train_size)
    n_test = _checked_size(source, "test", len(source.test), test_size)
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
    parts: dict[str, StoredSplit] = {
        "train": train,
        "val": source.train.take(np.flatnonzero(is_val)),
        "test": first_images(source.test, n_test),
    }
    return Dataset(**(whole | parts), num_classes=num_classes, all_classes=all_classes)


def _count_classes(source: Source, trains: bool) -> tuple[int, bool]:
    """Largest label + 1, or the named classes, and whether each class has a training image."""
    present = np.unique(source.train.y)
    num_classes = int(max(present.max(initial=0), source.test.y.max())) + 1
    if not trains:
        num_classes = max(num_classes, len(source.class_names or ()))
    if len(present) == num_classes:
        return num_classes, True
    if not trains:
        return num_classes, False
    # The labels are user data: one stray label of 10**9 must not become a list of 10**9 classes.
    gaps = np.flatnonzero(present != np.arange(len(present)))
    first = int(gaps[0]) if len(gaps) else len(present)
    raise DataError(
        f"{source.origin}: empty classes: the largest label is {num_classes - 1}, but "
        f"{num_classes - len(present)} of the classes 0..{num_classes - 1} have no training image "
        f"(the first is {first}); number the labels 0..K-1 and give each class training images"
    )


def _checked_size(source: Source, part: str, there: int, asked: int | None) -> int:
    if asked is None:
        return there
    if not 0 < asked <= there:
        raise ConfigError(
            f"{part}_size {asked}: {source.origin} has {there} {part} images; "
            f"give a number from 1 to {there}, or leave it out for all"
        )
    return asked


def _bare(name: str) -> str:
    """Return the name without case and punctuation: `CIFAR-10` and `cifar_10` are `cifar10`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_taken(name: str, reserved: Sequence[str]) -> bool:
    """Whether a reader could confuse `name` with one of the names `reserved`."""
    return _bare(name) in {_bare(other) for other in reserved}


def own_label(stem: str, kind: str, reserved: Sequence[str]) -> str:
    """Return `stem` as a label; a file called cifar10.npz need not hold CIFAR-10's pixels."""
    label = re.sub(r"[^\w.-]+", "-", stem) or kind
    return f"{kind}-{label}" if is_taken(label, reserved) else label
