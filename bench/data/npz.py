"""A user's own images from one .npz file, checked before any work starts. Without torch.

Shapes: N images, H W C image, C 1 or 3.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import LoadOptions, Source, Split, reason
from bench.errors import DataError

TRAIN, TEST = ("x_train", "y_train"), ("x_test", "y_test")

KNOWN = {
    # CIFAR-10 that went through JPEG (quality 75, 4:2:0) and was unpacked again: other pixels,
    # so its figures must never stand beside CIFAR-10's.
    "9d0a3b4e586a7eb1c547f7376323d53aa74d9f0d785c0854808f39d12c345cda": "cifar10-q75",
}
"""sha256 of the test split -> the label of data that are known by their content."""
SAVE = "or write it by numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"


def load_npz(options: LoadOptions) -> Source:
    """Return the images of the .npz file `options.argument`, relative to the working directory.

    Colour images are cropped (padding H / 8, so 4 at 32 pixels) and mirrored by default; grey ones,
    often characters, are not. Raises DataError for unusable data.
    """
    path = Path(options.argument).expanduser()
    arrays = _read(path, options.trains)
    test = _split(arrays, "test")
    has_train = arrays.keys() >= set(TRAIN) and arrays["x_train"].size > 0
    train = _split(arrays, "train") if options.trains or has_train else test.take(np.arange(0))
    if train.shape != test.shape:
        raise DataError(
            f"x_train holds {_size(train.x)} images but x_test {_size(test.x)}; "
            "bring both to one size and number of channels"
        )
    size, _, channels = train.shape
    return Source(
        name=_label(arrays.get("name"), test, path, options),
        train=train,
        test=test,
        scale=1 / 255,
        pad=size // 8 if channels == 3 else 0,
        flip=channels == 3,
    )


def _read(path: Path, trains: bool) -> dict[str, NDArray[Any]]:
    try:
        zipfile.ZipFile(path).close()  # np.load would take what is no zip file for a pickle
        with np.load(path, allow_pickle=False) as archive:
            held = list(archive)
            arrays = {name: archive[name] for name in (*TRAIN, *TEST, "name") if name in held}
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror or reason(error)}); "
            "check the path, which is relative to the working directory"
        ) from None
    except Exception as error:  # a damaged archive fails in a dozen ways, in zipfile, zlib or numpy
        raise DataError(
            f"is damaged, or not an .npz file ({reason(error)}); copy it again, {SAVE}"
        ) from None
    missing = [name for name in (*(TRAIN if trains else ()), *TEST) if name not in arrays]
    if missing == list(TRAIN):
        raise DataError(
            f"training images are missing ({', '.join(TRAIN)}); add them, or attack a model on the "
            "test images with bench evaluate"
        )
    if missing:
        names = ", ".join(held) or "nothing"
        raise DataError(f"lacks {', '.join(missing)}; it holds {names}; add them, {SAVE}")
    return arrays


def _split(arrays: dict[str, NDArray[Any]], part: str) -> Split:
    x = arrays[f"x_{part}"]
    if fault := _fault_of_images(x):
        raise DataError(f"x_{part} {fault}")
    x = np.ascontiguousarray(x if x.ndim == 4 else x[..., None], dtype=np.uint8)
    y = arrays[f"y_{part}"]
    if fault := _fault_of_labels(y, len(x)):
        raise DataError(f"y_{part} {fault}")
    return Split(x, y.astype(np.int64))


def _fault_of_images(x: NDArray[Any]) -> str:
    """Return why x is no array of (N, H, W) or (N, H, W, C) whole numbers in 0..255, or nothing."""
    shape, channels = x.shape, x.shape[3] if x.ndim == 4 else 1
    if x.ndim not in (3, 4):
        return f"has shape {shape}; images must be (N, H, W) or (N, H, W, C)"
    if channels not in (1, 3):
        first = shape[1] in (1, 3)
        cure = "put the channels last, x.transpose(0, 2, 3, 1)" if first else "use grey or RGB"
        return f"has shape {shape}, so {channels} channels, not 1 or 3; {cure}"
    if 0 in shape:
        return f"has shape {shape}, which holds no pixels; put images in it"
    if shape[1] != shape[2]:
        return f"holds {_size(x)} images; crop or resize them to squares"
    if x.dtype.kind not in "iu":
        cure = "for pixels in [0, 1] write numpy.rint(x * 255).astype('uint8')"
        return f"is {x.dtype}, but values must be uint8 0..255; {cure}"
    if x.dtype != np.uint8 and (x.min() < 0 or x.max() > 255):
        fault = f"is {x.dtype} with values {x.min()}..{x.max()}"
        return f"{fault}, but values must be uint8 0..255; rescale them to that range"
    return ""


def _fault_of_labels(y: NDArray[Any], n: int) -> str:
    if y.ndim != 1:
        return f"has shape {y.shape}; labels must be ({n},), one number an image"
    if y.dtype.kind not in "iu":
        return f"is {y.dtype}, but labels must be integers 0..K-1; convert them"
    if len(y) != n:
        return f"holds {len(y)} labels for {n} images; give one an image"
    low, high = int(y.min()), int(y.max())
    if low < 0 or high > np.iinfo(np.int64).max:
        bad = low if low < 0 else high
        return f"holds label {bad}, which is out of range; number the classes 0..K-1"
    return ""


def _label(stated: NDArray[Any] | None, test: Split, path: Path, options: LoadOptions) -> str:
    """The array `name`, else the known content's label, else the file's stem."""
    if stated is not None:
        name = str(stated.item()) if stated.dtype.kind == "U" and stated.size == 1 else ""
        if not re.fullmatch(r"[\w.-]{1,64}", name):
            raise DataError(
                "the array 'name' must be one string of at most 64 letters, digits, '.', '_' and "
                "'-', since it labels every table; correct it or leave it out"
            )
        if not options.is_taken(name):
            return name
    return KNOWN.get(test.sha256) or options.label(path.stem, "npz")


def _size(x: NDArray[Any]) -> str:
    return "x".join(str(length) for length in x.shape[1:])
