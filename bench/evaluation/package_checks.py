"""AutoAttack's own checks of a model, as figures: the package prints them and keeps none.

Definitions and thresholds are those of the package (checks.py of fra31/auto-attack); only the
last threshold is never below two images, since 0.2 points are less than one image of a hundred.
Its check on the number of classes has no figure here: too few classes are refused.
"""

from __future__ import annotations

import sys

import torch
from pyautoattack import checks as package
from torch import Tensor, nn

from bench.attacks import get_attack
from bench.evaluation.check import Check
from bench.losses import dlr

REPEATS = 5
SOURCE = "AutoAttack, checks.py"
SAME = 1e-4
SQUARE = 0.002
LEAST_IMAGES = 2


def is_autoattack(name: str) -> bool:
    """Whether the attack is the package's, in whole or in part."""
    return get_attack(name).is_autoattack


def package_checks(
    model: nn.Module, x: Tensor, y: Tensor, n_square: int | None
) -> tuple[Check, ...]:
    """The checks on the images (n, C, H, W) of one chunk.

    n_square: images that Square broke after the gradient attacks; None where it did not follow any.
    """
    found = [_randomised(model, x), _probabilities(model, x), _dynamic(model, x)]
    found.append(_zero_gradients(model, x, y))
    if n_square is not None:
        threshold = max(SQUARE, LEAST_IMAGES / len(y))
        found.append(_check("square breaks: share of images", n_square / len(y), threshold))
    return tuple(found)


def _check(name: str, value: float, threshold: float) -> Check:
    return Check(f"AA {name}", value, threshold, alarm=not value <= threshold, source=SOURCE)


def _randomised(model: nn.Module, x: Tensor) -> Check:
    """Largest distance between the logits of repeated calls, each scaled to length 1."""
    with torch.no_grad():
        calls = [torch.nn.functional.normalize(model(x), dim=1) for _ in range(REPEATS)]
    apart = max(_apart(a, b) for a in calls for b in calls)
    return _check("repeated calls: logits apart by", apart, SAME)


def _apart(a: Tensor, b: Tensor) -> float:
    """Largest distance of two rows; of one that is NaN in one call alone, that of opposites."""
    difference = (a - b).masked_fill(a.isnan() & b.isnan(), 0.0)
    return float(difference.norm(dim=1).nan_to_num(nan=2.0).max())


def _probabilities(model: nn.Module, x: Tensor) -> Check:
    with torch.no_grad():
        logits = model(x)
    inside = bool((logits > -1e-5).all()) and bool((logits < 1 + 1e-5).all())
    is_distribution = inside and bool(((logits.sum(1) - 1).abs() < 1e-5).all())
    return _check("output is a probability vector", float(is_distribution), 0.0)


def _dynamic(model: nn.Module, x: Tensor) -> Check:
    """Calls of autograd inside a forward pass; the package's counter is never reset by itself."""
    tracer = sys.gettrace()  # of a debugger or of coverage; the package removes it
    _reset_counter()
    try:
        with torch.no_grad():
            package.check_dynamic(model, x[:1], logger=_Silent())
    finally:
        sys.settrace(tracer)
    n_calls = sum(package.funcs.values())
    _reset_counter()
    return _check("gradients taken in a forward pass", float(n_calls), 0.0)


def _reset_counter() -> None:
    package.funcs.update(dict.fromkeys(package.funcs, 0))


def _zero_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Check:
    """Share of the clean-correct images where the gradient of the DLR loss is zero in every pixel.

    Of those alone, which are attacked: where y ranks third, the loss is constant in any model.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        loss = dlr(logits, y).sum()
        gradient = torch.zeros_like(x)
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, x, materialize_grads=True)
    attacked = (logits.argmax(1) == y) & logits.isfinite().all(1)
    zero = (gradient.flatten(1).abs().amax(1) == 0) & attacked
    share = int(zero.sum()) / max(int(attacked.sum()), 1)
    return _check("zero gradients of DLR: share of images", share, 0.0)


class _Silent:
    """A logger: the figure says what the package would print."""

    def warning(self, message: str) -> None:
        """Drop it."""
