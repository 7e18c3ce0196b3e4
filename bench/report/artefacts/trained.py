"""The trainings that an artefact shows: their labels, which are missing, what every output says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench.records import RunRecord
from bench.report.groups import marked
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.report.units import ALARM, eps_text

ALARM_TEXT = f"{ALARM.strip()}: alarm of a masking check."


def label(study: StudyRuns, method: str, studies: Sequence[StudyRuns]) -> str:
    """The method, with its radius where the studies have it at several, and an alarm's mark."""
    return marked(name(study, method, studies), study.runs[method])


def name(study: StudyRuns, method: str, studies: Sequence[StudyRuns]) -> str:
    """The label without the mark: what a method without records is called."""
    several = sum(method in other.study.methods for other in studies) > 1
    return f"{method}, eps {eps_text(study.study.eps)}" if several else method


def seed_text(run: RunRecord, study: StudyRuns) -> str:
    """`, seed 1`, where there are several."""
    return f", seed {run.seed}" if len(study.runs[run.method]) > 1 else ""


def untrained(studies: Sequence[StudyRuns]) -> list[str]:
    """`trades: no training`, of every method and seed that the studies ask for."""
    return [text for study in studies for text in _untrained(study, studies)]


def _untrained(study: StudyRuns, studies: Sequence[StudyRuns]) -> Iterator[str]:
    for method in study.study.methods:
        called, seeds = name(study, method, studies), study.study.seeds
        runs = study.runs.get(method, ())
        if not runs:
            yield f"{called}: no training"
            continue
        there = {run.seed for run in runs}
        yield from (f"{called}, seed {seed}: no training" for seed in seeds if seed not in there)


def captioned(chosen: SuiteRuns, labels: Iterable[str]) -> str:
    """The size in words; with the mark of an alarm explained, where a label has it."""
    alarmed = any(text.endswith(ALARM) for text in labels)
    return f"{chosen.caption} {ALARM_TEXT}" if alarmed else chosen.caption
