"""A card of one trained model: accuracies of its best checkpoint, and its warnings."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bench.records import EvaluationRecord, RunRecord
from bench.report.accuracy import AccuracyEstimate
from bench.report.export import fitted, latex_escaped
from bench.report.formatting import MINUS, eps_both, listed, percent
from bench.report.frame import same_eps
from bench.report.groups import Setting
from bench.report.rows import TableRow, sections
from bench.report.statistics import wilson
from bench.report.style import styles
from bench.report.titles import AUTOATTACK, CLEAN, TITLES, attack_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST = "best"
WORST, LOWEST = "worst case", "lowest seen"
_JOINT = (WORST, LOWEST)
_WIDTH = 6.6
"""Inches."""
_GAP = 0.55
"""Between blocks of the figure, in rows."""
_READ = f"Whiskers: 95% intervals (Wilson). ({MINUS}k): images broken by this part of AutoAttack."


@dataclass(frozen=True, kw_only=True)
class CardAccuracy:
    """One accuracy of a card."""

    block: str = ""
    """Empty, or AutoAttack, whose parts are cumulative."""
    name: str
    value: float
    low: float
    high: float
    """95% interval (Wilson's)."""
    n: int
    n_broken: int | None = None
    """Images that this part of AutoAttack broke, of those that the parts before it left."""

    def text(self, unit: str = "") -> str:
        """Return `56.0 [50.8, 61.1]`; the unit follows the value."""
        return f"{percent(self.value)}{unit} [{percent(self.low)}, {percent(self.high)}]"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One model."""

    run: RunRecord
    setting: Setting
    row: TableRow
    accuracies: tuple[CardAccuracy, ...]
    """From clean to the lowest seen, all on the row's images."""
    caption: str
    """The artefact's caption: its suite's size."""

    @property
    def heading(self) -> str:
        """`madry (Madry AT, arXiv 1706.06083) on digits, cnn`, with the mark of an alarm."""
        card = self.run.card
        parts = (str(card.get("title") or self.run.method), str(card.get("paper") or ""))
        where = f"{self.setting.dataset}, {self.setting.arch}"
        return f"{self.row.group.label} ({', '.join(filter(None, parts))}) on {where}"

    @property
    def training(self) -> str:
        """`eps 8/255 (0.0314), recipe common, 110 epochs, seed 0; best checkpoint`."""
        own, epochs = float(self.run.spec["eps"]), self.run.spec["recipe"]["epochs"]
        radius = f"eps {eps_both(self.setting.eps)}"
        if not same_eps(own, self.setting.eps):
            radius += f", trained at {eps_both(own)}"
        recipe = f"recipe {self.setting.recipe}"
        return f"{radius}, {recipe}, {epochs} epochs, seed {self.run.seed}; best checkpoint"

    @property
    def masking(self) -> str:
        """`Masking checks: alarms logit scale, surrogate labels of 14`."""
        found = self.row.masking
        if not found.made:
            text = "none made"
        elif found.codes:
            text = f"alarm{'s' * (len(found.names) > 1)} {', '.join(found.names)}"
            text += f" of {len(found.made)}"
        else:
            text = found.quiet
        n = len(self.row.warnings)
        return f"Masking checks: {text}" + (f"; the evaluator warns ({n})" if n else "")

    def sentence(self) -> str:
        """Return the card's facts in LaTeX, on one line."""
        joins = {WORST: self.row.worst_over, LOWEST: self.row.lowest_over}
        own = [a for a in self.accuracies if not a.block and a.name not in joins]
        parts = [_facts(a, "clean accuracy" if a.name == CLEAN else a.name) for a in own]
        cascade = [a for a in self.accuracies if a.n_broken is not None]
        if cascade:
            steps = ", ".join(f"{a.name} {percent(a.value)}" for a in cascade)
            parts.append(f"{_facts(cascade[-1], TITLES[AUTOATTACK])} (after {steps})")
        for a in (a for a in self.accuracies if a.name in joins):
            parts.append(_facts(a, f"{a.name} over {', '.join(joins[a.name])}"))
        facts = f"{'; '.join(parts)}; 95% intervals (Wilson). {self.masking}. {self.caption}"
        run = rf"\texttt{{{latex_escaped(self.run.run_id)}}}"
        return f"{latex_escaped(f'{self.heading}, {self.training}: {facts}')} Run {run}."


def _facts(accuracy: CardAccuracy, called: str) -> str:
    return f"{called} {accuracy.text('%')} on {accuracy.n} images"


def model_card(
    run: RunRecord,
    attacks: Container[str],
    caption: str,
    worst_over: tuple[str, ...] | None = None,
) -> ModelCard | None:
    """Return the card of a run; None where the best checkpoint has no outcome.

    attacks: those that get a row of their own. worst_over: those that the worst case joins in the
    table that the model is a row of; the lowest seen joins all that are on record.
    """
    (section,) = sections([run], worst_over)
    row = next((row for row in section.rows if row.checkpoint == BEST), None)
    if row is None or row.clean is None:
        return None
    return ModelCard(
        run=run,
        setting=section.setting,
        row=row,
        accuracies=tuple(_accuracies(row, attacks)),
        caption=caption,
    )


def _accuracies(row: TableRow, attacks: Container[str]) -> Iterator[CardAccuracy]:
    own = {
        attack_title(label): cell
        for label, cell in row.attacks.items()
        if label != AUTOATTACK and label.partition(" ")[0] in attacks
    }
    joint = {WORST: row.worst, LOWEST: row.lowest}
    yield from _estimated({CLEAN: row.clean, **own})
    yield from _cascade(row)
    yield from _estimated(joint)


def _estimated(cells: Mapping[str, AccuracyEstimate | None]) -> Iterator[CardAccuracy]:
    for name, cell in cells.items():
        if cell and cell.low is not None and cell.high is not None:
            yield CardAccuracy(
                name=name, value=cell.value, low=cell.low, high=cell.high, n=cell.n[0]
            )


def _cascade(row: TableRow) -> Iterator[CardAccuracy]:
    """Yield AutoAttack's parts on the row's images."""
    found = [e for e in row.evaluations if e.spec.attack == AUTOATTACK and e.n_examples]
    if found:
        evaluation = max(found, key=lambda e: (e.n_examples, e.eval_id))
        yield from cascade(evaluation.on(row.index), len(row.index))


def cascade(evaluation: EvaluationRecord, n_images: int) -> Iterator[CardAccuracy]:
    """Yield AutoAttack's parts in their order, each on what those before it left.

    First the clean accuracy, where AutoAttack had only some of the row's images.
    """
    n, n_left = evaluation.n_examples, int(evaluation.clean.sum())
    clean = {CLEAN: None} if n != n_images else {}
    for name, n_broken in {**clean, **evaluation.broken_by()}.items() if n else ():
        n_left -= n_broken or 0
        low, high = wilson(n_left, n)
        yield CardAccuracy(
            block=TITLES[AUTOATTACK],
            name=name,
            value=n_left / n,
            low=low,
            high=high,
            n=n,
            n_broken=n_broken,
        )


def draw_card(card: ModelCard) -> Figure:
    """Draw a row for each accuracy: a bar, its interval, the numbers to its right."""
    from matplotlib.figure import Figure

    places = list(_places(card.accuracies))
    figure = Figure(figsize=(_WIDTH, 1.75 + 0.23 * (places[-1] + 1)), layout="constrained")
    axes = figure.subplots()
    label = card.row.group.label
    colour = styles([label])[label].colour
    for place, accuracy in zip(places, card.accuracies, strict=True):
        _bar(axes, place, accuracy, colour)
    axes.set_yticks(places, list(_names(card)))
    for tick, accuracy in zip(axes.get_yticklabels(), card.accuracies, strict=True):
        tick.set_fontweight("bold" if accuracy.name == WORST else "normal")
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("accuracy on test images (%)")
    left: dict[str, Any] = {"x": 0.01, "ha": "left"}
    text = fitted((card.heading,), 0.85 * _WIDTH)
    figure.suptitle(text, fontsize=10.0, fontweight="bold", **left)
    last = f"{card.caption} Run {card.run.run_id}"
    lines = (card.training, card.masking, _READ, _joined(card.row), last)
    figure.supxlabel(fitted(lines, 1.1 * _WIDTH), fontsize=8.0, **left)
    return figure


def _joined(row: TableRow) -> str:
    """Return which attacks the joint rows are over."""
    more = [label for label in row.lowest_over if label not in row.worst_over]
    parts = [f"Worst: over {listed(row.worst_over)}"] if row.worst_over else []
    if more:
        parts.append(f"lowest: over {'these and ' if row.worst_over else ''}{listed(more)}")
    return f"{'; '.join(parts)}." if parts else ""


def _places(accuracies: tuple[CardAccuracy, ...]) -> Iterator[float]:
    """Yield heights of the rows from 0 on, with room between clean, attacks, AutoAttack, joint."""
    place = 0.0
    yield place
    for i, (before, after) in enumerate(pairwise(accuracies)):
        joint = after.name in _JOINT and before.name not in _JOINT
        place += 1 + _GAP * (i == 0 or before.block != after.block or joint)
        yield place


def _names(card: ModelCard) -> Iterator[str]:
    joins, before = {WORST: card.row.worst_over, LOWEST: card.row.lowest_over}, ""
    for a in card.accuracies:
        if a.name in joins:
            yield f"{a.name.partition(' ')[0]} of {len(joins[a.name])} attacks"
        elif a.block and a.block != before:
            yield f"{a.block}: {a.name}"
        else:
            yield f"\u2026 {a.name}" if a.block else a.name
        before = a.block


def _bar(axes: Axes, place: float, accuracy: CardAccuracy, colour: str) -> None:
    value, low, high = 100 * accuracy.value, 100 * accuracy.low, 100 * accuracy.high
    strong = accuracy.name == WORST
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
    text = f"{accuracy.text()}, n = {accuracy.n}"
    if accuracy.n_broken is not None:
        text += f" ({MINUS}{accuracy.n_broken})" if accuracy.n_broken else " (0)"
    weight = "bold" if strong else "normal"
    at = axes.get_yaxis_transform()
    axes.text(1.02, place, text, transform=at, va="center", fontsize=8.0, fontweight=weight)
