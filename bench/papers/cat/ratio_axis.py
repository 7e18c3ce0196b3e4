"""Panels of ratios on a log scale, with a row per label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NARROW = 30
"""Largest ratio of the axis' ends at which every label has room."""


def ratio_axis(
    panels: Sequence[Axes],
    labels: Sequence[str],
    *,
    steps: tuple[float, ...] | None = None,
    room: float = 0.0,
) -> None:
    """Scale panels that share their axes; call it after the points are drawn.

    steps: labelled multiples of a power of ten; by default as many as have room. room: added to
    the right, in lengths of the axis. The rows are numbered from the top, and 1 is a dotted line.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    first = panels[0]
    first.set_xscale("log")
    low, high = first.get_xlim()
    first.set_xlim(low, high * (high / low) ** room)
    if steps is None and high / low < 1000:
        steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < _NARROW else (1.0, 2.0, 5.0)
    if steps is not None:
        first.xaxis.set_major_locator(LogLocator(subs=steps))
    first.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    first.xaxis.set_minor_locator(NullLocator())
    first.set_yticks(range(len(labels)), labels)
    first.set_ylim(len(labels) - 0.5, -0.5)
    for axes in panels:
        axes.axvline(1, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
        axes.tick_params(axis="y", length=0)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
