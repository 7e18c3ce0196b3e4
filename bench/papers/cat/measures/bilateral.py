"""The bilateral margin of the CAT paper: Definition 3.1, equation 7 (arXiv 2002.06789).

With h the softmax output and Euclidean norms,

    H(x, d_i, d_o) = h(x + d_i ||x||) + d_o ||x + d_i ||x|| ||
    m(x, y) = min over d_i, d_o of sqrt(||d_i||^2 + ||d_o||^2)  such that  argmax H != y,

and m = 0 where the prediction is wrong already. No layer in between is perturbed. For a given d_i,
with z = x + d_i ||x||, the best d_o moves the output of class y down and that of one other class j
up by the same length, so that

    m(x, y) = min over d_i, j of sqrt(||d_i||^2 + max(0, h_y(z) - h_j(z))^2 / (2 ||z||^2)).

At d_i = 0 this is a bound: m <= (h_y - max_{j != y} h_j) / (sqrt(2) ||x||), which training on soft
labels lowers whatever the network's robustness. Theorem 3.2 averages 1 / m over training images.

The minimum over d_i is not convex; it is searched, so every margin is an upper bound, and a mean of
1 / margin a lower one. Nothing outside ||d_i|| <= the bound can be better. First comes gradient
ascent on Z_j - Z_y (which has a gradient where the softmax is saturated) on spheres of growing
radius, then gradient descent on the expression above, and after each the best multiple of the best
d_i. z is not clipped to [0, 1]: the definition has no box.

Shapes: n images, C H W image, K classes, B = images * targets rows.
"""

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.maximise import attack_mode
from bench.attacks.networks import BatchedModel
from bench.errors import ConfigError
from bench.evaluation.measuring import MeasuredModel
from bench.evaluation.prediction import input_gradient, predictions
from bench.machine import exact_arithmetic
from bench.papers.cat.measures.layers import length
from bench.papers.cat.measures.margins import summary
from bench.records.measure import Measured
from bench.threat import rowwise

_STEPS_PER_RADIUS = 3
_LARGEST_STEP, _SMALLEST_STEP = 0.2, 1e-3
"""Of the descent, in units of the bound."""
_ZOOMS, _MULTIPLES = 5, 8


def measure_bilateral(measured: MeasuredModel, *, n_targets: int = 3, steps: int = 60) -> Measured:
    """Measure the bilateral margin of Definition 3.1, and its bound, of every image.

    n_targets: other classes to try per image, the most probable first. steps: gradients per class.
    On small networks of 10 classes, 3 and 60 give a mean within 1% of 9 and 300.
    values: n, n_correct, and what `summary` says of margin and bound.
    arrays: margin, bound (n,), 0 where the prediction is wrong; index (n,).
    Raises ConfigError for an impossible number.
    """
    if n_targets < 1 or steps < 2 * _STEPS_PER_RADIUS:
        raise ConfigError(
            f"bilateral margins of {n_targets} targets, {steps} steps: at least 1 and "
            f"{2 * _STEPS_PER_RADIUS}"
        )
    x, y = measured.x, measured.y
    margin, bound = (torch.zeros(len(x), dtype=torch.float64) for _ in range(2))
    with attack_mode(measured.model, "eval"), exact_arithmetic():
        right, _ = predictions(BatchedModel(measured.model, measured.batch_size), x, y)
        places = right.nonzero().squeeze(1)
        for block in torch.split(places, max(1, measured.batch_size // n_targets)):
            if not len(block):
                continue
            rows = _Rows(measured.model, x[block], y[block], n_targets)
            size = (len(block), -1)
            bound[block.cpu()] = rows.bound.view(size).amin(1).double().cpu()
            margin[block.cpu()] = rows.smallest(steps).view(size).amin(1).double().cpu()
    found = {"margin": margin.numpy(), "bound": bound.numpy()}
    values = {"n": len(x), "n_correct": len(places)} | summary(found)
    return Measured(values=values, arrays={**found, "index": np.arange(len(x))})


class _Rows:
    """Correct images, each next to its most probable other classes, and the search's best d_i."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, n_targets: int) -> None:
        self.model = model
        with torch.no_grad():
            logits = model(x).clone()
        n_targets = min(n_targets, logits.shape[1] - 1)
        others = logits.scatter(1, y[:, None], -torch.inf).topk(n_targets).indices
        rows = torch.arange(len(x), device=x.device).repeat_interleave(n_targets)
        self.x, self.y, self.target = x[rows], y[rows], others.flatten()
        self.length = length(self.x)
        self.best = torch.zeros_like(self.x)
        with torch.no_grad():
            self.bound = self.found = self.size(self.best)

    def logits(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) at z = x + d ||x||, and ||z|| (B,)."""
        z = self.x + d * rowwise(self.length, d)
        logits: Tensor = self.model(z)
        return logits, length(z)

    def ahead(self, values: Tensor) -> Tensor:
        """(B, K) -> (B,): of the true class over the target."""
        true, other = (values.gather(1, of[:, None]).squeeze(1) for of in (self.y, self.target))
        return true - other

    def size(self, d: Tensor) -> Tensor:
        """Return (B,) the size of d with the best d_o."""
        logits, of_z = self.logits(d)
        lead = self.ahead(logits.softmax(1)).clamp_min(0.0)
        squares = d.flatten(1).square().sum(1) + (lead / of_z).square() / 2
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()

    def keep(self, d: Tensor, size: Tensor) -> None:
        """Take d in the rows where it is smaller than the best so far."""
        better = size < self.found
        self.best = torch.where(rowwise(better, d), d, self.best)
        self.found = torch.where(better, size, self.found)

    def smallest(self, steps: int) -> Tensor:
        """Return (B,) the smallest size found."""
        n_radii = max(1, steps // 3 // _STEPS_PER_RADIUS)
        self._spheres(n_radii)
        self._shorten()
        left = steps - n_radii * _STEPS_PER_RADIUS
        # a longer z lowers d_o, so the direction of x is the other start
        for start in (self.best, _on_sphere(self.x, self.bound / 2)):
            self._descend(start, left // 2)
        self._shorten()
        return self.found

    def _spheres(self, n_radii: int) -> None:
        d = self.best
        for number in range(n_radii):
            radius = self.bound * (number + 1) / n_radii
            for _ in range(_STEPS_PER_RADIUS):
                gradient = input_gradient(lambda d: -self.ahead(self.logits(d)[0]), d)
                d = _on_sphere(d + _on_sphere(gradient, self.bound), radius)
                with torch.no_grad():
                    self.keep(d, self.size(d))

    def _descend(self, d: Tensor, steps: int) -> None:
        for step in range(steps):
            share = step / max(1, steps - 1)
            stride = _LARGEST_STEP * (_SMALLEST_STEP / _LARGEST_STEP) ** share
            d = d - _on_sphere(input_gradient(self.size, d), stride * self.bound)
            with torch.no_grad():
                self.keep(d, self.size(d))

    def _shorten(self) -> None:
        """Try multiples of the best d, ever closer to the best of them."""
        centre, width, along = torch.ones_like(self.found), 1.0, self.best
        with torch.no_grad():
            for _ in range(_ZOOMS):
                tried = (
                    centre + torch.linspace(-width, 0, _MULTIPLES, device=centre.device)[:, None]
                )
                sizes = torch.stack([self.size(along * rowwise(t, along)) for t in tried])
                smallest, which = sizes.min(0)
                centre = tried.gather(0, which[None]).squeeze(0)
                self.keep(along * rowwise(centre, along), smallest)
                apart = width / (_MULTIPLES - 1)
                centre, width = centre + apart, 2 * apart


def _on_sphere(d: Tensor, radius: Tensor) -> Tensor:
    """Return d (B, C, H, W) at length radius (B,); zero stays zero."""
    return d * rowwise(radius / length(d).clamp_min(torch.finfo(d.dtype).tiny), d)
