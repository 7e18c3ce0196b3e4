"""What a table or figure of the paper is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.report.suite_runs import SuiteRuns


@dataclass(frozen=True, kw_only=True)
class Made:
    """The files of one artefact."""

    files: Mapping[str, bytes]
    """By name in the reports folder: `table1.md`, `figure2.png`."""
    lacks: tuple[str, ...] = ()
    """What it would also show if there were records: `trades: no training`, in words."""
    remark: str = ""
    """What a report of everything leaves out of it, in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One table or figure of the paper."""

    name: str
    """`table1`; the head of its files' names."""
    suite: str
    """Whose records it is made of."""
    title: str
    """What it shows, in a line."""
    make: Callable[[SuiteRuns, str], Made]
    """From the records, and the sentence on their origin that every file carries."""
    whole: Callable[[SuiteRuns, str], Made] | None = None
    """In its place where the artefact is asked for by its name; None where that is the same."""
