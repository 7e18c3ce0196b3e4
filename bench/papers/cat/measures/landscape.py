"""The loss around an image, over two directions: Figure 3 of the CAT paper.

The paper (arXiv 2002.06789, section 4.3, after Engstrom et al. 2018) draws the loss at
x + a sign(grad_x CE(Z(x), y)) + b v, with v of independent signs. Its ranges, grid, images and
clipping are unstated. Ours: a and b over [-2 eps, 2 eps] in 41 steps, the first 8 images, clipped
to [0, 1], eval mode. The margin is taken at the same points, since training on soft labels keeps
cross entropy from falling, and so makes its surface lower and smoother by construction.

Shapes: n images, C H W image, K classes, G grid points per side.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.attacks.maximise import attack_mode
from bench.attacks.networks import BatchedModel
from bench.errors import ConfigError
from bench.evaluation.measuring import MeasuredModel, finite_or_none
from bench.evaluation.prediction import input_gradient
from bench.losses import cross_entropy, margin
from bench.machine import exact_arithmetic
from bench.records.measure import Measured
from bench.seeding import generator_for
from bench.threat import rowwise


def measure_landscape(
    measured: MeasuredModel, *, n_images: int = 8, n_points: int = 41, reach: float = 2.0
) -> Measured:
    """Measure cross entropy and the margin max_{j != y} Z_j - Z_y over (a, b).

    n_points: grid points per side, odd so that x itself is one. reach: largest |a| and |b|, in
    units of eps. A pixel whose gradient is zero is not moved by a.
    arrays: a, b (G,) in pixels of [0, 1]; ce, margin (n, G, G), [i, k, l] at a[k] and b[l]; index
    (n,), places among the measured images.
    values: means over the images of both surfaces at x and at their highest point; None where
    logits are not finite.
    Raises ConfigError for an impossible grid.
    """
    if n_images < 1 or n_points < 3 or n_points % 2 == 0 or not reach > 0:
        raise ConfigError(
            f"landscape of {n_images} images, {n_points} points, reach {reach:g}: needs 1 image, "
            "an odd number of points from 3 on, and a reach above 0"
        )
    x, y = measured.x[:n_images], measured.y[:n_images]
    model = BatchedModel(measured.model, measured.batch_size)
    grid = torch.linspace(-1, 1, n_points, dtype=torch.float64) * (reach * measured.threat.eps)
    with attack_mode(model, "eval"), exact_arithmetic():
        ascent = input_gradient(lambda x: cross_entropy(model(x), y), x).sign()
        noise = _signs(x, measured.seed)
        blocks = [
            (cross_entropy(logits, labels), margin(logits, labels))
            for logits, labels in _logits(model, x, y, ascent, noise, grid, measured.batch_size)
        ]
    ce, lead = (
        torch.cat(parts).view(len(x), n_points, n_points).cpu().numpy()
        for parts in zip(*blocks, strict=True)
    )
    values = {"n": len(x), **_heights("ce", ce), **_heights("margin", lead)}
    arrays = {"a": grid.numpy(), "b": grid.numpy(), "ce": ce, "margin": lead}
    return Measured(values=values, arrays={**arrays, "index": np.arange(len(x))})


def _signs(x: Tensor, seed: int) -> Tensor:
    """Return v (n, C, H, W), which for an image does not depend on the other images."""
    drawn = [
        torch.randint(0, 2, image.shape, generator=generator_for(seed, "landscape", place))
        for place, image in enumerate(x)
    ]
    return (2 * torch.stack(drawn) - 1).to(x)


def _logits(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ascent: Tensor,
    noise: Tensor,
    grid: Tensor,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (B, K) and labels (B,) of all points of all images, in order."""
    lengths, side = grid.to(x), len(grid)
    places = torch.arange(len(x) * side * side, device=x.device)
    for rows in torch.split(places, batch_size):
        image, a, b = rows // side**2, lengths[rows // side % side], lengths[rows % side]
        moved = x[image] + rowwise(a, x) * ascent[image] + rowwise(b, x) * noise[image]
        with torch.no_grad():
            yield model(moved.clamp(0.0, 1.0)), y[image]


def _heights(name: str, surface: NDArray[np.float32]) -> dict[str, float | None]:
    centre = surface.shape[1] // 2
    return {
        f"{name}_at_x": finite_or_none(surface[:, centre, centre].mean()),
        f"{name}_highest": finite_or_none(surface.max((1, 2)).mean()),
    }
