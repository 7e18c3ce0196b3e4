"""The paper's tables and figures, in its order; each module says what it shows."""

from __future__ import annotations

from functools import partial

from bench.papers.cat import (
    cards,
    complexity,
    convergence,
    cost,
    figure1,
    figure2,
    figure3,
    figure4,
    margins,
    radii,
    table1,
    table2,
    table4,
)
from bench.papers.cat.claim_page import make_claims
from bench.report.artefact import Artefact

ARTEFACTS = (
    *(
        Artefact(name=name, suite=suite, title=title, make=make)
        for name, suite, title, make in (
            ("figure1", "figure1", figure1.TITLE, figure1.make_figure1),
            ("table1", "table1", table1.TITLE, table1.make_table1),
            ("table2", "table3", table2.TITLE, table2.make_table2),
            ("table4", "table4", table4.TITLE, table4.make_table4),
            ("figure2", "figure2", figure2.TITLE, figure2.make_figure2),
            ("figure3", "figure3", figure3.TITLE, figure3.make_figure3),
            ("figure4a", "figure4a", figure4.TITLE_A, figure4.make_figure4a),
            ("figure4b", "figure4b", figure4.TITLE_B, figure4.make_figure4b),
            ("margins", "theory", margins.TITLE, margins.make_margins),
            ("complexity", "theory", complexity.TITLE, complexity.make_complexity),
            ("convergence", "table3", convergence.TITLE, convergence.make_convergence),
            ("radii", "table3", radii.TITLE, radii.make_radii),
            ("cost", "table3", cost.TITLE, cost.make_cost),
        )
    ),
    Artefact(
        name="cards",
        suite="table3",
        title=cards.TITLE,
        make=cards.make_cards,
        whole=partial(cards.make_cards, every=True),
    ),
    Artefact(name="claims", title="Claims of the paper, with verdicts", make_of_all=make_claims),
)
