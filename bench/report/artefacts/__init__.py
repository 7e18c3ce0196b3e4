"""The paper's artefacts as the report writes them, until one writer makes the files of all."""

from __future__ import annotations

from functools import partial

from bench.papers.cat.artefacts import ARTEFACTS as _OF_THE_PAPER
from bench.report import artefact as outputs
from bench.report.artefact_files import output_files
from bench.report.artefacts import cards
from bench.report.artefacts.artefact import Artefact, Made
from bench.report.suite_runs import SuiteRuns


def _make(artefact: outputs.Artefact, chosen: SuiteRuns, note: str) -> Made:
    assert artefact.make is not None
    output = artefact.make(chosen)
    files = output_files(artefact, output, chosen, note)
    return Made(files=files, lacks=output.lacks, remark=output.remark)


ARTEFACTS: tuple[Artefact, ...] = (
    *(
        Artefact(name=a.name, suite=a.suite, title=a.title, make=partial(_make, a))
        for a in _OF_THE_PAPER
    ),
    Artefact(
        name="cards",
        suite="table3",
        title=cards.TITLE,
        make=cards.make_cards,
        whole=cards.make_every_card,
    ),
)

__all__ = ["ARTEFACTS", "Artefact", "Made"]
