"""The colours and contour lines of landscapes: the same heights have the same ones in every panel.

By the square root of the height, so that a low surface is not all of one colour beside a high one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALE = "colours: square-root scale"
_LEVELS = 12


class Colours:
    """One scale of heights for all panels."""

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
        """Heights to [0, 1]."""
        from matplotlib.colors import FuncNorm, PowerNorm

        if not self.boundary:
            return PowerNorm(0.5, self.low, self.high)
        reach = max(abs(self.low), abs(self.high))
        return FuncNorm((_root, _square), -reach, reach)

    @property
    def map(self) -> str:
        """Both are safe for colour-blind readers; PuOr is white at its middle."""
        return "PuOr_r" if self.boundary else "viridis"

    def levels(self) -> NDArray[np.float64]:
        """Evenly spaced in colour; the ends a little outside, so that no point is left out.

        Of the margin 0 is one.
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
        """For a colour bar."""
        from matplotlib.cm import ScalarMappable

        return ScalarMappable(self.norm, self.map)


def _root(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """With the sign kept."""
    return np.sign(z) * np.sqrt(np.abs(z))


def _square(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `_root`."""
    return np.sign(z) * z**2
