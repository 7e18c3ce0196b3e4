"""A caller's model, images and labels: converted to what is attacked, or refused in one line.

Shapes: n images, C H W image, K classes. Nothing that a caller passes is written to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.archs import Arch
from bench.archs.graphs import pad_batch
from bench.archs.weights import is_lazy
from bench.attacks.networks import MIN_ROWS
from bench.errors import BenchError, ConfigError, DataError, ModelError, one_line

Values: TypeAlias = Tensor | NDArray[Any] | Sequence[Any]
"""A tensor, a numpy array, or a list of numbers, arrays or tensors."""
TOLERANCE = 1e-5
"""How far outside [0, 1] rounding may put a pixel: a 400th of a grey level."""
STEPS = 2
"""The same for half precision and bf16, in steps of that type at 1."""
HALF = (torch.float16, torch.bfloat16)
MAX_GREY = 255
KNOWN = {
    "does not require grad": "no gradient reaches the images; does its forward pass run under "
    "no_grad or inference_mode, detach a tensor, or go through numpy?",
    "backward through the graph a second time": "it keeps a tensor of an earlier call and its "
    "graph; detach what is kept",
    "Inference tensors cannot be saved": "no gradient reaches the images; its forward pass runs "
    "under inference_mode",
}
"""Messages of torch, and what each means to the author of a model."""


def checked_inputs(x: Values, y: Values, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Convert to images (n, C, H, W) in [0, 1] and labels (n,) int64, or raise DataError.

    Images become float32. They stay in float64 for a model with weights in float64, and, if passed
    as a float64 tensor, for a function, whose weights are unknown.
    """
    images, labels = _tensor(x, "images"), _tensor(y, "labels")
    if images.ndim != 4 or not images.numel() or labels.shape != (len(images),):
        raise DataError(
            f"images {tuple(images.shape)} and labels {tuple(labels.shape)}: must be (n, C, H, W) "
            "and (n,); a column gives labels by y[:, 0], one-hot labels by y.argmax(1)"
        )
    images = _in_range(_floats(images))
    default = images.dtype if isinstance(x, Tensor) else torch.float32
    if not images.dtype == (_weights_dtype(model) or default) == torch.float64:
        images = images.float()
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"labels are {labels.dtype}: must be class indices, int64; write y.long() if these "
            "are whole numbers"
        )
    return images, labels.to(torch.int64)


def _weights_dtype(model: nn.Module) -> torch.dtype | None:
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
        raise DataError(
            f"{what} are a {type(values).__name__} that is no tensor ({one_line(str(error))}); "
            "give a tensor or a numpy array of numbers"
        ) from None


def _floats(x: Tensor) -> Tensor:
    if x.dtype in (*HALF, torch.float32, torch.float64):
        return x
    if x.dtype != torch.uint8 or int(x.max()) == 1:
        raise DataError(
            f"images are {x.dtype}: must be floats in [0, 1], or uint8 of 0..255 and not only 0 "
            "and 1; write x.float() for pixels, x.float() / 255 for grey levels"
        )
    return x.float().div_(MAX_GREY)


def _in_range(x: Tensor) -> Tensor:
    """Clamp what rounding put outside [0, 1]; refuse what lies farther out."""
    low, high = float(x.min()), float(x.max())
    slack = STEPS * torch.finfo(x.dtype).eps if x.dtype in HALF else TOLERANCE
    if low >= 0 and high <= 1:
        return x
    if -slack <= low and high <= 1 + slack:
        return x.clamp(0, 1)
    cure = "put any normalisation inside the model, and clamp what a resize or noise put outside"
    if low >= -slack and 2 < high <= MAX_GREY:
        cure = (
            f"these look like grey levels of 0..{MAX_GREY}: divide them by {MAX_GREY}, and put any "
            "normalisation inside the model"
        )
    raise DataError(f"images are in [{low:g}, {high:g}] and must be in [0, 1]; {cure}")


class ExternalNetwork(nn.Module):
    """Images (n, C, H, W) to logits (n, K) by a model that is not one of this package's networks.

    The model gets copies of the images, so it may write into them, in the dtype of its
    parameters; its logits are returned in the dtype of the images.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        """name: used in errors."""
        super().__init__()
        self.model, self.name = model, name
        self.training = model.training
        self.least_rows = 1
        """Smallest batch to call it with; `probe` raises it for a model that needs more."""
        self.dtype = _weights_dtype(model)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, K); raises ModelError if the model fails or returns no logits."""
        logits = self._call(pad_batch(x, self.least_rows).clone())
        return logits[: len(x)].to(x.dtype)

    def train(self, mode: bool = True) -> ExternalNetwork:
        """Set the mode of all modules, even if the model's own `train` does something else."""
        own_failed = False
        try:
            super().train(mode)
        except Exception:  # a `train` that does not set modes, but trains, for example
            own_failed = True
        if own_failed or not mode:  # layers may be kept in eval mode, but never in train mode
            for module in self.modules():
                module.training = mode
        return self

    def probe(self, x: Tensor) -> list[str]:
        """Call the model on a few of the images (n, C, H, W) and on one; return warnings.

        For eval mode and no gradients. Raises ModelError if it cannot take the images.
        """
        self.least_rows = 1
        few, notes = pad_batch(x[:MIN_ROWS], MIN_ROWS), []
        written = few.clone()
        self._call(written)
        if not torch.equal(written, few):
            notes.append("the model writes into the images that it is given; it gets copies")
        if self.model.training:
            raise ConfigError("the model switches itself to train mode when called; remove that")
        try:
            self._call(x[:1].clone())
        except ModelError as error:
            self.least_rows = MIN_ROWS
            reason = str(error).removeprefix(f"{self.name} ")
            notes.append(
                f"the model takes no single image ({reason}); batches of fewer than {MIN_ROWS} "
                "are filled up by repeating their last image"
            )
        return notes

    def _call(self, x: Tensor) -> Tensor:
        """Return the logits of x, which the model may write into."""
        try:
            logits: object = self.model(x if self.dtype is None else x.to(self.dtype))
        except (BenchError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise ModelError(
                f"{self.name} cannot take images {tuple(x.shape[1:])}: {explained(error)}"
            ) from error
        if not isinstance(logits, Tensor):
            found = f"a {type(logits).__name__}"
        elif logits.ndim != 2 or len(logits) != len(x):
            found = f"{tuple(logits.shape)} for {len(x)} images"
        else:
            return logits.clone()  # some attacks write to it, and a model may return what it keeps
        raise ModelError(f"{self.name} returns {found}; it must return logits (n, K)")


class _Called(nn.Module):
    """A function from images to logits, as a module in eval mode."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.forward = function
        self.training = False


def wrapped_model(model: object, name: str = "") -> tuple[nn.Module, list[str]]:
    """Return a model that can be attacked, and notes on what was changed.

    model: a module, or a function from images to logits; this package's networks are returned
    unchanged, and weights in half precision are copied into float32. name: used in errors; by
    default its type. Raises ConfigError for anything else.
    """
    if isinstance(model, Arch | ExternalNetwork):
        return model, []
    name = name or f"the model {type(model).__name__}"
    if isinstance(model, type) or not callable(model):
        what = f"class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ConfigError(
            f"a {what} is no model: give a torch.nn.Module, or a function from images "
            "(n, C, H, W) in [0, 1] to logits (n, K)"
        )
    if not isinstance(model, nn.Module):
        return ExternalNetwork(_Called(model), name), []
    if any(is_lazy(value) for value in (*model.parameters(), *model.buffers())):
        raise ConfigError(
            f"{name} has a parameter without values yet: call it once on an image before"
        )
    half = sorted({str(p.dtype) for p in model.parameters() if p.dtype in HALF})
    if not half:
        return ExternalNetwork(model, name), []
    try:
        widened = copy.deepcopy(model).float()
    except Exception as error:
        raise ConfigError(
            f"{name} has weights in {half[0]} and cannot be copied into float32 "
            f"({explained(error)}); call .float() on it"
        ) from error
    note = f"{half[0]} weights were copied into float32"
    return ExternalNetwork(widened, f"{name} (whose {note})"), [f"the model's {note}"]


@contextmanager
def blamed(model: nn.Module, what: str) -> Iterator[None]:
    """Turn any exception of an external model inside, under `what`, into a ModelError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (Exception, SystemExit) as error:
        if not isinstance(model, ExternalNetwork):
            raise
        if isinstance(error, ModelError):
            raise ModelError(f"{what} cannot be run: {error}") from error
        if isinstance(error, BenchError):
            raise
        raise ModelError(f"{what} cannot be run on {model.name}: {explained(error)}") from error


def explained(error: BaseException) -> str:
    """Return an exception on one line, in terms of this field if the message is a known one."""
    known = (meaning for part, meaning in KNOWN.items() if part in " ".join(str(error).split()))
    return next(known, one_line(error))
