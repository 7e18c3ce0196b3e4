"""The colours and contour lines of landscapes, which all panels share.

They follow the square root of the height, so that low surfaces keep their shades next to high ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALE = "colours: square-root scale"
_LEVELS = 12


class HeightScale:
    """Colours, contour levels and limits of the heights of all panels."""

    def __init__(self, heights: Sequence[NDArray[np.float64]], *, boundary: bool) -> None:
        """`boundary`: 0 is the decision boundary, and the middle of the colours."""
        finite = np.concatenate([z[np.isfinite(z)] for z in heights])
        self.low = float(finite.min()) if len(finite) else 0.0
        self.high = float(finite.max()) if len(finite) else 0.0
        if self.low == self.high:
            self.high = self.low + 1.0
        self.boundary = boundary

    @property
    def norm(self) -> Any:
        from matplotlib.colors import FuncNorm, PowerNorm

        if not self.boundary:
            return PowerNorm(0.5, self.low, self.high)
        reach = max(abs(self.low), abs(self.high))
        return FuncNorm((_root, _square), -reach, reach)

    @property
    def map(self) -> str:
        # both are safe for colour-blind readers; PuOr is white at its middle
        return "PuOr_r" if self.boundary else "viridis"

    def levels(self) -> NDArray[np.float64]:
        """Return levels evenly spaced in colour, 0 among them for the margin.

        The ends lie slightly outside, so that every point is inside.
        """
        if self.boundary:
            low, high = _root(np.array([self.low, self.high]))
            step = (high - low) / _LEVELS
            found = _square(step * np.arange(np.floor(low / step), np.ceil(high / step) + 1))
        else:
            found = self.low + np.linspace(0, 1, _LEVELS + 1) ** 2 * (self.high - self.low)
        found[[0, -1]] += np.array([-1e-6, 1e-6]) * (self.high - self.low)
        return found

    def mappable(self) -> Any:
        from matplotlib.cm import ScalarMappable

        return ScalarMappable(self.norm, self.map)


def _root(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sign(z) * np.sqrt(np.abs(z))


def _square(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sign(z) * z**2
