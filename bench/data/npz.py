"""A user's own images from one .npz file, checked before any work starts. Without torch.

Shapes: N images, H W C image, C 1 or 3.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Source, Split, is_taken, own_label, reason
from bench.errors import DataError

TRAIN, TEST = ("x_train", "y_train"), ("x_test", "y_test")

KNOWN = {
    # CIFAR-10 that went through JPEG (quality 75, 4:2:0) and was unpacked again: other pixels,
    # so its figures must never stand beside CIFAR-10's.
    "9d0a3b4e586a7eb1c547f7376323d53aa74d9f0d785c0854808f39d12c345cda": "cifar10-q75",
}
"""sha256 of the test split -> the label of data that are known by their content."""
SAVE = "or write it by numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"


def load_npz(text: str, *, reserved: Sequence[str], trains: bool = True) -> Source:
    """Return the images of the .npz file at path `text`, relative to the working directory.

    reserved: names of other data sets, refused as its label. trains: whether training images are
    required. Colour images are cropped (padding H / 8, so 4 at 32 pixels) and mirrored by default;
    grey ones, often characters, are not. Raises DataError for unusable data.
    """
    path = Path(text).expanduser()
    where = f"npz data '{text}'"
    arrays = _read(path, where, trains)
    test = _split(arrays, "test", where)
    there = trains or (arrays.keys() >= set(TRAIN) and arrays["x_train"].size > 0)
    train = _split(arrays, "train", where) if there else test.take(np.arange(0))
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(
            f"{where}: x_train holds {_size(train.x)} images but x_test {_size(test.x)}; "
            "bring both to one size and number of channels"
        )
    size, channels = train.x.shape[2:]
    return Source(
        name=_label(arrays.get("name"), test, path, where, reserved),
        origin=where,
        train=train,
        test=test,
        scale=1 / 255,
        pad=size // 8 if channels == 3 else 0,
        flip=channels == 3,
    )


def _read(path: Path, where: str, trains: bool) -> dict[str, NDArray[Any]]:
    """The arrays of known names; DataError if a required one is missing."""
    try:
        zipfile.ZipFile(path).close()  # np.load would take what is no zip file for a pickle
        with np.load(path, allow_pickle=False) as archive:
            held = list(archive)
            arrays = {name: archive[name] for name in (*TRAIN, *TEST, "name") if name in held}
    except OSError as error:
        raise DataError(
            f"{where}: cannot be read ({error.strerror or reason(error)}); "
            "check the path, which is relative to the working directory"
        ) from None
    except Exception as error:  # a damaged archive fails in a dozen ways, in zipfile, zlib or numpy
        raise DataError(
            f"{where}: is damaged, or not an .npz file ({reason(error)}); copy it again, {SAVE}"
        ) from None
    missing = [name for name in (*(TRAIN if trains else ()), *TEST) if name not in arrays]
    if missing == list(TRAIN):
        raise DataError(
            f"{where}: training images are missing ({', '.join(TRAIN)}); add them, or attack a "
            "model on the test images with bench evaluate"
        )
    if missing:
        raise DataError(
            f"{where}: lacks {', '.join(missing)}; it holds {', '.join(held) or 'nothing'}; "
            f"add them, {SAVE}"
        )
    return arrays


def _split(arrays: dict[str, NDArray[Any]], part: str, where: str) -> Split:
    x = _images(arrays[f"x_{part}"], f"{where}: x_{part}")
    return Split(x, _labels(arrays[f"y_{part}"], len(x), f"{where}: y_{part}"))


def _images(x: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, C) whole numbers in 0..255 as (N, H, W, C) uint8; else DataError."""
    shape = x.shape
    if x.ndim not in (3, 4):
        raise DataError(f"{where} has shape {shape}; images must be (N, H, W) or (N, H, W, C)")
    if x.ndim == 3:
        x = x[..., None]
    if x.shape[3] not in (1, 3):
        first = x.shape[1] in (1, 3)
        cure = "put the channels last, x.transpose(0, 2, 3, 1)" if first else "use grey or RGB"
        raise DataError(f"{where} has shape {shape}, so {x.shape[3]} channels, not 1 or 3; {cure}")
    if 0 in shape:
        raise DataError(f"{where} has shape {shape}, which holds no pixels; put images in it")
    if x.shape[1] != x.shape[2]:
        raise DataError(f"{where} holds {_size(x)} images; crop or resize them to squares")
    if x.dtype.kind not in "iu":
        raise DataError(
            f"{where} is {x.dtype}, but values must be uint8 0..255; "
            "for pixels in [0, 1] write numpy.rint(x * 255).astype('uint8')"
        )
    if x.dtype != np.uint8 and (x.min() < 0 or x.max() > 255):
        raise DataError(
            f"{where} is {x.dtype} with values {x.min()}..{x.max()}, but values must be "
            "uint8 0..255; rescale them to that range"
        )
    return np.ascontiguousarray(x, dtype=np.uint8)


def _labels(y: NDArray[Any], n: int, where: str) -> NDArray[np.int64]:
    """`y` as (n,) int64 labels of 0 or more; else DataError."""
    if y.ndim != 1:
        raise DataError(f"{where} has shape {y.shape}; labels must be ({n},), one number an image")
    if y.dtype.kind not in "iu":
        raise DataError(f"{where} is {y.dtype}, but labels must be integers 0..K-1; convert them")
    if len(y) != n:
        raise DataError(f"{where} holds {len(y)} labels for {n} images; give one an image")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high > np.iinfo(np.int64).max:
        raise DataError(
            f"{where} holds label {low if low < 0 else high}, which is out of range; "
            "number the classes 0..K-1"
        )
    return y.astype(np.int64)


def _label(
    stated: NDArray[Any] | None,
    test: Split,
    path: Path,
    where: str,
    reserved: Sequence[str],
) -> str:
    """The array `name`, else the known content's label, else the file's stem."""
    if stated is not None:
        name = str(stated.item()) if stated.dtype.kind == "U" and stated.size == 1 else ""
        if not re.fullmatch(r"[\w.-]{1,64}", name):
            raise DataError(
                f"{where}: the array 'name' must be one string of at most 64 letters, digits, "
                "'.', '_' and '-', since it labels every table; correct it or leave it out"
            )
        if not is_taken(name, reserved):
            return name
    if test.sha256 in KNOWN:
        return KNOWN[test.sha256]
    return own_label(path.stem, "npz", reserved)


def _size(x: NDArray[Any]) -> str:
    return "x".join(str(length) for length in x.shape[1:])
