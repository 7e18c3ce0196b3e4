"""Where the time of a training step goes, drawn and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.picture import fitted, picture_files
from bench.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from bench.speed.profiling import OURS, Kind, Profile, Profiles
from bench.speed.scaling_page import where
from bench.speed.tables import markdown_table, significant
from bench.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "profile"
_COLOURS = {
    Kind.FORWARD: BLUE,
    Kind.BACKWARD: SKY,
    Kind.NORMALISATION: ORANGE,
    Kind.RELU: GREEN,
    Kind.POOLING: "#f0e442",
    Kind.LINEAR: BLACK,
    Kind.OPTIMISER: PURPLE,
    Kind.COPIES: VERMILLION,
    Kind.OTHER: GREY,
    Kind.BETWEEN: "#ffffff",
}
_HATCHES = {Kind.BACKWARD: "//", Kind.RELU: "..", Kind.COPIES: "xx", Kind.BETWEEN: "\\\\"}
LEGEND = f"""\
Seconds of a step under the profiler, which has a cost of its own, and their share of it, of the
median round. Each kind is meant with its gradient. All that a fused layer of ours does in a
pass with a gradient is counted with its convolution: its ReLU, its rounding to bf16, its Python; a
BatchNorm that is folded takes no time of its own. `{Kind.BETWEEN}`: no operation runs, but Python;
or, on a GPU, it waits for the next."""
_WIDTH = 7.0
"""Inches: a page."""
_BAR, _MARGIN = 0.34, 0.62
"""Inches of a bar, and of what a panel has above and below its bars."""


def write_profiles(profiles: Profiles, folder: Path) -> Path:
    """profile.json, .png and .svg in `folder`; the path of the record."""
    record = folder / f"{NAME}.json"
    write_atomic(record, profiles.to_json().encode())
    for suffix, content in draw_profiles(profiles).items():
        write_atomic(folder / f"{NAME}{suffix}", content)
    return record


def draw_profiles(profiles: Profiles) -> dict[str, bytes]:
    """The .png and .svg, by suffix."""
    note = f"Measured by `{profiles.command}`."
    return picture_files(lambda: profile_figure(profiles), note, NAME)


def profile_figure(profiles: Profiles) -> Figure:
    """A panel for each method and network, a bar for each side."""
    from matplotlib.figure import Figure

    panels = _panels(profiles)
    heights = [_BAR * len(steps) + _MARGIN for steps in panels]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 1.1), layout="constrained")
    found = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, steps in zip(found, panels, strict=True):
        _panel(axes, steps)
    found[-1].set_xlabel("seconds of a step, under the profiler")
    handles, names = found[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=4)
    title = ("Where the time of a training step goes", where(profiles.machine))
    figure.suptitle(fitted(title, _WIDTH), fontsize=9.0)
    return figure


def _panel(axes: Axes, steps: Sequence[Profile]) -> None:
    names = [_side(step) for step in steps]
    left = [0.0] * len(steps)
    for kind in Kind:
        widths = [step.parts[kind] for step in steps]
        axes.barh(
            names, widths, left=left, height=0.72, label=kind, color=_COLOURS[kind],
            hatch=_HATCHES.get(kind), edgecolor="#333333", linewidth=0.4,
        )  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for name, total in zip(names, left, strict=True):
        axes.annotate(significant(total), (total, name), (4, 0), textcoords="offset points",
                      va="center", fontsize=8.0)  # fmt: skip
    axes.set_xlim(0, 1.12 * max(left))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_title(_title(steps[0]), loc="left")


def profile_section(profiles: Profiles, picture: str) -> str:
    """Of docs/speed.md, without a heading; `picture` is the path of the figure from there."""
    return "\n\n".join(
        [
            f"Measured on {where(profiles.machine)} by\n\n    {profiles.command}",
            f"![seconds of a step by kind of operation]({picture})",
            LEGEND,
            profile_tables(profiles),
        ]
    )


def profile_tables(profiles: Profiles) -> str:
    """One for each method and network, as markdown; below it what is to be said of it."""
    parts = []
    for steps in _panels(profiles):
        parts += [f"{_title(steps[0])}:", _table(steps)]
        parts += [f"Alone: {note}." for note in dict.fromkeys(step.note for step in steps) if note]
    return "\n\n".join(parts)


def _table(steps: Sequence[Profile]) -> str:
    rows = [["", *map(_side, steps)]]
    for kind in Kind:
        if not any(step.parts[kind] for step in steps):
            continue
        cells = (f"{significant(s.parts[kind])} ({100 * s.share(kind):.0f}%)" for s in steps)
        rows.append([kind, *cells])
    rows.append(["together", *(significant(step.profiled) for step in steps)])
    rows.append(["without the profiler", *(significant(step.seconds) for step in steps)])
    rows.append(["rounds", *(str(step.n_rounds) for step in steps)])
    return markdown_table(rows)


def _panels(profiles: Profiles) -> list[list[Profile]]:
    found: dict[tuple[str, str], list[Profile]] = {}
    for step in profiles.steps:
        found.setdefault((step.method, step.arch), []).append(step)
    return list(found.values())


def _side(step: Profile) -> str:
    return f"{step.side}, {step.precision}" if step.side == OURS else step.side


def _title(step: Profile) -> str:
    side = step.image_size
    return f"{step.method}, {step.arch}, {step.n_images} images of {side}x{side} pixels"
