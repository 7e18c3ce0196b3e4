"""Where a linear classifier of the plane draws its line: Figure 1 of the CAT paper.

The figure (arXiv 2002.06789) shows that adversarial training at a radius beyond the classes' margin
turns or shifts the line. Both are measured here in the points' own units, in which the true line
is x_0 = 0 (see bench.papers.cat.gaussians); and the robust accuracy has a closed form: with
d(p) = w . p + b, an L-infinity adversary of radius r takes r * ||w||_1 from |d|.

Shapes: n points.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.attacks.maximise import attack_mode
from bench.errors import ConfigError
from bench.evaluation.measuring import MeasuredModel, finite_or_none
from bench.machine import exact_arithmetic
from bench.papers.cat.gaussians import SHIFT, UNIT, to_points
from bench.records.measure import Measured

HALF_LENGTH = 64.0
"""Of the drawn piece of the line, to either side, in the points' units: beyond every point."""
SAME = 1e-3
"""Largest difference of logits from an affine map's, relative to their size: rounding alone."""


def measure_boundary(measured: MeasuredModel, *, eps: Sequence[float] | None = None) -> Measured:
    """Measure the line of a two-class linear model on points of two channels and one pixel.

    eps: radii in pixels of [0, 1] (1/64 is one unit); by default the threat's.
    values: `angle` between the line and x_0 = 0, 0 to 90 degrees; `offset`, the x_0 at which it
    crosses the axis x_1 = 0, None if it does not; `clean_accuracy`; `eps` in units and
    `robust_accuracy`, lists of equal length.
    arrays: weight (2,) and bias () of d, positive for class 1; boundary (2, 2), two points of the
    line on either side of what is drawn, NaN where weight is zero.
    Raises ConfigError for other images, and for a model that is not linear with two classes.
    """
    shape = tuple(measured.x.shape[1:])
    if shape != (2, 1, 1):
        raise ConfigError(
            f"the boundary of a model of images {shape} cannot be drawn: it must take points, "
            "images (2, 1, 1), like those of the dataset 'two-gaussians'"
        )
    weight, bias = _in_units(*_affine(measured.model, measured.x))
    points = to_points(measured.x.flatten(1).cpu().numpy()).astype(np.float64)
    side = np.where(measured.y.cpu().numpy() == 1, 1.0, -1.0)
    lead = side * (points @ weight + bias)
    radii = [UNIT * e for e in (eps if eps is not None else (measured.threat.eps,))]
    robust = [float((lead > r * np.abs(weight).sum()).mean()) for r in radii]
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = finite_or_none(-bias / weight[0])
    return Measured(
        values={
            "angle": math.degrees(math.atan2(abs(weight[1]), abs(weight[0]))),
            "offset": offset,
            "clean_accuracy": float((lead > 0).mean()),
            "eps": radii,
            "robust_accuracy": robust,
            "n": len(points),
        },
        arrays={"weight": weight, "bias": np.asarray(bias), "boundary": _piece(weight, bias)},
    )


def _affine(model: nn.Module, x: Tensor) -> tuple[NDArray[np.float64], float]:
    """Return w (2,) and b of Z_1 - Z_0 = w . pixels + b, by four probes, checked on the points.

    Probes, not the layer's weights: a wrapped or folded copy of a linear model is linear too.
    """
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).to(x)
    with attack_mode(model, "eval"), exact_arithmetic(), torch.no_grad():
        probes, logits = model(corners.view(4, 2, 1, 1)), model(x)
    if probes.shape != (4, 2):
        raise ConfigError(
            f"the boundary of a model that returns {tuple(probes.shape)} for 4 points cannot be "
            "drawn: it must have two classes"
        )
    at = (probes[:, 1] - probes[:, 0]).double().cpu().numpy()
    weight, bias = np.array([at[1] - at[0], at[2] - at[0]]), float(at[0])
    own = (logits[:, 1] - logits[:, 0]).double().cpu().numpy()
    pixels = np.concatenate([corners.double().cpu().numpy(), x.flatten(1).double().cpu().numpy()])
    found = np.concatenate([at, own])
    apart = np.abs(pixels @ weight + bias - found).max()
    if not apart <= SAME * max(1e-6, np.abs(found).max()):
        raise ConfigError("the model is not linear, so its boundary is no line; use --arch linear")
    return weight, bias


def _in_units(weight: NDArray[np.float64], bias: float) -> tuple[NDArray[np.float64], float]:
    """Return the same affine function of points p, where pixels are (p + SHIFT) / UNIT."""
    return weight / UNIT, bias + float(weight.sum()) * SHIFT / UNIT


def _piece(weight: NDArray[np.float64], bias: float) -> NDArray[np.float64]:
    size = math.hypot(*weight)
    if size == 0:
        return np.full((2, 2), np.nan)
    foot = -bias * weight / size**2
    along = HALF_LENGTH * np.array([-weight[1], weight[0]]) / size
    return np.stack([foot - along, foot + along])
