"""A card for each trained model of Table 3, to put into a paper or a review."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from bench.papers.cat.parts import run_name, untrained
from bench.records import RunRecord
from bench.report.artefact import Output
from bench.report.model_card import BEST, draw_card, model_card
from bench.report.rows import sections
from bench.report.suite_runs import StudyRuns, SuiteRuns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Cards: each trained model's fall from clean accuracy to the worst case, with its doubts"
FIRST_SEEDS = (
    "Pictures: of each method's first seed; `bench report --suite cards` draws every model's."
)


def make_cards(chosen: SuiteRuns, *, every: bool = False) -> Output:
    """Return a sentence in LaTeX for every model, and a picture of each method's first seed.

    every: a picture of every model, which takes long with many seeds.
    """
    latex: dict[str, str] = {}
    figures: dict[str, Callable[[], Figure]] = {}
    lacks = untrained(chosen.studies)
    for study in chosen.studies:
        joins, attacks = _joins(study), _attacks(study)
        for runs in study.runs.values():
            cards = {}
            for run in runs:
                lacks += _lacks(study, run, run_name(study, run, chosen.studies))
                card = model_card(run, attacks, chosen.caption, joins.get(run.run_id))
                if card is not None:
                    cards[f"cards/card-{run.run_id}"] = card
            latex |= {file: card.sentence() for file, card in cards.items()}
            shown = list(cards) if every else list(cards)[:1]
            figures |= {file: partial(draw_card, cards[file]) for file in shown}
    remark = FIRST_SEEDS if len(figures) < len(latex) else ""
    return Output(latex=latex, figures=figures, lacks=tuple(lacks), remark=remark)


def _joins(study: StudyRuns) -> dict[str, tuple[str, ...]]:
    """Return the attacks of the worst case in each run's table of the study."""
    everyone = [run for runs in study.runs.values() for run in runs]
    return {
        run.run_id: section.worst_over
        for section in sections(everyone)
        for group in section.groups
        for run in group.runs
    }


def _lacks(study: StudyRuns, run: RunRecord, called: str) -> Iterator[str]:
    """Yield what the study asks of the best checkpoint and the record does not have."""
    present = {e.spec.attack for e in run.evaluations if e.spec.checkpoint == BEST}
    absent = [attack for attack in _attacks(study) if attack not in present]
    if absent:
        yield f"{called}: no {', '.join(absent)}"
    if study.study.checks and not any(m.spec.name.startswith("C") for m in run.measures):
        yield f"{called}: no masking checks"


def _attacks(study: StudyRuns) -> list[str]:
    """Return the study's attacks on test images of the best checkpoint, each once."""
    attacks = [a.name for a in study.study.attacks if BEST in a.checkpoints and a.split == "test"]
    return list(dict.fromkeys(attacks))
