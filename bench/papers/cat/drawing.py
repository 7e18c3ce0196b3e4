"""What the paper's figures share: titles, panels, axes, curves in bands, legends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report.export import captioned, fitted, legend_label
from bench.report.published import shown_name
from bench.report.style import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

InOrder = Callable[[Iterable[str]], list[str]]
"""Orders labels."""
_MARKS = 8
_AXES_SHARE = 0.75
"""Of a figure's height, about."""
_LINE_INCHES = 0.165
"""Height of a line of text."""


def titled(
    width: float, height: float, texts: Iterable[str], layout: str = "constrained"
) -> Figure:
    """Return an empty figure, in inches, whose caption is the texts.

    The last one says the suite's size, which the picture says too if it is not the paper's.
    """
    from matplotlib.figure import Figure

    *_, size = texts = list(texts)
    figure = Figure(figsize=(width, height), layout=layout)  # type: ignore[arg-type]
    if "the paper's size" not in size:
        where: dict[str, Any] = {"x": 0.995, "ha": "right", "color": "#777777"}
        figure.suptitle(fitted([size], 1.2 * width), fontsize=7.5, **where)
    return captioned(figure, texts)


def panels(
    n: int,
    most: int,
    inches: tuple[float, float],
    texts: Iterable[str],
    layout: str = "constrained",
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of n panels of so many inches, at most `most` of them in a row."""
    n_columns = min(most, n)
    n_rows = -(-n // n_columns)
    width = max(4.6, 1.0 + inches[0] * n_columns)
    figure = titled(width, 1.0 + inches[1] * n_rows, texts, layout)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **options).flatten()
    for spare in axes[n:]:
        spare.set_axis_off()
    return figure, list(axes[:n])


def grid(axes: Axes, axis: Any = "y") -> None:
    """Draw faint lines behind everything."""
    axes.grid(axis=axis, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def percent_axis(axes: Axes, label: str = "", top: float = 103) -> None:
    axes.set_ylim(-3, top)
    axes.set_ylabel(label)
    grid(axes)


def epoch_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch", fontsize=9.0)


def band(axes: Axes, x: ArrayLike, low: ArrayLike, high: ArrayLike, **style: Any) -> None:
    axes.fill_between(np.asarray(x), np.asarray(low), np.asarray(high), linewidth=0, **style)


def curve(axes: Axes, x: ArrayLike, y: ArrayLike, text: str, look: Style, **options: Any) -> None:
    """Draw a line with at most about eight markers, which distinguish it in grey."""
    own = {
        "markevery": max(1, np.size(x) // _MARKS),
        "linewidth": 1.4,
        "markersize": 5.0,
        **look.line,
    }
    axes.plot(np.asarray(x), np.asarray(y), label=legend_label(text), **own | options)


def ratio_axis(axes: Axes, labels: Sequence[str], room: float = 0.0) -> None:
    """Scale ratios by their logarithm, and number the rows of labels from the top.

    Call it after the points are drawn. room: added to the right, in lengths of the axis.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** room)
    if high / low < 1000:
        steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 30 and not room else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def one_line(axes: Axes) -> None:
    """Mark the ratio 1 by a dotted line."""
    axes.axvline(1, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
    axes.tick_params(axis="y", length=0)


def legend_below(figure: Figure, n_columns: int, in_order: InOrder = list, **options: Any) -> None:
    """Put one legend of all panels below them."""
    found = _legend(figure, in_order)
    n_columns = min(n_columns, len(found["labels"]))
    figure.legend(**found, loc="outside lower center", ncols=n_columns, **options)


def legend_in(figure: Figure, axes: Axes, in_order: InOrder = list) -> None:
    """Put one legend of all panels in the place of an empty one."""
    axes.legend(**_legend(figure, in_order) | {"loc": "center"})


def _legend(figure: Figure, in_order: InOrder) -> dict[str, Any]:
    """Return the arguments of a legend."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    names = in_order(found)
    return {
        "handles": [found[name] for name in names],
        "labels": [shown_name(name) for name in names],
        "frameon": False,
        "handlelength": 2.6,
    }


def label_ends(figure: Figure, axes: Axes, title: str) -> None:
    """Write each line's label to the right of its last point, none on another, the title below.

    Call it after the axes are scaled.
    """
    named = (line for line in axes.get_lines() if not str(line.get_label()).startswith("_"))
    found = ((line, float(np.asarray(line.get_ydata())[-1])) for line in named)
    lines = sorted(found, key=lambda one: one[1])
    low, high = axes.get_ylim()
    distance = (high - low) * _LINE_INCHES / (_AXES_SHARE * figure.get_figheight())
    places = apart([end for _, end in lines], distance, high)
    beside = axes.get_yaxis_transform()
    for (line, end), place in zip(lines, places, strict=True):
        arrow = {"arrowstyle": "-", "color": line.get_color(), "lw": 0.8, "relpos": (0.0, 0.5)}
        axes.annotate(
            shown_name(str(line.get_label())),
            (float(np.asarray(line.get_xdata())[-1]), end),
            xytext=(1.05, place),
            textcoords=beside,
            va="center",
            arrowprops=arrow,
        )
    axes.text(1.05, low - distance / 2, title, va="top", color="#555555", transform=beside)


def apart(values: Sequence[float], distance: float, highest: float) -> list[float]:
    """Return places that far apart, of least squared distance to the rising values."""
    from scipy.optimize import isotonic_regression

    steps = distance * np.arange(len(values))
    places = isotonic_regression(np.asarray(values) - steps).x + steps
    return list(np.minimum(places, highest - steps[::-1]))
