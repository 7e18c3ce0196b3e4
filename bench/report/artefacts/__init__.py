"""Tables and figures of the paper by name: what each shows, its suite, and what makes it."""

from __future__ import annotations

from bench.report.artefacts import (
    cards,
    complexity,
    convergence,
    cost,
    figure1,
    figure2,
    figure3,
    figure4a,
    figure4b,
    margins,
    radii,
    table1,
    table2,
    table4,
)
from bench.report.artefacts.artefact import Artefact, Made

ARTEFACTS: tuple[Artefact, ...] = (
    Artefact(name="figure1", suite="figure1", title=figure1.TITLE, make=figure1.make_figure1),
    Artefact(name="table1", suite="table1", title=table1.TITLE, make=table1.make_table1),
    Artefact(name="table2", suite="table3", title=table2.TITLE, make=table2.make_table2),
    Artefact(name="table4", suite="table4", title=table4.TITLE, make=table4.make_table4),
    Artefact(name="figure2", suite="figure2", title=figure2.TITLE, make=figure2.make_figure2),
    Artefact(name="figure3", suite="figure3", title=figure3.TITLE, make=figure3.make_figure3),
    Artefact(name="figure4a", suite="figure4a", title=figure4a.TITLE, make=figure4a.make_figure4a),
    Artefact(name="figure4b", suite="figure4b", title=figure4b.TITLE, make=figure4b.make_figure4b),
    Artefact(name="margins", suite="theory", title=margins.TITLE, make=margins.make_margins),
    Artefact(
        name="complexity", suite="theory", title=complexity.TITLE, make=complexity.make_complexity
    ),
    Artefact(
        name="convergence",
        suite="table3",
        title=convergence.TITLE,
        make=convergence.make_convergence,
    ),
    Artefact(name="radii", suite="table3", title=radii.TITLE, make=radii.make_radii),
    Artefact(name="cost", suite="table3", title=cost.TITLE, make=cost.make_cost),
    Artefact(
        name="cards",
        suite="table3",
        title=cards.TITLE,
        make=cards.make_cards,
        whole=cards.make_every_card,
    ),
)
"""In the paper's order; each entry's module says what it shows."""

__all__ = ["ARTEFACTS", "Artefact", "Made"]
