"""The roofline, drawn and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.picture import fitted, picture_files
from bench.report.style import BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from bench.speed.layers import PASSES
from bench.speed.roofline import Kernel, Roofline
from bench.speed.tables import markdown_table, significant
from bench.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE)
_MARKERS = {"forward": "o", "input": "^", "weight": "s"}
_NAMES = {
    "forward": "forward",
    "input": "gradient of the input",
    "weight": "gradient of the weight",
}
_PANEL = (3.5, 3.2)
"""Inches; two of them fit the width of a page."""
_INK = "#444444"
_HEADROOM = 0.2
"""Of the axis, above the highest roof, where its label stands."""


def write_roofline(roofline: Roofline, folder: Path, command: str) -> Path:
    """roofline.json, .md, .png and .svg in `folder`; the path of the .md."""
    note = f"Measured by `{command}`."
    write_atomic(folder / "roofline.json", roofline.to_json().encode())
    for suffix, content in draw_roofline(roofline, note).items():
        write_atomic(folder / f"roofline{suffix}", content)
    page = folder / "roofline.md"
    write_atomic(page, roofline_page(roofline, note).encode())
    return page


def draw_roofline(roofline: Roofline, note: str) -> dict[str, bytes]:
    """The .png and .svg, by suffix. `note` says where the numbers are from."""
    return picture_files(lambda: roofline_figure(roofline), note, "roofline")


def roofline_figure(roofline: Roofline) -> Figure:
    """A panel for each precision on the same axes; a mark for each pass of each layer."""
    from matplotlib.figure import Figure

    precisions = list(roofline.peaks)
    archs = list(dict.fromkeys(kernel.arch for kernel in roofline.kernels))
    width, height = _PANEL
    size = (max(width * len(precisions), 4.6), height + 0.55 + 0.2 * _legend_rows(archs))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(precisions), sharex=True, sharey=True, squeeze=False)[0]
    colours = {arch: _COLOURS[i % len(_COLOURS)] for i, arch in enumerate(archs)}
    for axes, precision in zip(panels, precisions, strict=True):
        _points(axes, [k for k in roofline.kernels if k.precision == precision], colours)
        axes.set_title(precision)
        axes.set_xlabel("arithmetic intensity (FLOP / byte)")
    panels[0].set_ylabel("speed (GFLOP/s)")
    _scale(panels[0], roofline)
    for axes, precision in zip(panels, precisions, strict=True):
        _roof(axes, roofline.peaks[precision] / 1e9, roofline.bandwidth / 1e9)
    _legend(figure, colours)
    figure.suptitle(fitted(_title(roofline), size[0]), fontsize=9.0)
    return figure


def _legend_rows(archs: Sequence[str]) -> int:
    return max(len(archs), len(_MARKERS))


def _points(axes: Axes, kernels: Sequence[Kernel], colours: dict[str, str]) -> None:
    for kernel in kernels:
        axes.plot(
            kernel.intensity,
            kernel.gflops_per_second,
            linestyle="",
            marker=_MARKERS[kernel.which],
            markersize=5.0,
            color=colours[kernel.arch],
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=3,
        )


def _scale(axes: Axes, roofline: Roofline) -> None:
    """All points with the bend of every roof, and room above it for its label."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    kernels = roofline.kernels
    bends = [peak / roofline.bandwidth for peak in roofline.peaks.values()]
    speeds = [k.gflops_per_second for k in kernels]
    intensities = [k.intensity for k in kernels]
    axes.set_xlim(min(intensities) / 1.6, max(*intensities, *bends) * 1.9)
    low, high = min(speeds) / 1.6, max(*speeds, *(p / 1e9 for p in roofline.peaks.values()))
    axes.set_ylim(low, high * (high / low) ** _HEADROOM)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator())
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_locator(NullLocator())


def _roof(axes: Axes, peak: float, bandwidth: float) -> None:
    """The two limits in GFLOP/s and GB/s, each with its label on it."""
    low, high = axes.get_xlim()
    bend = peak / bandwidth
    axes.plot([low, bend, high], [low * bandwidth, peak, peak], color=_INK, linewidth=1.2, zorder=1)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    lines = (
        f"product of matrices: {significant(peak)} GFLOP/s",
        f"slope: copy, {significant(bandwidth)} GB/s",
    )
    axes.text(
        0.02, 0.985, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=8.0, color=_INK
    )


def _legend(figure: Figure, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], linestyle="", marker=marker, color=_INK, label=_NAMES[which])
        for which, marker in _MARKERS.items()
    ]
    archs = [
        Line2D([], [], linestyle="", marker="o", color=colour, label=arch)
        for arch, colour in colours.items()
    ]
    n_rows = max(len(marks), len(archs))
    padding = Line2D([], [], linestyle="", label="")
    columns = [part + [padding] * (n_rows - len(part)) for part in (marks, archs)]
    figure.legend(
        handles=[handle for column in columns for handle in column],
        loc="outside lower center",
        frameon=False,
        ncols=2,
    )


def _title(roofline: Roofline) -> tuple[str, ...]:
    side = roofline.image_size
    return (
        "Each pass of each layer alone, beside what the machine reaches",
        f"{where(roofline)}; batch {roofline.batch}, {side}x{side} images",
    )


def where(roofline: Roofline) -> str:
    """The device in words."""
    machine = roofline.machine
    if machine["device"] != "cpu":
        return str(machine["device"])
    threads = machine["threads"]
    return f"{machine['processor']}, {threads} thread{'s' if threads > 1 else ''}"


def roofline_page(roofline: Roofline, note: str) -> str:
    """The figure and its numbers, as markdown."""
    peaks = "; ".join(
        f"{name} {significant(peak / 1e9)} GFLOP/s" for name, peak in roofline.peaks.items()
    )
    parts = [
        "# Roofline",
        f"{where(roofline)}; batch {roofline.batch}. A large product of matrices: {peaks}. A large "
        f"copy: {significant(roofline.bandwidth / 1e9)} GB/s, read and written. fp32 is whatever "
        f"torch makes of it, on a GPU TF32 for convolutions. {note}",
        "![speed against arithmetic intensity](roofline.png)",
        "A layer's intensity counts each number that must move once. A point above the slope is "
        "fed from a cache; one below both lines is held back by something else than arithmetic or "
        "memory, such as the cost of a call or of reordering. Speeds in GFLOP/s; in brackets the "
        "share of the product of matrices.",
    ]
    for arch in dict.fromkeys(kernel.arch for kernel in roofline.kernels):
        for precision in roofline.peaks:
            parts += [f"## {arch}, {precision}", _table(roofline, arch, precision)]
    return "\n\n".join(parts) + "\n"


def _table(roofline: Roofline, arch: str, precision: str) -> str:
    found: dict[str, dict[str, Kernel]] = {}
    for kernel in roofline.kernels:
        if (kernel.arch, kernel.precision) == (arch, precision):
            found.setdefault(kernel.layer, {})[kernel.which] = kernel
    rows = [["layer", "times", "FLOP/byte", *(_NAMES[which] for which in PASSES)]]
    for layer, passes in found.items():
        one = passes["forward"]
        speeds = (_speed(passes[which], roofline.peaks[precision]) for which in PASSES)
        rows.append([layer, str(one.calls), significant(one.intensity), *speeds])
    return markdown_table(rows)


def _speed(kernel: Kernel, peak: float) -> str:
    share = kernel.flops / kernel.seconds / peak
    return f"{significant(kernel.gflops_per_second)} ({share:.0%})"
