"""A model from outside, called so that its faults are one line and harm nobody.

Shapes: n images, C H W image, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.archs import Arch
from bench.archs.rows import filled
from bench.archs.weights import is_lazy
from bench.attacks.blocks import MIN_ROWS
from bench.errors import BenchError, ConfigError, ModelError
from bench.evaluation.inputs import HALF

KNOWN = {
    "does not require grad": "no gradient reaches the images; does its forward pass run under "
    "no_grad or inference_mode, detach a tensor, or go through numpy?",
    "backward through the graph a second time": "it keeps a tensor of an earlier call and its "
    "graph; detach what is kept",
    "Inference tensors cannot be saved": "no gradient reaches the images; its forward pass runs "
    "under inference_mode",
}
"""What torch says, and what it means to the author of a model."""


class Given(nn.Module):
    """Images (n, C, H, W) to logits (n, K) by a model that is none of this package's networks.

    The model gets copies of the images, so that it may write into them, in the dtype of its
    parameters; its logits come back in the dtype of the images.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        """name: what errors call the model."""
        super().__init__()
        self.model, self.name = model, name
        self.training = model.training
        self.least_rows = 1
        """Fewest images of a call; `probe` raises it for a model that needs more."""
        self.widened_from = ""
        """The half precision that its weights were in, before they were copied into float32."""
        floating = (p.dtype for p in model.parameters() if p.is_floating_point())
        self.dtype = next(floating, None)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, K); raises ModelError where the model fails or returns no logits."""
        logits = self._call(filled(x, self.least_rows))
        return logits[: len(x)].to(x.dtype)

    def train(self, mode: bool = True) -> Given:
        """Set the mode of all modules, also where the model's own `train` is something else."""
        try:
            super().train(mode)
        except Exception:  # a method of that name that does not set modes, but trains, say
            self._set_flags(mode)
        if not mode:  # one that keeps layers in eval mode is heeded; none keeps them in train mode
            self._set_flags(mode)
        return self

    def probe(self, x: Tensor) -> list[str]:
        """Call the model on a few of the images (n, C, H, W) and on one; say what was found.

        In eval mode, without gradients. Raises ModelError where it cannot take them.
        """
        self.least_rows = 1
        few, notes = filled(x[:MIN_ROWS], MIN_ROWS), []
        given = few.clone()
        self._call(few, given)
        if not torch.equal(given, few):
            notes.append("the model writes into the images that it is given; it gets copies")
        if self.model.training:
            raise ConfigError("the model switches itself to train mode when called; remove that")
        try:
            self._call(x[:1])
        except ModelError as error:
            self.least_rows = MIN_ROWS
            reason = str(error).removeprefix(f"{self.name} ")
            notes.append(
                f"the model takes no single image ({reason}); batches of fewer than {MIN_ROWS} "
                "are filled up by repeating their last image"
            )
        return notes

    def _call(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        """Logits of at least one image; `given`: the tensor that the model gets, else a copy."""
        given = x.clone() if given is None else given
        given = given.to(self.dtype) if self.dtype is not None else given
        try:
            logits = self.model(given)
        except (BenchError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:  # whatever it raises, its user wants to read
            hint = f" (its {self.widened_from} weights were copied into float32: remove casts of "
            hint += "the images, or call .float() on the network)"
            raise ModelError(
                f"{self.name} cannot take images {tuple(x.shape[1:])}: {explained(error)}"
                + hint * bool(self.widened_from)
            ) from error
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"{self.name} returns a {type(logits).__name__}; it must return logits (n, K)"
            )
        if logits.ndim != 2 or len(logits) != len(x):
            raise ModelError(
                f"{self.name} returns {tuple(logits.shape)} for {len(x)} images; it must return "
                "logits (n, K)"
            )
        return logits.clone()  # some attacks write to it, and a model may return what it keeps

    def _set_flags(self, mode: bool) -> None:
        for module in self.modules():
            module.training = mode


class _Called(nn.Module):
    """A plain function from images to logits."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.training = False

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def given_model(model: object, name: str = "") -> tuple[nn.Module, list[str]]:
    """A model as it may be attacked, and what was done to it.

    model: a module, or a function from images to logits. name: what errors call it; empty for its
    type. One of this package's networks stays as it is. Weights in half precision are copied into
    float32. Raises ConfigError for anything else.
    """
    if isinstance(model, Arch | Given):
        return model, []
    name = name or f"the model {type(model).__name__}"
    if isinstance(model, type) or not callable(model):
        what = f"class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ConfigError(
            f"a {what} is no model: give a torch.nn.Module, or a function from images "
            "(n, C, H, W) in [0, 1] to logits (n, K)"
        )
    if not isinstance(model, nn.Module):
        return Given(_Called(model), name), []
    if any(is_lazy(value) for value in (*model.parameters(), *model.buffers())):
        raise ConfigError(
            f"{name} has a parameter without values yet: call it once on an image before"
        )
    half = sorted({str(p.dtype) for p in model.parameters() if p.dtype in HALF})
    if not half:
        return Given(model, name), []
    try:
        widened = copy.deepcopy(model).float()
    except Exception as error:
        raise ConfigError(
            f"{name} has weights in {half[0]} and cannot be copied into float32 "
            f"({explained(error)}); call .float() on it"
        ) from error
    given = Given(widened, name)
    given.widened_from = half[0]
    return given, [f"the model's {half[0]} weights were copied into float32"]


@contextmanager
def blamed(model: nn.Module, what: str) -> Iterator[None]:
    """Whatever a model from outside raises inside, under `what`, becomes a ModelError."""
    try:
        yield
    except (BenchError, torch.OutOfMemoryError) as error:
        if isinstance(model, Given) and isinstance(error, ModelError):
            raise ModelError(f"{what} cannot be run: {error}") from error
        raise
    except (Exception, SystemExit) as error:
        if not isinstance(model, Given):
            raise
        raise ModelError(f"{what} cannot be run on {model.name}: {explained(error)}") from error


def explained(error: BaseException) -> str:
    """An exception in one line, in words of this field where they are known."""
    text = " ".join(str(error).split())
    for part, meaning in KNOWN.items():
        if part in text:
            return meaning
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
