"""A model's card as a picture: the fall from clean accuracy to the worst case."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bench.report.card import LOWEST, WORST, Card, Stage
from bench.report.picture import fitted, picture_files
from bench.report.style import styles
from bench.report.units import MINUS, percent
from bench.report.verdict import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 6.6
"""Inches."""
JOINT = (WORST, LOWEST)
"""Rows that join attacks."""
_GAP = 0.55
"""Between blocks, in rows."""
_READ = f"Whiskers: 95% intervals (Wilson). ({MINUS}k): images broken by this part of AutoAttack."


def card_pictures(card: Card, note: str) -> dict[str, bytes]:
    """The .png and .svg, by suffix."""
    return picture_files(lambda: draw_card(card), note, f"card {card.run.run_id}")


def draw_card(card: Card) -> Figure:
    """A row for each accuracy: a bar, its interval, the numbers beside it."""
    from matplotlib.figure import Figure

    places = list(_places(card.stages))
    height = 1.75 + 0.23 * (places[-1] + 1)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    colour = styles([card.label])[card.label].colour
    for place, stage in zip(places, card.stages, strict=True):
        _row(axes, place, stage, colour)
    axes.set_yticks(places, list(_names(card)))
    for tick, stage in zip(axes.get_yticklabels(), card.stages, strict=True):
        tick.set_fontweight("bold" if stage.name == WORST else "normal")
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("accuracy on test images (%)")
    left: dict[str, Any] = {"x": 0.01, "ha": "left"}
    headline = f"{card.label} ({card.model}) on {card.setting.dataset}, {card.setting.arch}"
    text = fitted((headline,), 0.85 * _WIDTH)
    figure.suptitle(text, fontsize=10.0, fontweight="bold", **left)
    lines = (
        *(card.training, card.masking, _READ, *_joined(card)),
        f"{card.size} Run {card.run.run_id}",
    )
    figure.supxlabel(fitted(lines, 1.1 * _WIDTH), fontsize=8.0, **left)
    return figure


def _joined(card: Card) -> Iterator[str]:
    """Which attacks the joint rows are over."""
    worst, lowest = card.row.worst_over, card.row.lowest_over
    more = [label for label in lowest if label not in worst]
    parts = [f"Worst: over {listed(worst)}"] if worst else []
    if more:
        parts.append(f"lowest: over {'these and ' if worst else ''}{listed(more)}")
    if parts:
        yield f"{'; '.join(parts)}."


def _places(stages: tuple[Stage, ...]) -> Iterator[float]:
    """Heights of the rows from 0 on, with room between clean, attacks, AutoAttack, JOINT."""
    place = 0.0
    yield place
    for number, (before, after) in enumerate(pairwise(stages)):
        joint = after.name in JOINT and before.name not in JOINT
        apart = number == 0 or before.block != after.block or joint
        place += 1 + _GAP * apart
        yield place


def _names(card: Card) -> Iterator[str]:
    before = ""
    for stage in card.stages:
        if stage.name == WORST:
            yield f"worst of {len(card.row.worst_over)} attacks"
        elif stage.name == LOWEST:
            yield f"lowest of {len(card.row.lowest_over)} attacks"
        elif stage.block and stage.block != before:
            yield f"{stage.block}: {stage.name}"
        else:
            yield f"\u2026 {stage.name}" if stage.block else stage.name
        before = stage.block


def _row(axes: Axes, place: float, stage: Stage, colour: str) -> None:
    value, low, high = 100 * stage.value, 100 * stage.low, 100 * stage.high
    strong = stage.name == WORST
    axes.barh(place, value, height=0.72, color=colour, alpha=0.65 if strong else 0.3, linewidth=0)
    axes.errorbar(
        value,
        place,
        xerr=[[value - low], [high - value]],
        color="black",
        marker="o",
        markersize=3.5,
        elinewidth=1.0,
        capsize=2.2,
        clip_on=False,
    )
    text = f"{percent(stage.value)} [{percent(stage.low)}, {percent(stage.high)}], n = {stage.n}"
    if stage.n_broken is not None:
        text += f" ({MINUS}{stage.n_broken})" if stage.n_broken else " (0)"
    axes.text(
        1.02,
        place,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=8.0,
        fontweight="bold" if strong else "normal",
    )
