"""Our AutoAttack results next to those that others published for the same network and data."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from bench.eps import parse_eps
from bench.report.columns import number, percent_or_missing
from bench.report.export import Table
from bench.report.formatting import eps_text, percent, span
from bench.report.frame import same_eps
from bench.report.published import published_papers
from bench.report.rows import Section
from bench.report.titles import AUTOATTACK, CLEAN

_FILE = Path(__file__).parent.parent / "leaderboards.toml"
_SIMILAR = (8 / 255, 0.031)
"""Radii that this literature calls the same; an entry with the other one says so."""


@dataclass(frozen=True, kw_only=True)
class AutoAttackResult:
    """A row of ours or a published entry. Fractions."""

    name: str
    origin: str
    """`here`, or the source of a published number."""
    venue: str = ""
    clean: float | None
    autoattack: float
    n: tuple[int, ...]
    """Images of the AutoAttack accuracy, per seed."""
    differs: tuple[str, ...] = ()
    """How a published one differs from ours."""


@cache
def _published() -> Mapping[str, Any]:
    found: Mapping[str, Any] = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return found


def autoattack_results(section: Section) -> list[AutoAttackResult]:
    """Return our rows with an AutoAttack result, then published ones; empty without either."""
    setting, known = section.setting, _published()
    similar = any(same_eps(setting.eps, eps) for eps in _SIMILAR)
    if (setting.dataset, setting.norm) != (known["dataset"], known["norm"]) or not similar:
        return []
    ours = [
        AutoAttackResult(
            name=f"{row.group.label} ({row.checkpoint})",
            origin="here",
            clean=clean.value if (clean := row.whole.get(CLEAN)) else None,
            autoattack=cell.value,
            n=cell.n,
        )
        for row in section.rows
        # the published ones are on all test images
        if (cell := row.whole.get(AUTOATTACK))
        # a model from outside has a network of its own, which nobody recorded
        and not row.group.outside
    ]
    entries = known["entries"].get(setting.arch.removesuffix("-raw"), ())
    published = [_entry(entry, known, setting.eps) for entry in entries]
    return [*ours, *published] if ours and published else []


def _entry(entry: Mapping[str, Any], known: Mapping[str, Any], eps: float) -> AutoAttackResult:
    own = parse_eps(str(entry.get("eps", known["eps"])))
    differs = [entry["extra"]] if "extra" in entry else []
    differs += [] if same_eps(own, eps) else [f"eps {eps_text(own)}"]
    differs += [f"network: {entry['network']}"] if "network" in entry else []
    return AutoAttackResult(
        **{name: entry[name] for name in ("name", "venue", "clean", "autoattack")},
        origin=entry.get("source", known["source"]),
        n=(known["n_images"],),
        differs=tuple(differs),
    )


def results_table(found: Sequence[AutoAttackResult]) -> Table:
    """Return a row per result, percent."""
    lines = []
    for one in found:
        few = one.origin == "here" and max(one.n) < _published()["n_images"]
        here = "here" + (f"; AutoAttack on the first {span(one.n)} images" if few else "")
        lines.append(
            {
                "Entry": f"{one.name}, {one.venue}" if one.venue else one.name,
                "Clean": percent_or_missing(one.clean, 2),
                "AutoAttack": percent(one.autoattack, 2),
                "What differs": here if one.origin == "here" else ", ".join(one.differs),
            }
        )
    return Table(text=pd.DataFrame(lines, dtype=object))


def results_facts() -> list[str]:
    """Return sentences below the table."""
    known = _published()
    entries = (entry for entries in known["entries"].values() for entry in entries)
    sources = dict.fromkeys(entry.get("source", known["source"]) for entry in entries)
    return [
        f"Percent. Published: from {' and '.join(sources)}, on all {known['n_images']:,} test "
        "images. The trainings behind the rows differ (recipe, epochs, selection), which this "
        "table cannot show: read it as context, not as a ranking.",
        *(table.leaderboards for table in published_papers() if table.leaderboards),
    ]


def results_csv(parts: Sequence[Section]) -> pd.DataFrame:
    """Return the rows of all tables; fractions."""
    return pd.DataFrame(
        {
            "dataset": section.setting.dataset,
            "arch": section.setting.arch,
            "eps": number(section.setting.eps, "%.9g"),
            **{name: getattr(one, name) for name in ("origin", "name", "venue")},
            "clean": number(one.clean),
            "autoattack": number(one.autoattack),
            "n": span(one.n, "-"),
            "differs": "; ".join(one.differs),
        }
        for section in parts
        for one in autoattack_results(section)
    )
