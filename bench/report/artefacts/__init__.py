"""Tables and figures of the paper by name: what each shows, its suite, and what makes it."""

from __future__ import annotations

from bench.report.artefacts.artefact import Artefact, Made

ARTEFACTS: tuple[Artefact, ...] = ()
"""In the paper's order; each entry's module says what it shows."""

__all__ = ["ARTEFACTS", "Artefact", "Made"]
