"""The paper's artefacts."""

from bench.papers.cat.claim_page import make_claims
from bench.report.artefact import Artefact

ARTEFACTS = (
    Artefact(name="claims", title="Claims of the paper, with verdicts", make_of_all=make_claims),
)
