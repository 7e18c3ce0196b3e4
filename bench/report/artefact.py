"""What a paper adds to the report: artefacts, each a table, a figure or a page.

An artefact returns DataFrames, figures and text; the report writes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.records import RunRecord
from bench.report.export import Table
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Output:
    """What an artefact made of the records of its suite."""

    tables: Mapping[str, Table] = field(default_factory=dict)
    """File name without suffix -> a table for readers, written as .md and .tex."""
    numbers: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """File name without suffix -> its numbers, written as .csv."""
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    """File name without suffix -> what draws it, written as .png, .pdf and .svg."""
    pages: Mapping[str, str] = field(default_factory=dict)
    """File name without suffix -> markdown, written as .md."""
    below: Sequence[str] = ()
    """Sentences under the tables."""
    note: str = ""
    """Sentences that every file carries after its origin and size."""
    lacks: tuple[str, ...] = ()
    """What has no record, in words."""
    remark: str = ""
    """What index.md says next to the links."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One table or figure of a paper."""

    name: str
    title: str
    suite: str = ""
    """The suite whose records it is made of; empty for all records."""
    make: Callable[[SuiteRuns], Output] | None = None
    make_of_all: Callable[[Sequence[RunRecord]], Output] | None = None
    """In place of `make`, where it is made of all records."""
