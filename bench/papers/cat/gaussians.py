"""Two classes of points in the plane, for Figure 1 of the CAT paper (arXiv 2002.06789).

The figure is about a radius beyond the classes' margin: a line separates them with a margin of
1.75, and a network is trained at eps = 1 and at eps = 4. Margin and radii are the paper's, the
rest is our reading. The line is x_0 = 0, so that the margin is the same in the L-infinity and the
Euclidean distance. Each class is an isotropic Gaussian without its part on this side of the
margin: label 0 around (-4, 0) with spread 3, label 1 around (2, 0) with spread 0.5. The spreads
differ because a large radius is to push the line to one side: between two mirror images the best
line is the same at every radius.

A point is an image of two channels and one pixel, (x + 32) / 64: no point comes near the edge of
[0, 1], so that the box never binds, and eps = 1 and 4 are 1/64 and 4/64. The network undoes the
mapping by its normalisation and works in the points' own units.
"""

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Source, Split
from bench.data.sources import Registered

SHIFT, UNIT = 32.0, 64.0
MARGIN = 1.75
MEANS = (-4.0, 2.0)
"""Of x_0, by label; x_1 has mean 0."""
SPREADS = (3.0, 0.5)
N_TRAIN, N_TEST = 500, 1000
"""Half of either class each."""
SEEDS = {"train": 0, "test": 1}
GRID = 1024.0
"""Points are multiples of 1/1024: exact in float32, and the same on every machine."""


def load_two_gaussians() -> Source:
    """Return the points, which are the same on every machine; the labels alternate."""
    train, test = (_split(n, SEEDS[part]) for part, n in (("train", N_TRAIN), ("test", N_TEST)))
    return Source(
        name="two-gaussians",
        origin="dataset 'two-gaussians'",
        train=train,
        test=test,
        scale=1.0,
        pad=0,
        flip=False,
        class_names=("left", "right"),
        mean=(SHIFT / UNIT,) * 2,
        std=(1 / UNIT,) * 2,
    )


def to_points(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert pixels in [0, 1] to the points' own units, any shape; a length is eps * UNIT."""
    return pixels * np.float32(UNIT) - np.float32(SHIFT)


def _split(n: int, seed: int) -> Split:
    y = np.arange(n, dtype=np.int64) % 2
    stream = np.random.PCG64(seed)
    points = np.empty((n, 2))
    for label in (0, 1):
        points[y == label] = _points(label, int((y == label).sum()), stream)
    pixels = (np.round(points * GRID) / GRID + SHIFT) / UNIT
    return Split(pixels.astype(np.float32).reshape(n, 1, 1, 2), y)


def _points(label: int, n: int, stream: np.random.PCG64) -> NDArray[np.float64]:
    """Return (n, 2) points of a Gaussian at the margin or beyond it."""
    side = -1 if label == 0 else 1
    drawn = _normal(2 * n, stream) * SPREADS[label] + [MEANS[label], 0.0]
    kept = drawn[side * drawn[:, 0] >= MARGIN]
    assert len(kept) >= n
    return kept[:n]


def _normal(n: int, stream: np.random.PCG64) -> NDArray[np.float64]:
    """Return (n, 2) standard normal numbers, by Box and Muller.

    numpy guarantees the raw stream between versions, but not `Generator.normal` (NEP 19).
    """
    u = (stream.random_raw(2 * n).reshape(2, n) >> np.uint64(11)) / 2.0**53
    length, angle = np.sqrt(-2 * np.log1p(-u[0])), 2 * np.pi * u[1]
    return np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1)


DATASETS = {
    "two-gaussians": Registered(
        "Figure 1 of the CAT paper: 500 + 1,000 points in the plane, two classes, for linear",
        lambda request: load_two_gaussians(),
    )
}
