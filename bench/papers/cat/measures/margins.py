"""How far each image is from a wrong prediction, if input and layers may be perturbed.

This is not the CAT paper's bilateral margin, which `bilateral.py` measures: it is the all-layer
margin of Wei and Ma (arXiv 1910.04284), from whose Theorem 2.1 the paper derives its own, also with
the input perturbed. With the perturbed network of `layers.py`,

    d(x, y) = min over delta of sqrt(sum_i ||delta_i||^2)  such that  max_{j != y} Z_j >= Z_y,

and d = 0 where the prediction is wrong already. Three such margins:

    input   delta_0 alone: the Euclidean distance to the boundary, relative to ||x||
    layers  delta_1 ... delta_L: Wei and Ma's all-layer margin
    both    all of them

A layer ends before its activation. The minimum is not convex, so every number is an upper bound.
The search is DDN, Rony et al. 2019 (arXiv 1811.09600): the direction follows the gradient of the
objective, the norm is set apart from it, smaller after a success and larger after a failure. Here
the objective is Z_t - Z_y for a given target t, lengths are relative to the first-order distance
(Z_y - Z_t) / ||gradient||, and the best perturbation is shortened along its ray at the end, so that
the bound is tight where the direction is right. On a linear map it is exact.

Shapes: n images, C H W image, K classes, T targets per image, B = images * T rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.attacks.maximise import attack_mode
from bench.attacks.networks import BatchedModel
from bench.errors import ConfigError
from bench.evaluation.measuring import MeasuredModel, finite_or_none
from bench.evaluation.prediction import predictions
from bench.machine import exact_arithmetic
from bench.papers.cat.measures.layers import Deltas, Perturbed, Where, perturbed
from bench.records.measure import Measured
from bench.threat import rowwise

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHRINK, _GROW, _SEARCH = 0.95, 1.05, 1.2
"""Of the norm: after a success, after a failure, and after a failure before any success."""
_BISECTIONS = 12
_TINY = 1e-12


def measure_margins(
    measured: MeasuredModel, *, n_images: int = 100, n_targets: int = 3, steps: int = 20
) -> Measured:
    """Measure the margins input, layers and both of the first images.

    n_targets: classes to try per image, nearest by first order first. steps: gradients per
    class. On small networks of 10 classes, 3 and 20 give a mean within 1% of 9 and 200.
    values: n, n_correct, and what `summary` says of each kind.
    arrays: for each kind margin_KIND (n,), index (n,), places among the measured images.
    Raises ConfigError for an impossible number.
    """
    if min(n_images, n_targets, steps) < 1:
        raise ConfigError(
            f"margins of {n_images} images, {n_targets} targets, {steps} steps: at least 1 each"
        )
    x, y = measured.x[:n_images], measured.y[:n_images]
    with attack_mode(measured.model, "eval"), exact_arithmetic():
        right, _ = predictions(BatchedModel(measured.model, measured.batch_size), x, y)
        found = {
            where: _margins(measured, where, x, y, right, n_targets, steps)
            for where in get_args(Where)
        }
    # What one kind found is a perturbation of the wider kind too.
    found["both"] = np.minimum(found["both"], np.minimum(found["input"], found["layers"]))
    values = {"n": len(x), "n_correct": int(right.sum())} | summary(found)
    arrays = {f"margin_{where}": margin for where, margin in found.items()}
    return Measured(values=values, arrays={**arrays, "index": np.arange(len(x))})


def _margins(
    measured: MeasuredModel,
    where: Where,
    x: Tensor,
    y: Tensor,
    right: Tensor,
    n_targets: int,
    steps: int,
) -> NDArray[np.float64]:
    """Return (n,) float64; 0 where the prediction is wrong."""
    margins = torch.zeros(len(x), dtype=torch.float64)
    places = right.nonzero().squeeze(1)
    with perturbed(measured.model, x[:1], where) as network:
        for block in torch.split(places, max(1, measured.batch_size // n_targets)):
            images, labels = x[block], y[block]
            with torch.no_grad():
                n_classes = network(images, network.zeros(images)).shape[1]
            others = _others(labels, n_classes)
            rows = torch.arange(len(block), device=x.device)
            near = torch.stack(
                [_first_order(network, images, labels, target) for target in others.T], dim=1
            )
            kept = others.gather(1, near.argsort(1)[:, :n_targets])
            rows = rows.repeat_interleave(kept.shape[1])
            sizes = _smallest(network, images[rows], labels[rows], kept.flatten(), steps=steps)
            margins[block.cpu()] = sizes.view(kept.shape).amin(1).double().cpu()
    return margins.numpy()


def _others(y: Tensor, n_classes: int) -> Tensor:
    """Return every class but the true one, (B,) -> (B, K - 1)."""
    classes = torch.arange(n_classes - 1, device=y.device).expand(len(y), -1)
    return classes + (classes >= y[:, None])


def summary(margins: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Return, of each KIND of margin (n,): mean_KIND over all images (0 where wrong).

    mean_inverse_KIND is over those above 0, quantiles_KIND over all images at `quantiles`. Of an
    image that no perturbation broke (n_not_found_KIND) the margin is infinite and 1 / margin 0; a
    mean or quantile that it enters is None.
    """
    values: dict[str, Any] = {"quantiles": list(QUANTILES)}
    for kind, margin in margins.items():
        inverse = 1 / margin[margin > 0]
        quantiles = np.quantile(margin, QUANTILES, method="inverted_cdf")
        values |= {
            f"mean_{kind}": finite_or_none(margin.mean()),
            f"mean_inverse_{kind}": finite_or_none(inverse.mean()) if len(inverse) else None,
            f"quantiles_{kind}": [finite_or_none(q) for q in quantiles],
            f"n_not_found_{kind}": int(np.isinf(margin).sum()),
        }
    return values


def _first_order(network: Perturbed, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return (B,) the size of the smallest perturbation if the network were linear."""
    lead, gradient = _lead(network, x, network.zeros(x), y, target)
    return -lead / _size(gradient).clamp_min(_TINY)


def _smallest(network: Perturbed, x: Tensor, y: Tensor, target: Tensor, *, steps: int) -> Tensor:
    """Return (B,) sizes of small perturbations with Z_target >= Z_y; infinite if none was found.

    x: (B, C, H, W), all classified as y (B,); target: (B,) other classes. steps: gradients.
    """
    deltas = best = network.zeros(x)
    found = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    length = torch.zeros_like(found)
    for step in range(steps):
        lead, gradient = _lead(network, x, deltas, y, target)
        slope = _size(gradient).clamp_min(_TINY)
        success = lead >= 0
        if step == 0:
            length = -lead / slope
        else:
            better = success & (_size(deltas) < found)
            best, found = _chosen(better, deltas, best), torch.where(better, _size(deltas), found)
            grow = torch.where(found.isinf(), _SEARCH, _GROW)
            length = length * torch.where(success, _SHRINK, grow)
        stride = length * (0.01 + 0.5 * (1 + math.cos(math.pi * step / steps)))
        moved = [a + b for a, b in zip(deltas, _scaled(gradient, stride / slope), strict=True)]
        deltas = _scaled(moved, length / _size(moved).clamp_min(_TINY))
    success = _lead(network, x, deltas, y, target)[0] >= 0
    best = _chosen(success & (_size(deltas) < found), deltas, best)
    found = torch.where(success | found.isfinite(), _size(best), found)
    return found * _shortened(network, x, best, y, target)


def _shortened(network: Perturbed, x: Tensor, deltas: Deltas, y: Tensor, target: Tensor) -> Tensor:
    """Return (B,) in (0, 1] the smallest factor that still succeeds, by bisection."""
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        with torch.no_grad():
            success = _difference(network(x, _scaled(deltas, middle)), y, target) >= 0
        low, high = torch.where(success, low, middle), torch.where(success, middle, high)
    return high


def _lead(
    network: Perturbed, x: Tensor, deltas: Deltas, y: Tensor, target: Tensor
) -> tuple[Tensor, Deltas]:
    """Return Z_target - Z_y (B,), and its gradient with respect to each perturbation."""
    deltas = [delta.detach().requires_grad_() for delta in deltas]
    with torch.enable_grad():
        lead = _difference(network(x, deltas), y, target)
        gradient = torch.autograd.grad(lead.sum(), deltas)
    return lead.detach(), list(gradient)


def _difference(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def _size(deltas: Sequence[Tensor]) -> Tensor:
    """Return (B,) the Euclidean norm of all perturbations of a row together."""
    squares = [delta.flatten(1).square().sum(1) for delta in deltas]
    return torch.stack(squares).sum(0).sqrt()


def _scaled(deltas: Sequence[Tensor], factor: Tensor) -> Deltas:
    """Return every row times its factor (B,)."""
    return [delta * rowwise(factor, delta) for delta in deltas]


def _chosen(rows: Tensor, first: Sequence[Tensor], second: Sequence[Tensor]) -> Deltas:
    """Return `first` in the rows (B,) that are true, `second` in the others."""
    return [torch.where(rowwise(rows, a), a, b) for a, b in zip(first, second, strict=True)]
