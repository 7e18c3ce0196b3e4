"""The trainings and measures of a suite: their labels, and in words which are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import RecordError
from bench.measured import MeasureRecord
from bench.records import RunRecord
from bench.report.formatting import ALARM, eps_text
from bench.report.groups import marked
from bench.report.select import same_eps
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.study import AskedMeasures

ALARM_TEXT = f"{ALARM.strip()}: alarm of a masking check."


@dataclass(frozen=True, kw_only=True)
class SuiteMeasure:
    """One measure of one training of a suite."""

    method: str
    label: str
    eps: float
    """Of the study, in pixels of [0, 1]."""
    run: RunRecord
    record: MeasureRecord
    arrays: Mapping[str, np.ndarray]


def label(study: StudyRuns, method: str, studies: Sequence[StudyRuns]) -> str:
    """Return the method with its eps, if the studies have several, and the mark of an alarm."""
    return marked(name(study, method, studies), study.runs[method])


def name(study: StudyRuns, method: str, studies: Sequence[StudyRuns]) -> str:
    """Return the label without the mark of an alarm."""
    several = sum(method in other.study.methods for other in studies) > 1
    return f"{method}, eps {eps_text(study.study.eps)}" if several else method


def alarm_note(labels: Iterable[str]) -> str:
    """Return what the mark on a label means; empty if no label has it."""
    return ALARM_TEXT if any(ALARM in label for label in labels) else ""


def captioned(chosen: SuiteRuns, labels: Iterable[str]) -> str:
    """Return the end of a figure's title: the size, and the mark of an alarm if a label has it."""
    return f"{chosen.caption} {alarm_note(labels)}".strip()


def untrained(studies: Sequence[StudyRuns]) -> list[str]:
    """Return `trades: no training` for every method and seed that the studies ask for."""
    return [
        text
        for study in studies
        for method in study.study.methods
        for text in untrained_seeds(study, method, name(study, method, studies))
    ]


def untrained_seeds(study: StudyRuns, method: str, called: str) -> Iterator[str]:
    runs = study.runs.get(method, ())
    if not runs:
        yield f"{called}: no training"
        return
    there = {run.seed for run in runs}
    for seed in study.study.seeds:
        if seed not in there:
            yield f"{called}, seed {seed}: no training"


def suite_measures(chosen: SuiteRuns, measure: str) -> tuple[list[SuiteMeasure], tuple[str, ...]]:
    """Return a measure of every training whose study asks for it, and in words what is missing."""
    asking = [
        (study, asked)
        for study in chosen.studies
        for asked in study.study.measures
        if measure in asked.names
    ]
    studies = [study for study, _ in asking]
    found: list[SuiteMeasure] = []
    lacks = untrained(studies)
    for study, asked in asking:
        for method, runs in study.runs.items():
            for run in runs:
                record = _record(study, asked, measure, run)
                if isinstance(record, str):
                    seed = f", seed {run.seed}" if len(runs) > 1 else ""
                    lacks.append(f"{name(study, method, studies)}{seed}: {record}")
                    continue
                found.append(
                    SuiteMeasure(
                        method=method,
                        label=label(study, method, studies),
                        eps=study.study.eps,
                        run=run,
                        record=record,
                        arrays=record.arrays,
                    )
                )
    return found, tuple(lacks)


def by_label(found: Iterable[SuiteMeasure]) -> dict[str, list[SuiteMeasure]]:
    """Return the seeds of each label."""
    groups: dict[str, list[SuiteMeasure]] = {}
    for one in found:
        groups.setdefault(one.label, []).append(one)
    return groups


def _record(
    study: StudyRuns, asked: AskedMeasures, measure: str, run: RunRecord
) -> MeasureRecord | str:
    """Return the record with most images; or why it cannot be used."""
    records = [
        record
        for record in run.measures
        if record.spec.name == measure
        and record.spec.checkpoint in asked.checkpoints
        and record.spec.split == "test"
        and same_eps(record.spec.eps, study.study.eps)
        and dict(record.spec.params) == dict(asked.params)
    ]
    if not records:
        params = ", ".join(f"{key} = {value}" for key, value in asked.params.items())
        return f"no {measure}" + (f" with {params}" if params else "")
    best = max(records, key=lambda r: (r.spec.n_examples, r.spec.measure_id))
    try:
        best.arrays  # noqa: B018 - reading them is the check
    except RecordError:
        return f"its {measure} is damaged"
    return best
