"""The measures that an artefact is drawn from, as its suite asks for them, and those that lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.errors import RecordError
from bench.measured import MeasureRecord
from bench.records import RunRecord
from bench.report.artefacts.trained import label, name, seed_text, untrained
from bench.report.groups import same_eps
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.study import AskedMeasures


@dataclass(frozen=True, kw_only=True)
class Found:
    """One measure of one training."""

    method: str
    label: str
    """The method, with its radius where the suite has it at several, and the mark of an alarm."""
    eps: float
    """Of the study, in pixels of [0, 1]."""
    run: RunRecord
    record: MeasureRecord
    arrays: Mapping[str, np.ndarray]


def found_measures(chosen: SuiteRuns, measure: str) -> tuple[list[Found], list[str]]:
    """Those of every study that asks for the measure, and in words what lacks of them."""
    asking = [(study, asked) for study in chosen.studies if (asked := _asked(study, measure))]
    studies = [study for study, _ in asking]
    found: list[Found] = []
    lacks = untrained(studies)
    for study, asked in asking:
        for method, runs in study.runs.items():
            for run in runs:
                one = _found(study, asked, measure, label(study, method, studies), run)
                if isinstance(one, Found):
                    found.append(one)
                else:
                    called = name(study, method, studies)
                    lacks.append(f"{called}{seed_text(run, study)}: {one}")
    return found, lacks


def _asked(study: StudyRuns, measure: str) -> AskedMeasures | None:
    return next((asked for asked in study.study.measures if measure in asked.names), None)


def _found(
    study: StudyRuns, asked: AskedMeasures, measure: str, label: str, run: RunRecord
) -> Found | str:
    """Of several records the one with most images; or what is wrong, in words."""
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
    record = max(records, key=lambda r: (r.spec.n_examples, r.spec.measure_id))
    try:
        arrays = record.arrays
    except RecordError:
        return f"its {measure} is damaged"
    return Found(
        method=run.method, label=label, eps=study.study.eps, run=run, record=record, arrays=arrays
    )
