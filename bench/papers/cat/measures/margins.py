"""How far each image is from a wrong prediction, if input and layers may be perturbed.

The CAT paper (arXiv 2002.06789, section 3.5, eq. 7 and Theorem 3.2) bounds the generalisation gap
by the inverse of a bilateral margin and argues that its training keeps that margin large. We do
not have the paper's formula. What is measured is our reading: the all-layer margin of Wei and Ma
(arXiv 1910.04284), on which such bounds rest, with the input perturbed as well as the layers. With
the perturbed network of `perturbed.py`,

    d(x, y) = min over delta of sqrt(sum_i ||delta_i||^2)  such that  max_{j != y} Z_j >= Z_y,

and d = 0 where the prediction is wrong already. Three such margins, since the word allows them:

    input   delta_0 alone: the Euclidean distance to the boundary, relative to ||x||
    layers  delta_1 ... delta_L: Wei and Ma's all-layer margin
    both    all of them: what we take the bilateral margin to be

Uncertain: whether the paper perturbs both input and layers or each layer on both its sides, its
norm (Euclidean here), and whether a layer ends before or after its activation (before, here).
The minimum is not convex, so every figure is an upper bound: see `ddn.py`.

Shapes: n images, C H W image, K classes, T targets an image, B = images * T rows.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.attacks.blocks import Blocked
from bench.attacks.maximise import attack_mode
from bench.errors import ConfigError
from bench.evaluation.measuring import MeasuredModel, finite_or_none
from bench.evaluation.prediction import exact_arithmetic, predictions
from bench.measured import Measured
from bench.papers.cat.measures.ddn import first_order, smallest
from bench.papers.cat.measures.perturbed import Where, perturbed

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def measure_margins(
    measured: MeasuredModel, *, n_images: int = 100, n_targets: int = 3, steps: int = 20
) -> Measured:
    """Measure the margins input, layers and both of the first images.

    n_targets: classes to try for each image, nearest by first order first. steps: gradients for
    each. On small networks of 10 classes, 3 and 20 give a mean within 1% of 9 and 200.
    values: n, n_correct; for each kind mean_KIND over all images (0 where wrong),
    mean_inverse_KIND over those above 0, since 1 / 0 is none, quantiles_KIND over all images at
    `quantiles`, and n_not_found_KIND, correct images that no perturbation broke: their margin is
    infinite, 1 / margin is 0, and a mean or quantile that it enters is None.
    arrays: for each kind margin_KIND (n,), index (n,), places among the measured images.
    Raises ConfigError for an impossible number.
    """
    if min(n_images, n_targets, steps) < 1:
        raise ConfigError(
            f"margins of {n_images} images, {n_targets} targets, {steps} steps: at least 1 each"
        )
    x, y = measured.x[:n_images], measured.y[:n_images]
    with attack_mode(measured.model, "eval"), exact_arithmetic():
        right, _ = predictions(Blocked(measured.model, measured.batch_size), x, y)
        found = {
            where: _margins(measured, where, x, y, right, n_targets, steps)
            for where in get_args(Where)
        }
    # What one kind found is a perturbation of the wider kind too.
    found["both"] = np.minimum(found["both"], np.minimum(found["input"], found["layers"]))
    values: dict[str, Any] = {
        "n": len(x),
        "n_correct": int(right.sum()),
        "quantiles": list(QUANTILES),
    }
    for where, margin in found.items():
        values |= _summary(where, margin)
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
                [first_order(network, images, labels, target) for target in others.T], dim=1
            )
            kept = others.gather(1, near.argsort(1)[:, :n_targets])
            rows = rows.repeat_interleave(kept.shape[1])
            sizes = smallest(network, images[rows], labels[rows], kept.flatten(), steps=steps)
            margins[block.cpu()] = sizes.view(kept.shape).amin(1).double().cpu()
    return margins.numpy()


def _others(y: Tensor, n_classes: int) -> Tensor:
    """Return every class but the true one, (B,) -> (B, K - 1)."""
    classes = torch.arange(n_classes - 1, device=y.device).expand(len(y), -1)
    return classes + (classes >= y[:, None])


def _summary(where: str, margin: NDArray[np.float64]) -> dict[str, Any]:
    inverse = 1 / margin[margin > 0]
    quantiles = np.quantile(margin, QUANTILES, method="inverted_cdf")
    return {
        f"mean_{where}": finite_or_none(margin.mean()),
        f"mean_inverse_{where}": finite_or_none(inverse.mean()) if len(inverse) else None,
        f"quantiles_{where}": [finite_or_none(q) for q in quantiles],
        f"n_not_found_{where}": int(np.isinf(margin).sum()),
    }
