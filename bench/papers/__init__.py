"""Papers as plug-ins: what a paper needs beyond the benchmark, found as methods are.

A paper is a package with a `PAPER`: a folder below `bench/papers`, or a package that another
distribution names as an entry point of the group `atbench.papers`. Nothing else in `bench` names
one. Its suites, published values, tables, figures and claims are read without torch; its
measures, data sets and networks are imported when an evaluation needs them.
"""

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from bench.errors import ConfigError

ENTRY_POINTS = "atbench.papers"
PluginKind = Literal["datasets", "archs", "measures"]


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
    datasets: str = ""
    """Module with DATASETS: name -> `bench.data.sources.Registered`."""
    archs: str = ""
    """Module with ARCHS: name -> (factory, description). May need torch."""
    measures: str = ""
    """Module with MEASURES: name -> (function, description). May need torch."""


@cache
def papers() -> tuple[Paper, ...]:
    """Return every paper, by name; raises ConfigError for a package without a `PAPER`."""
    names = [f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)]
    names += [point.value for point in entry_points(group=ENTRY_POINTS)]
    found = [_paper(name) for name in names]
    return tuple(sorted(found, key=lambda paper: paper.name))


@cache
def plugins(kind: PluginKind) -> dict[str, Any]:
    """Return what the papers add to a registry, by name; the first call imports their modules."""
    found: dict[str, Any] = {}
    for module in _modules(kind):
        found |= getattr(importlib.import_module(module), kind.upper())
    return found


def plugin_files(kind: PluginKind) -> list[Path]:
    """Return the source of every paper's module of that kind, a folder for a package."""
    files = []
    for module in _modules(kind):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:
            file = Path(spec.origin)
            files.append(file.parent if file.name == "__init__.py" else file)
    return files


def _modules(kind: PluginKind) -> list[str]:
    return [module for paper in papers() if (module := getattr(paper, kind))]


def _paper(module: str) -> Paper:
    try:
        paper = importlib.import_module(module).PAPER
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"paper plug-in {module} has no PAPER: {error}") from None
    if not isinstance(paper, Paper):
        raise ConfigError(f"paper plug-in {module}: PAPER is a {type(paper).__name__}, not a Paper")
    return paper
