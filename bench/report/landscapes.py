"""Figure 3 of the CAT paper: the loss around images, as surfaces and as contours, all methods.

Every panel of a figure has the same heights and colours, so that they can be compared by eye. The
margin goes beside cross entropy: training on soft labels keeps cross entropy from falling and so
makes its surface lower and smoother, which the margin does not show.

Shapes: n images, G grid points a side.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError
from bench.report.landscape_colours import SCALE, Colours
from bench.report.picture import fitted, picture_files
from bench.report.style import order
from bench.report.units import eps_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Quantity = Literal["ce", "margin"]
Kind = Literal["surface", "contour"]

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
SOFT_LABELS = (
    "Training on soft labels lowers and flattens cross entropy by construction: compare the margin."
)


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The landscape of one network."""

    label: str
    method: str
    eps: float
    """The threat's, in pixels of [0, 1]."""
    a: NDArray[np.float64]
    """(G,) lengths along the gradient's sign, in pixels."""
    b: NDArray[np.float64]
    """(G,) lengths along the random signs, in pixels."""
    ce: NDArray[np.floating[Any]]
    """(n, G, G), [i, k, l] at a[k] and b[l]."""
    margin: NDArray[np.floating[Any]]
    """(n, G, G)"""
    index: NDArray[np.int64]
    """(n,) which test images."""
    n_seeds: int = 1
    """Of which the heights are the mean."""


def landscape_files(
    surfaces: Sequence[Surface],
    note: str,
    *,
    kind: Kind,
    quantity: Quantity,
    image: int | None = None,
    caption: str = "",
) -> dict[str, bytes]:
    """The .png and .svg, by suffix. image: a place among the n; None for their mean.

    `caption` ends the title.

    Raises ConfigError without surfaces, or for an image that they do not have.
    """
    return picture_files(
        lambda: draw_landscapes(
            surfaces, kind=kind, quantity=quantity, image=image, caption=caption
        ),
        note,
        f"landscape {kind} {quantity} {image}",
    )


def landscape_csv(
    surfaces: Sequence[Surface], note: str, *, quantity: Quantity, image: int | None = None
) -> str:
    """The heights of the figures of both kinds: a comment line with `note`, header, points."""
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(("label", "a", "b", quantity))
    for surface, z in _heights(surfaces, quantity, image):
        for a, row in zip(surface.a, z, strict=True):
            for b, value in zip(surface.b, row, strict=True):
                rows.writerow([surface.label, f"{a:.6g}", f"{b:.6g}", f"{value:.6g}"])
    return buffer.getvalue()


def draw_landscapes(
    surfaces: Sequence[Surface],
    *,
    kind: Kind,
    quantity: Quantity,
    image: int | None = None,
    caption: str = "",
) -> Figure:
    """A panel for each network, in the order of the tables, and one colour bar."""
    from matplotlib.figure import Figure

    heights = _heights(surfaces, quantity, image)
    n_columns = min(_COLUMNS, len(heights))
    n_rows = 1 + (len(heights) - 1) // n_columns
    width, height = _INCHES[kind]
    size = (width * n_columns + 1.0, height * n_rows + 0.7)
    # Contours are square: "compressed" keeps such panels side by side.
    figure = Figure(figsize=size, layout="constrained" if kind == "surface" else "compressed")
    projection = {"projection": "3d"} if kind == "surface" else {}
    panels = figure.subplots(n_rows, n_columns, squeeze=False, subplot_kw=projection).flatten()
    colours = Colours([z for _, z in heights], boundary=quantity == "margin")
    for axes, (surface, z) in zip(panels, heights, strict=False):
        (_draw_surface if kind == "surface" else _draw_contour)(axes, surface, z, colours)
        axes.set_title(surface.label)
    if kind == "contour":
        figure.supxlabel(
            r"$a / \epsilon$, along the gradient's sign", fontsize=9.0, parse_math=True
        )
        figure.supylabel(r"$b / \epsilon$, along random signs", fontsize=9.0, parse_math=True)
    for axes in panels[len(heights) :]:
        axes.set_axis_off()
    figure.colorbar(
        colours.mappable(),
        ax=panels.tolist(),
        shrink=0.75,
        aspect=25,
        label=f"{_UNITS[quantity]}; {SCALE}",
    )
    title = _title(surfaces[0], kind, quantity, image)
    figure.suptitle(fitted((*title, caption), size[0]), fontsize=9.0)
    return figure


def _draw_surface(axes: Any, surface: Surface, z: NDArray[np.float64], colours: Colours) -> None:
    a, b = np.meshgrid(surface.a / surface.eps, surface.b / surface.eps, indexing="ij")
    stride = max(1, (len(surface.a) - 1) // (_DRAWN - 1))
    axes.plot_surface(
        a,
        b,
        z,
        cmap=colours.map,
        norm=colours.norm,
        rstride=stride,
        cstride=stride,
        linewidth=0.2,
        edgecolor="#333333",
        antialiased=True,
    )
    axes.set_zlim(colours.low, colours.high)
    axes.view_init(elev=24, azim=-130)
    axes.set_box_aspect((1, 1, 0.8), zoom=1.05)
    axes.set_xlabel(r"$a / \epsilon$", labelpad=-4, parse_math=True)
    axes.set_ylabel(r"$b / \epsilon$", labelpad=-4, parse_math=True)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_tick_params(pad=-2, labelsize=7.5)
        axis.pane.set_facecolor("white")
    _ticks(axes, surface)


def _draw_contour(axes: Any, surface: Surface, z: NDArray[np.float64], colours: Colours) -> None:
    a, b = surface.a / surface.eps, surface.b / surface.eps
    # The first axis of z is a: matplotlib wants rows to be the vertical one.
    shown = np.ma.masked_invalid(z.T)
    axes.contourf(a, b, shown, levels=colours.levels(), cmap=colours.map, norm=colours.norm)
    thin = {"colors": "#333333", "linewidths": 0.3}
    axes.contour(a, b, shown, levels=colours.levels()[1:-1], linestyles="solid", **thin)
    if colours.boundary and shown.min() < 0 < shown.max():
        axes.contour(a, b, shown, levels=[0.0], colors="black", linewidths=1.6)
    axes.set_aspect("equal")
    axes.plot([0], [0], marker="o", color="black", markerfacecolor="white", markersize=4.5)
    _ticks(axes, surface)


def _ticks(axes: Any, surface: Surface) -> None:
    axes.set_xticks(_whole(surface.a / surface.eps))
    axes.set_yticks(_whole(surface.b / surface.eps))


def _whole(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """-2, -1, 0, 1, 2 for a reach of 2."""
    reach = float(lengths[-1])
    step = float(np.ceil(reach / 2 - 1e-9)) if reach >= 1 else reach / 2
    n = int(reach / step + 1e-9)
    return np.linspace(-n * step, n * step, 2 * n + 1)


def _heights(
    surfaces: Sequence[Surface], quantity: Quantity, image: int | None
) -> list[tuple[Surface, NDArray[np.float64]]]:
    """Each surface with its (G, G), in the order of the tables."""
    if not surfaces:
        raise ConfigError("no landscape to draw: measure one first")
    found = []
    for surface in sorted(surfaces, key=lambda s: (order(s.method), s.label)):
        z = np.asarray(getattr(surface, quantity), dtype=np.float64)
        if image is not None and not 0 <= image < len(z):
            raise ConfigError(
                f"landscape of image {image}: {surface.label} has {len(z)} images, from 0 on"
            )
        found.append((surface, z.mean(0) if image is None else z[image]))
    return found


def _title(surface: Surface, kind: Kind, quantity: Quantity, image: int | None) -> list[str]:
    which = f"mean of {len(surface.index)} test images"
    if image is not None:
        which = f"test image {int(surface.index[image])}"
    if surface.n_seeds > 1:
        which += f" and {surface.n_seeds} seeds"
    lines = [f"{_NAMES[quantity]}, {which}, \u03b5 = {eps_text(surface.eps)}"]
    if quantity == "margin":
        meaning = "orange side of 0: misclassified"
        lines.append(f"{meaning}; thick line: 0" if kind == "contour" else meaning)
    else:
        lines.append(SOFT_LABELS)
    if kind == "surface":
        lines.append("a: along the gradient's sign; b: along random signs")
    return lines
