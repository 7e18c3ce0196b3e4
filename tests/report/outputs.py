"""What the CAT paper's artefacts make of made records, for the tests to look at."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.papers.cat.artefacts import ARTEFACTS
from bench.records import load_records
from bench.report.artefact import Output
from bench.report.export import csv_text
from bench.report.suite_runs import SuiteRuns, choose

BY_NAME = {artefact.name: artefact for artefact in ARTEFACTS}


def chosen_of(results: Path, suite: str, size: str | None = None) -> SuiteRuns:
    chosen = choose(load_records(results), suite, size)
    assert chosen is not None
    return chosen


def output_of(results: Path, name: str, size: str | None = None) -> Output:
    make = BY_NAME[name].make
    assert make is not None
    return make(chosen_of(results, BY_NAME[name].suite, size))


def numbers_of(output: Output, name: str) -> Any:
    """Return the numbers as a reader of the .csv gets them."""
    text = csv_text(output.numbers[name], "note")
    return pd.read_csv(io.StringIO(text), comment="#")


def drawn(output: Output, name: str) -> Figure:
    with rc_context({"text.parse_math": False}):
        return output.figures[name]()


def title_of(figure: Figure) -> str:
    return str(figure.get_label())


def named_lines(figure: Figure, panel: int = 0) -> dict[str, Any]:
    """Return the lines of a panel that have a label, by the label up to a colon."""
    lines = figure.axes[panel].get_lines()
    named = {str(line.get_label()).split(":")[0]: line for line in lines}
    return {label: line for label, line in named.items() if not label.startswith("_")}
