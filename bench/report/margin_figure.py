"""How the margins of a network's images are spread: one curve a method."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.report.picture import fitted, legend_label, picture_files
from bench.report.style import order, styles
from bench.report.units import MISSING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {
    "both": "input and all layers perturbed (bilateral margin, our reading)",
    "layers": "all layers perturbed (all-layer margin)",
    "input": "input perturbed, relative to its norm",
}
"""Which margin, as `margin_KIND` of the records, and what the axis says of it."""
_MARKS = 8
"""Markers on a curve, so that it is told apart in grey."""
_WIDTH = 6.2
"""Inches."""


@dataclass(frozen=True, kw_only=True)
class Margins:
    """The margins of one network's images; of several seeds, one after the other."""

    label: str
    method: str
    margin: NDArray[np.floating[Any]]
    """(n,): 0 where the image is misclassified, infinite where nothing broke it."""

    @property
    def mean_inverse(self) -> float | None:
        """Mean of 1 / margin over the images whose margin is above 0; None without any."""
        positive = self.margin[self.margin > 0]
        return float((1 / positive).mean()) if len(positive) else None


def margin_files(
    found: Sequence[Margins], kind: str, note: str, caption: str = ""
) -> dict[str, bytes]:
    """The .png, .svg and .csv of one kind of margin, by suffix. `caption` ends the title."""
    pictures = picture_files(lambda: draw_margins(found, kind, caption), note, f"margins {kind}")
    return {**pictures, ".csv": _csv(found, note).encode()}


def draw_margins(found: Sequence[Margins], kind: str, caption: str = "") -> Figure:
    """The share of images whose margin is at most so large; lower and further right is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, max(3.2, 1.0 + 0.21 * len(found))), layout="constrained")
    axes = figure.subplots()
    look = styles(margins.label for margins in found)
    finite = [margins.margin[np.isfinite(margins.margin)] for margins in found]
    right = max((float(values.max()) for values in finite if len(values)), default=1.0) or 1.0
    for margins in sorted(found, key=lambda m: (order(m.method), m.label)):
        style, (x, y) = look[margins.label], _steps(margins.margin, right)
        axes.plot(
            x,
            y,
            label=_legend_text(margins),
            drawstyle="steps-post",
            color=style.colour,
            marker=style.marker,
            markevery=max(1, len(x) // _MARKS),
            linestyle=style.dash,
            linewidth=1.4,
            markersize=5.0,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
    axes.set_xlim(-0.02 * right, 1.02 * right)
    axes.set_ylim(-3, 103)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"margin, an upper bound (no unit)\n{KINDS[kind]}")
    axes.set_ylabel("images with at most this margin (%)")
    n = sorted({len(margins.margin) for margins in found})
    images = str(n[0]) if len(n) == 1 else f"{n[0]}{MISSING}{n[-1]}"
    title = f"n = {images} images; at 0: misclassified"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    figure.legend(
        loc="outside right center",
        frameon=False,
        handlelength=2.8,
        title="mean 1 / margin, a lower\nbound (of margins above 0)",
        title_fontsize=9.0,
        alignment="left",
    )
    return figure


def _steps(
    margin: NDArray[np.floating[Any]], right: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The empirical distribution in percent, from 0 to `right`."""
    values = np.sort(margin[np.isfinite(margin)].astype(np.float64))
    share = 100 * np.arange(1, len(values) + 1) / max(1, len(margin))
    last = share[-1:] if len(share) else np.zeros(1)
    return np.concatenate([[0.0], values, [right]]), np.concatenate([[0.0], share, last])


def _legend_text(margins: Margins) -> str:
    inverse = margins.mean_inverse
    number = MISSING if inverse is None else f"{inverse:.3g}"
    return legend_label(f"{margins.label}: {number}")


def _csv(found: Sequence[Margins], note: str) -> str:
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(("label", "n", "image", "margin"))
    for margins in sorted(found, key=lambda m: (order(m.method), m.label)):
        for place, value in enumerate(margins.margin):
            rows.writerow([margins.label, len(margins.margin), place, f"{value:.6g}"])
    return buffer.getvalue()
