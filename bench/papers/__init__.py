"""Papers as plug-ins: what a paper needs beyond the benchmark, found as methods are.

A paper is a package with a `PAPER`: a folder below `bench/papers`, or a package that another
distribution names as an entry point of the group `atbench.papers`. Nothing else in `bench` names
one. Its suites, published values, tables, figures and claims are read without torch; its
measures, data sets and networks are imported when an evaluation needs them.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from bench.errors import ConfigError

ENTRY_POINTS = "atbench.papers"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What the benchmark knows of one paper."""

    name: str
    title: str
    """As a heading of index.md: `The CAT paper (arXiv 2002.06789)`."""
    folder: Path
    """Holds suites/*.toml and published.toml, where the paper has them."""
    artefacts: str = ""
    """Module with the paper's ARTEFACTS (bench/report/artefact.py), imported by the report."""
    plugins: tuple[str, ...] = ()
    """Modules whose import registers measures, data sets and networks; they may need torch."""


@cache
def papers() -> tuple[Paper, ...]:
    """Return every paper, by name; raises ConfigError for a package without a `PAPER`."""
    names = [f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)]
    names += [point.value for point in entry_points(group=ENTRY_POINTS)]
    found = [_paper(name) for name in names]
    return tuple(sorted(found, key=lambda paper: paper.name))


def _paper(module: str) -> Paper:
    try:
        paper = importlib.import_module(module).PAPER
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"paper plug-in {module} has no PAPER: {error}") from None
    if not isinstance(paper, Paper):
        raise ConfigError(f"paper plug-in {module}: PAPER is a {type(paper).__name__}, not a Paper")
    return paper
