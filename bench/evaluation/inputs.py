"""Images and labels as a caller has them, as the tensors that are attacked.

Shapes: n images, C H W image. What a caller gives is never written to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.errors import DataError

Values: TypeAlias = Tensor | NDArray[Any] | Sequence[Any]
"""A tensor, a numpy array, or a list of numbers, arrays or tensors."""
TOLERANCE = 1e-5
"""How far outside of [0, 1] a pixel may be by rounding: a 400th of a grey level."""
STEPS = 2
"""The same for half precision and bf16, in steps of that type at 1."""
HALF = (torch.float16, torch.bfloat16)
MAX_GREY = 255


def checked_inputs(x: Values, y: Values, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) in [0, 1] and labels (n,) int64, from what `evaluate` is given.

    Images are float32. A model with weights in float64, and a tensor in float64 for a function
    whose weights nobody sees, keep them in float64. Raises
    DataError, in one line, for what cannot be such images and labels.
    """
    images, labels = _tensor(x, "images"), _tensor(y, "labels")
    _check_shapes(images, labels)
    images = _in_range(_floats(images))
    keeps = _computes_in(model) or (images.dtype if isinstance(x, Tensor) else torch.float32)
    if not images.dtype == keeps == torch.float64:
        images = images.float()
    return images, _class_indices(labels)


def _computes_in(model: nn.Module) -> torch.dtype | None:
    """Of its first weights; None for a model without any."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def _tensor(values: Values, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    try:
        if isinstance(values, list | tuple) and any(isinstance(v, Tensor) for v in values):
            return torch.stack([torch.as_tensor(v) for v in values]).detach()
        array = np.asarray(values)
        # torch takes no other byte order and no negative strides, and warns of read-only memory
        native = array.dtype.newbyteorder("=")
        return torch.from_numpy(np.require(array, native, ["C_CONTIGUOUS", "WRITEABLE"]))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{what} are a {type(values).__name__} that is no tensor ({reason}); give a tensor or "
            "a numpy array of numbers"
        ) from None


def _check_shapes(x: Tensor, y: Tensor) -> None:
    if x.ndim == 4 and x.numel() and y.shape == (len(x),):
        return
    cure = ""
    if x.ndim == 4 and y.shape == (len(x), 1):
        cure = "; give the labels as y[:, 0]"
    elif x.ndim == 4 and y.ndim == 2 and len(y) == len(x):
        cure = "; give the class of each image, y.argmax(1) of one-hot labels"
    raise DataError(
        f"images {tuple(x.shape)} and labels {tuple(y.shape)}: must be (n, C, H, W) and (n,){cure}"
    )


def _floats(x: Tensor) -> Tensor:
    """Grey levels 0..255 in uint8 as [0, 1]; floats as they are."""
    if x.is_floating_point():
        if x.dtype not in (*HALF, torch.float32, torch.float64):
            raise DataError(f"images are {x.dtype}: write x.float() for pixels in [0, 1]")
        return x
    if x.dtype != torch.uint8:
        raise DataError(
            f"images are {x.dtype}: must be floats in [0, 1], or uint8 of 0..255; write "
            "x.float() / 255 for grey levels"
        )
    if int(x.max()) == 1:
        raise DataError(
            "images are torch.uint8 with values of 0 and 1, which may be grey levels of 0..255 or "
            "pixels in [0, 1]; write x.float() for the latter, x.float() / 255 for the former"
        )
    return x.float().div_(MAX_GREY)


def _in_range(x: Tensor) -> Tensor:
    """The images, with what rounding put outside of [0, 1] brought back into it."""
    low, high = float(x.min()), float(x.max())
    slack = STEPS * torch.finfo(x.dtype).eps if x.dtype in HALF else TOLERANCE
    if low >= 0 and high <= 1:
        return x
    if -slack <= low and high <= 1 + slack:
        return x.clamp(0, 1)
    if not low <= high:
        cure = "some pixels are NaN; remove them"
    elif low >= -slack and 2 < high <= MAX_GREY:
        cure = (
            f"these look like grey levels of 0..{MAX_GREY}: divide them by {MAX_GREY}, and put any "
            "normalisation inside the model"
        )
    else:
        cure = (
            "put any normalisation inside the model, and clamp what a resize or noise put outside"
        )
    raise DataError(f"images are in [{low:g}, {high:g}] and must be in [0, 1]; {cure}")


def _class_indices(y: Tensor) -> Tensor:
    if y.is_floating_point() or y.is_complex():
        raise DataError(
            f"labels are {y.dtype}: must be class indices, int64; write y.long() if these are "
            "whole numbers"
        )
    return y.to(torch.int64)
