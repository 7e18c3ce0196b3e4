"""A card for each trained model of Table 3, to be put into a paper or a review."""

from __future__ import annotations

from collections.abc import Iterator

from bench.records import RunRecord
from bench.report.aggregate import AUTOATTACK, sections
from bench.report.artefacts.artefact import Made
from bench.report.artefacts.trained import name, seed_text, untrained
from bench.report.artefacts.written import remark
from bench.report.card import BEST, CLEAN, LOWEST, NAMES, WORST, Card, Stage, make_card
from bench.report.card_figure import card_pictures
from bench.report.latex import escaped
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.report.units import percent

TITLE = "Cards: each trained model's fall from clean accuracy to the worst case, with its doubts"


FIRST_SEEDS = (
    "Pictures: of each method's first seed; `bench report --suite cards` draws every model's."
)


def make_cards(chosen: SuiteRuns, note: str) -> Made:
    """cards/card-RUN_ID.tex, a sentence, of every model; .png and .svg of each method's first seed.

    A picture takes longer than a thousand numbers, and a paper shows one of a method's seeds.
    """
    return _make(chosen, note, every=False)


def make_every_card(chosen: SuiteRuns, note: str) -> Made:
    """cards/card-RUN_ID.png, .svg and .tex of every model."""
    return _make(chosen, note, every=True)


def _make(chosen: SuiteRuns, note: str, *, every: bool) -> Made:
    files: dict[str, bytes] = {}
    lacks, text = untrained(chosen.studies), ""
    for study in chosen.studies:
        joins = _joins(study)
        for method, runs in study.runs.items():
            drawn = False
            for run in runs:
                lacks += _lacks(study, run, name(study, method, chosen.studies))
                card = make_card(run, _asked(study), chosen.caption, joins.get(run.run_id))
                if card is None:
                    continue
                files |= _sentence(card, remark(chosen, note))
                if every or not drawn:
                    files |= _pictures(card, remark(chosen, note))
                else:
                    text = FIRST_SEEDS
                drawn = True
    return Made(files=files, lacks=tuple(lacks), remark=text)


def _joins(study: StudyRuns) -> dict[str, tuple[str, ...]]:
    """Of each run the attacks of the worst case in a table of the study."""
    everyone = [run for runs in study.runs.values() for run in runs]
    return {
        run.run_id: section.worst_over
        for section in sections(everyone)
        for group in section.groups
        for run in group.runs
    }


def _lacks(study: StudyRuns, run: RunRecord, called: str) -> Iterator[str]:
    """What the study asks of the best checkpoint and the record does not have."""
    there = {e.spec.attack for e in run.evaluations if e.spec.checkpoint == BEST}
    absent = [attack for attack in _asked(study) if attack not in there]
    if absent:
        yield f"{called}{seed_text(run, study)}: no {', '.join(absent)}"
    if study.study.checks and not any(m.spec.name.startswith("C") for m in run.measures):
        yield f"{called}{seed_text(run, study)}: no masking checks"


def _asked(study: StudyRuns) -> list[str]:
    """Attacks on test images of the best checkpoint, each once."""
    asked = [a.name for a in study.study.attacks if BEST in a.checkpoints and a.split == "test"]
    return list(dict.fromkeys(asked))


def _sentence(card: Card, origin: str) -> dict[str, bytes]:
    return {f"{_head(card)}.tex": f"% {origin}\n{card_sentence(card)}\n".encode()}


def _pictures(card: Card, origin: str) -> dict[str, bytes]:
    pictures = card_pictures(card, origin)
    return {f"{_head(card)}{suffix}": content for suffix, content in pictures.items()}


def _head(card: Card) -> str:
    return f"cards/card-{card.run.run_id}"


def card_sentence(card: Card) -> str:
    """The card's facts in LaTeX, on one line."""
    joins = {WORST: card.row.worst_over, LOWEST: card.row.lowest_over}
    plain = [stage for stage in card.stages if not stage.block and stage.name not in joins]
    parts = [
        _text(stage, "clean accuracy" if stage.name == CLEAN else stage.name) for stage in plain
    ]
    cascade = [stage for stage in card.stages if stage.n_broken is not None]
    if cascade:
        stages = ", ".join(f"{stage.name} {percent(stage.value)}" for stage in cascade)
        parts.append(f"{_text(cascade[-1], NAMES[AUTOATTACK])} (after {stages})")
    for stage in (stage for stage in card.stages if stage.name in joins):
        parts.append(_text(stage, f"{stage.name} over {', '.join(joins[stage.name])}"))
    where = f"on {card.setting.dataset}, {card.setting.arch}, {card.training}"
    facts = f"{'; '.join(parts)}; 95% intervals (Wilson). {card.masking}. {card.size}"
    run = rf"\texttt{{{escaped(card.run.run_id)}}}"
    return f"{escaped(f'{card.label} ({card.model}) {where}: {facts}')} Run {run}."


def _text(stage: Stage, called: str) -> str:
    interval = f"[{percent(stage.low)}, {percent(stage.high)}]"
    return f"{called} {percent(stage.value)}% {interval} on {stage.n} images"
