"""A card of one trained model: the accuracies of its best checkpoint, and its doubts."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from bench.records import EvaluationRecord, RunRecord
from bench.report.aggregate import AUTOATTACK, CW, PGD, Row, heading, sections
from bench.report.groups import Setting, same_eps
from bench.report.interval import wilson
from bench.report.joins import Cell
from bench.report.units import eps_both

BEST = "best"
CLEAN, WORST, LOWEST = "clean", "worst case", "lowest seen"
NAMES = {PGD: "PGD-20", CW: "C&W", AUTOATTACK: "AutoAttack"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One accuracy."""

    block: str
    """What it belongs to: ``""``, or AutoAttack, whose stages are cumulative."""
    name: str
    value: float
    low: float
    high: float
    """95% interval (Wilson's)."""
    n: int
    n_broken: int | None = None
    """Images that this part of AutoAttack broke, of those that the parts before it left."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One model."""

    run: RunRecord
    setting: Setting
    row: Row
    stages: tuple[Stage, ...]
    """From clean to the lowest seen, all on the row's images."""
    size: str
    """The artefact's caption: of which size this is."""

    @property
    def label(self) -> str:
        """The method, with the mark of an alarm."""
        return self.row.group.label

    @property
    def model(self) -> str:
        """`Madry AT, arXiv 1706.06083`: what the method calls itself; its name without a title."""
        card = self.run.card
        parts = (str(card.get("title") or self.run.method), str(card.get("paper") or ""))
        return ", ".join(part for part in parts if part)

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
        """`Masking checks: alarms C8, C14 of 14`."""
        found = self.row.masking
        if not found.made:
            text = "none made"
        elif found.codes:
            text = f"alarm{'s' * (len(found.codes) > 1)} {', '.join(found.codes)}"
            text += f" of {len(found.made)}"
        else:
            text = f"{len(found.made)} passed"
        n = len(self.row.warnings)
        return f"Masking checks: {text}" + (f"; the evaluator warns ({n})" if n else "")


def make_card(
    run: RunRecord,
    attacks: Container[str],
    size: str,
    worst_over: tuple[str, ...] | None = None,
) -> Card | None:
    """None where the best checkpoint has no outcome.

    attacks: those that get a stage of their own. worst_over: those that the worst case joins in
    the table that the model is a row of; the lowest seen joins all that are on record.
    """
    (section,) = sections([run], worst_over)
    row = next((row for row in section.rows if row.checkpoint == BEST), None)
    if row is None or row.clean is None or row.clean.value is None:
        return None
    stages = tuple(_stages(run, row, section.setting, attacks))
    return Card(run=run, setting=section.setting, row=row, stages=stages, size=size)


def _stages(run: RunRecord, row: Row, setting: Setting, attacks: Container[str]) -> Iterator[Stage]:
    assert row.clean is not None
    yield from _stage(CLEAN, row.clean)
    for label, cell in row.attacks.items():
        if label != AUTOATTACK and label.partition(" ")[0] in attacks:
            yield from _stage(NAMES.get(label) or heading(label), cell)
    yield from _cascade(run, setting, row)
    if row.worst is not None:
        yield from _stage(WORST, row.worst)
    if row.lowest is not None:
        yield from _stage(LOWEST, row.lowest)


def _stage(name: str, cell: Cell) -> Iterator[Stage]:
    """Nothing without images."""
    if cell.value is not None and cell.low is not None and cell.high is not None:
        yield Stage(
            block="", name=name, value=cell.value, low=cell.low, high=cell.high, n=cell.n[0]
        )


def _cascade(run: RunRecord, setting: Setting, row: Row) -> Iterator[Stage]:
    """AutoAttack's parts in their order, each on what those before it left; the row's images.

    First the clean accuracy, where AutoAttack had only some of these.
    """
    evaluation = _autoattack(run, setting)
    if evaluation is None:
        return
    evaluation = evaluation.on(row.index)
    n, n_left = evaluation.n_examples, int(evaluation.clean.sum())
    if not n:
        return
    if n != len(row.index):
        yield _counted(CLEAN, n_left, n, None)
    for part, n_broken in evaluation.broken_by().items():
        n_left -= n_broken
        yield _counted(part, n_left, n, n_broken)


def _autoattack(run: RunRecord, setting: Setting) -> EvaluationRecord | None:
    """Of several the one with most images."""
    found = [
        e
        for e in run.evaluations
        if (e.spec.attack, e.spec.checkpoint, e.spec.split) == (AUTOATTACK, BEST, "test")
        and e.spec.norm == setting.norm
        and same_eps(e.spec.eps, setting.eps)
        and e.n_examples
    ]
    return max(found, key=lambda e: (e.n_examples, e.eval_id), default=None)


def _counted(name: str, n_left: int, n: int, n_broken: int | None) -> Stage:
    low, high = wilson(n_left, n)
    return Stage(
        block=NAMES[AUTOATTACK],
        name=name,
        value=n_left / n,
        low=low,
        high=high,
        n=n,
        n_broken=n_broken,
    )
