"""How the evaluator predicts: eval mode, exact arithmetic, each image by itself.

Shapes: n images, C H W image, K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.archs.graphs import pad_batch
from bench.attacks.maximise import attack_mode
from bench.attacks.networks import MIN_ROWS
from bench.machine import exact_arithmetic


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode and disable TF32 and autocast; restore everything afterwards."""
    with attack_mode(model, "eval"), exact_arithmetic():
        yield


@contextmanager
def searching(model: nn.Module) -> Iterator[None]:
    """Like `evaluating`, but in the arithmetic that torch is set to: by default TF32 on CUDA."""
    cuda, cpu = (torch.autocast(kind, enabled=False) for kind in ("cuda", "cpu"))
    with attack_mode(model, "eval"), cuda, cpu:
        yield


def is_right(logits: Tensor, y: Tensor) -> Tensor:
    """(B, K), (B,) -> (B,) bool: correct; logits that are not finite are never correct."""
    return (logits.argmax(1) == y) & logits.isfinite().all(1)


def input_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of the sum of function(x), (B,), with respect to x, (B, ...)."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(function(x).sum(), x)
    return torch.as_tensor(gradient)


def predictions(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each prediction is correct, and whether its logits are finite, (n,) bool.

    In exact arithmetic, whatever is set around it. Bit for bit, a prediction does not depend on the
    other images of the call.
    """
    with torch.no_grad(), exact_arithmetic():
        logits = model(pad_batch(x, MIN_ROWS))[: len(x)]
    return is_right(logits, y), logits.isfinite().all(1)
