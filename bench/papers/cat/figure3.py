"""Figure 3: the loss around test images as surfaces and contours, one panel per method.

All panels share heights and colours, which follow the square root of the height, so that low
surfaces keep their shades next to high ones. The margin is drawn next to cross entropy: training
on soft labels makes the surface of cross entropy lower and smoother, which the margin does not
show.

Shapes: n images, G grid points per side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.papers.cat.parts import SuiteMeasure, alarm_note, by_label, captioned, suite_measures
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.export import fitted
from bench.report.formatting import eps_text
from bench.report.style import order
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Quantity = Literal["ce", "margin"]
Kind = Literal["surface", "contour"]
Array = NDArray[np.float64]

SOFT_LABELS = (
    "Training on soft labels lowers and flattens cross entropy by construction: compare the margin."
)
TITLE = f"Figure 3: the loss around test images. {SOFT_LABELS}"
_NAMES = {
    "ce": "cross entropy (nats)",
    "margin": "margin Z_j \u2212 Z_y of the best wrong class j (logits)",
}
_UNITS = {"ce": "cross entropy (nats)", "margin": "margin (logits)"}
_COLUMNS = 3
_INCHES = {"surface": (2.45, 2.3), "contour": (2.2, 2.2)}
"""Of a panel: three fit the width of a page."""
_DRAWN = 21
"""Grid lines of a surface: more are a grey blur in print and megabytes in the .svg."""
_LEVELS = 12


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The mean landscape of one method over images and seeds; lengths in pixels of [0, 1]."""

    label: str
    method: str
    eps: float
    """The threat's."""
    a: Array
    """(G,) lengths along the gradient's sign."""
    b: Array
    """(G,) lengths along the random signs."""
    heights: dict[Quantity, Array]
    """(G, G), [k, l] at a[k] and b[l]."""
    n_images: int
    n_seeds: int = 1


def make_figure3(chosen: SuiteRuns) -> Output:
    """Return both quantities, each as surfaces and as contours."""
    found, lacks = suite_measures(chosen, "landscape")
    if not found:
        return Output(lacks=lacks)
    n = min(len(one.arrays["index"]) for one in found)
    surfaces = [_surface(label, seeds, n) for label, seeds in by_label(found).items()]
    surfaces.sort(key=lambda surface: (order(surface.method), surface.label))
    labels = [surface.label for surface in surfaces]
    numbers, figures = {}, {}
    quantities: dict[str, Quantity] = {"figure3": "ce", "figure3-margin": "margin"}
    kinds: dict[str, Kind] = {"": "surface", "-contour": "contour"}
    for name, quantity in quantities.items():
        numbers[name] = surface_numbers(surfaces, quantity)
        for end, kind in kinds.items():
            draw = partial(draw_landscapes, surfaces, kind, quantity, captioned(chosen, labels))
            figures[f"{name}{end}"] = draw
    return Output(numbers=numbers, figures=figures, note=alarm_note(labels), lacks=lacks)


def _surface(label: str, seeds: Sequence[SuiteMeasure], n: int) -> Surface:
    """Return the mean over the first n images, which every record has, and over the seeds."""

    def mean(name: str) -> Array:
        over_seeds = np.mean([one.arrays[name][:n] for one in seeds], axis=0)
        heights: Array = np.asarray(over_seeds, dtype=np.float64).mean(0)
        return heights

    return Surface(
        label=label,
        method=seeds[0].method,
        eps=seeds[0].eps,
        a=seeds[0].arrays["a"],
        b=seeds[0].arrays["b"],
        heights={"ce": mean("ce"), "margin": mean("margin")},
        n_images=n,
        n_seeds=len(seeds),
    )


def surface_numbers(surfaces: Sequence[Surface], quantity: Quantity) -> pd.DataFrame:
    """Return a row per panel and grid point."""
    rows = (
        (surface.label, number(a), number(b), number(value))
        for surface in surfaces
        for (a, b), value in zip(
            product(surface.a, surface.b), surface.heights[quantity].flat, strict=True
        )
    )
    return pd.DataFrame(rows, columns=["label", "a", "b", quantity])


def draw_landscapes(
    surfaces: Sequence[Surface], kind: Kind, quantity: Quantity, caption: str = ""
) -> Figure:
    """Draw a panel per surface and one colour bar."""
    from matplotlib.figure import Figure

    n_columns = min(_COLUMNS, len(surfaces))
    n_rows = 1 + (len(surfaces) - 1) // n_columns
    width, height = _INCHES[kind]
    size = (width * n_columns + 1.0, height * n_rows + 0.7)
    # Contours are square: "compressed" keeps such panels side by side.
    figure = Figure(figsize=size, layout="constrained" if kind == "surface" else "compressed")
    projection = {"projection": "3d"} if kind == "surface" else {}
    panels = figure.subplots(n_rows, n_columns, squeeze=False, subplot_kw=projection).flatten()
    heights = [surface.heights[quantity] for surface in surfaces]
    scale = HeightScale(heights, boundary=quantity == "margin")
    for axes, surface, z in zip(panels, surfaces, heights, strict=False):
        (_draw_surface if kind == "surface" else _draw_contour)(axes, surface, z, scale)
        axes.set_title(surface.label)
        axes.set_xticks(_ticks(surface.a / surface.eps))
        axes.set_yticks(_ticks(surface.b / surface.eps))
    if kind == "contour":
        mathematical: dict[str, Any] = {"fontsize": 9.0, "parse_math": True}
        figure.supxlabel(r"$a / \epsilon$, along the gradient's sign", **mathematical)
        figure.supylabel(r"$b / \epsilon$, along random signs", **mathematical)
    for axes in panels[len(surfaces) :]:
        axes.set_axis_off()
    label = f"{_UNITS[quantity]}; colours: square-root scale"
    figure.colorbar(scale.mappable(), ax=panels.tolist(), shrink=0.75, aspect=25, label=label)
    title = (*_title(surfaces[0], kind, quantity), caption)
    figure.suptitle(fitted(title, size[0]), fontsize=9.0)
    return figure


def _draw_surface(axes: Any, surface: Surface, z: Array, scale: HeightScale) -> None:
    a, b = np.meshgrid(surface.a / surface.eps, surface.b / surface.eps, indexing="ij")
    stride = max(1, (len(surface.a) - 1) // (_DRAWN - 1))
    every = {"rstride": stride, "cstride": stride, "antialiased": True}
    edges = {"linewidth": 0.2, "edgecolor": "#333333"}
    axes.plot_surface(a, b, z, cmap=scale.map, norm=scale.norm, **every, **edges)
    axes.set_zlim(scale.low, scale.high)
    axes.view_init(elev=24, azim=-130)
    axes.set_box_aspect((1, 1, 0.8), zoom=1.05)
    axes.set_xlabel(r"$a / \epsilon$", labelpad=-4, parse_math=True)
    axes.set_ylabel(r"$b / \epsilon$", labelpad=-4, parse_math=True)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_tick_params(pad=-2, labelsize=7.5)
        axis.pane.set_facecolor("white")


def _draw_contour(axes: Any, surface: Surface, z: Array, scale: HeightScale) -> None:
    a, b = surface.a / surface.eps, surface.b / surface.eps
    # The first axis of z is a; matplotlib draws rows along the vertical axis.
    shown = np.ma.masked_invalid(z.T)
    axes.contourf(a, b, shown, levels=scale.levels(), cmap=scale.map, norm=scale.norm)
    thin = {"colors": "#333333", "linewidths": 0.3}
    axes.contour(a, b, shown, levels=scale.levels()[1:-1], linestyles="solid", **thin)
    if scale.boundary and shown.min() < 0 < shown.max():
        axes.contour(a, b, shown, levels=[0.0], colors="black", linewidths=1.6)
    axes.set_aspect("equal")
    axes.plot([0], [0], marker="o", color="black", markerfacecolor="white", markersize=4.5)


def _ticks(lengths: Array) -> Array:
    """Return -2, -1, 0, 1, 2 for a reach of 2."""
    reach = float(lengths[-1])
    step = float(np.ceil(reach / 2 - 1e-9)) if reach >= 1 else reach / 2
    n = int(reach / step + 1e-9)
    return np.linspace(-n * step, n * step, 2 * n + 1)


def _title(surface: Surface, kind: Kind, quantity: Quantity) -> list[str]:
    which = f"mean of {surface.n_images} test images"
    if surface.n_seeds > 1:
        which += f" and {surface.n_seeds} seeds"
    line = "; thick line: 0" if kind == "contour" else ""
    return [
        f"{_NAMES[quantity]}, {which}, \u03b5 = {eps_text(surface.eps)}",
        f"orange side of 0: misclassified{line}" if quantity == "margin" else SOFT_LABELS,
        *(["a: along the gradient's sign; b: along random signs"] * (kind == "surface")),
    ]


class HeightScale:
    """Colours, contour levels and limits of the heights of all panels."""

    def __init__(self, heights: Sequence[Array], *, boundary: bool) -> None:
        """`boundary`: 0 is the decision boundary, and the middle of the colours."""
        finite = np.concatenate([z[np.isfinite(z)] for z in heights])
        self.low = float(finite.min()) if len(finite) else 0.0
        self.high = float(finite.max()) if len(finite) else 0.0
        if self.low == self.high:
            self.high = self.low + 1.0
        self.boundary = boundary
        # both are safe for colour-blind readers; PuOr is white at its middle
        self.map = "PuOr_r" if boundary else "viridis"

    @property
    def norm(self) -> Any:
        from matplotlib.colors import FuncNorm, PowerNorm

        if not self.boundary:
            return PowerNorm(0.5, self.low, self.high)
        reach = max(abs(self.low), abs(self.high))
        return FuncNorm((_root, _square), -reach, reach)

    def levels(self) -> Array:
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


def _root(z: Array) -> Array:
    return np.sign(z) * np.sqrt(np.abs(z))


def _square(z: Array) -> Array:
    return np.sign(z) * z**2
