"""What papers state in their tables, read from the published.toml of their folders. Fractions."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any

from bench.eps import parse_eps
from bench.errors import refuse_unknown
from bench.experiments.recipe import load_recipe
from bench.papers import Paper, papers

REFERENCE = "madry"
"""The method that costs are relative to: plain adversarial training by PGD."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of the paper's table."""

    arch: str
    """The network of that row."""
    clean: float | None = None
    pgd: float | None = None
    """PGD; with how many steps, the caveat and the notes say."""
    cw: float | None = None
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing with it."""

    @property
    def values(self) -> tuple[float | None, float | None, float | None]:
        """Clean, PGD and C&W accuracy."""
        return self.clean, self.pgd, self.cw


@dataclass(frozen=True, kw_only=True)
class PublishedPaper:
    """The keys of a published.toml; what only the paper's own artefacts read is in `more`."""

    paper: str
    """Name of the plug-in."""
    source: str = ""
    dataset: str = ""
    arch: str = ""
    eps: float = 0.0
    recipe: str = ""
    """Name of the recipe that the paper states; empty where it states none."""
    origin: str = ""
    """Data set, network and eps, as a heading says them."""
    own: tuple[str, ...] = ()
    """Registry names of the paper's own methods."""
    order: tuple[str, ...] = ()
    """Methods in the paper's order, which every table and figure follows."""
    reference: str = REFERENCE
    """The method that the paper's own tables are relative to."""
    caveat: str = ""
    """What to know before comparing with any row."""
    leaderboards: str = ""
    """A sentence on the paper's models in public leaderboards."""
    suites: tuple[str, ...] = ()
    """Suites that the report's Table 3 is for."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Method -> what readers call it."""
    highlight: tuple[str, ...] = ()
    """Methods in colour in a figure of many."""
    styles: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    """Method -> name of a colour, marker, dash."""
    table3: Mapping[str, Published] = field(default_factory=dict)
    """By registry name, in the paper's order."""
    more: Mapping[str, Any] = field(default_factory=dict)

    def differences(
        self, dataset: str, arch: str, eps: float | None, method: str, recipe: Mapping[str, Any]
    ) -> list[str]:
        """Return in which ways a training of ours is not the paper's; empty if it is the same.

        recipe: the training's values, whatever the name of its recipe.
        """
        same = {
            "data set": dataset == self.dataset,
            "network": arch == self.arch,
            "eps": eps is not None and abs(eps - self.eps) <= 1e-6,
        }
        if self.recipe:
            theirs = asdict(load_recipe(self.recipe, arch=arch, dataset=dataset, method=method)[0])
            ours = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.items()}
            of_data = {key: theirs[key] for key in ("pad", "flip")}
            same["recipe"] = theirs | ours | of_data == theirs
        return [what for what, equal in same.items() if not equal]


def published(paper: str) -> PublishedPaper:
    """Return what a paper states; raises ConfigError for a paper without a published.toml."""
    known = {one.paper: one for one in published_papers()}
    refuse_unknown("paper", [paper], known)
    return known[paper]


def published_papers() -> tuple[PublishedPaper, ...]:
    """Return what every paper states that has a published.toml, by the paper's name."""
    return tuple(_read(p) for p in papers() if (p.folder / "published.toml").is_file())


def method_order(method: str) -> tuple[int, str]:
    """Return the sort key of a method: the papers' order first, then by name."""
    names = [name for paper in published_papers() for name in paper.order]
    return (names.index(method) if method in names else len(names), method)


def shown_name(label: str) -> str:
    """Return a label with the name that readers know: `cat-ce, eps 1` as `CAT-CE, eps 1`."""
    method = re.split("[ ,:]", label, maxsplit=1)[0]
    names = {own: name for paper in published_papers() for own, name in paper.names.items()}
    return names.get(method, method) + label.removeprefix(method)


@cache
def _read(paper: Paper) -> PublishedPaper:
    table = tomllib.loads((paper.folder / "published.toml").read_text(encoding="utf-8"))
    rows = {
        method: Published(**{**row, "notes": tuple(row.get("notes", ()))})
        for method, row in table.get("table3", {}).items()
    }
    order = tuple(table.get("order", rows))
    known = {f.name for f in fields(PublishedPaper)}
    values: dict[str, Any] = {k: v for k, v in table.items() if k in known} | {
        "paper": paper.name,
        "eps": parse_eps(str(table.get("eps", "0"))),
        "order": order,
        "styles": {method: tuple(style) for method, style in table.get("styles", {}).items()},
        "table3": {name: rows[name] for name in (*order, *rows) if name in rows},
        "more": {k: v for k, v in table.items() if k not in known},
    }
    values |= {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
    return PublishedPaper(**values)
