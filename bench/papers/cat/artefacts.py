"""The paper's tables and figures, in its order; each module says what it shows."""

from functools import partial

from bench.papers.cat import accuracy_figures as curves
from bench.papers.cat import cards, complexity, cost, epochs, figure1, figure3, margins, tables
from bench.papers.cat.claim_page import make_claims
from bench.report.artefact import Artefact

ARTEFACTS = (
    *(
        Artefact(name=name, suite=suite, title=title, make=make)
        for name, suite, title, make in (
            ("figure1", "figure1", figure1.TITLE, figure1.make_figure1),
            ("table1", "table1", tables.TITLE_1, tables.make_table1),
            ("table2", "table3", tables.TITLE_2, tables.make_table2),
            ("table4", "table4", tables.TITLE_4, tables.make_table4),
            ("figure2", "figure2", curves.TITLE_2, curves.make_figure2),
            ("figure3", "figure3", figure3.TITLE, figure3.make_figure3),
            ("figure4a", "figure4a", curves.TITLE_4A, curves.make_figure4a),
            ("figure4b", "figure4b", curves.TITLE_4B, curves.make_figure4b),
            ("margins", "theory", margins.TITLE, margins.make_margins),
            ("complexity", "theory", complexity.TITLE, complexity.make_complexity),
            ("convergence", "table3", epochs.TITLE_CONVERGENCE, epochs.make_convergence),
            ("radii", "table3", epochs.TITLE_RADII, epochs.make_radii),
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
