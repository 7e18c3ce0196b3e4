"""Figure 1: what a radius beyond the margin does to the line of a linear network."""

from __future__ import annotations

from bench.papers.cat.gaussians import UNIT
from bench.report.artefacts.artefact import Made
from bench.report.artefacts.measures import Found, found_measures
from bench.report.figure1 import Boundary, figure1_files
from bench.report.suite_runs import SuiteRuns

TITLE = "Figure 1: the lines of linear networks between two classes in the plane"


def make_figure1(chosen: SuiteRuns, note: str) -> Made:
    """A line for each training, in the points' units."""
    found, lacks = found_measures(chosen, "boundary")
    if not found:
        return Made(files={}, lacks=tuple(lacks))
    lines = [_boundary(one) for one in found]
    files = figure1_files(lines, f"{note} {chosen.caption}", chosen.caption)
    return Made(files={f"figure1{suffix}": c for suffix, c in files.items()}, lacks=tuple(lacks))


def _boundary(found: Found) -> Boundary:
    values = found.record.values
    # Trained without an adversary, it has no radius of its own.
    alone = found.run.card.get("inner") == "none"
    return Boundary(
        method=found.method,
        eps=None if alone else found.eps * UNIT,
        seed=found.run.seed or 0,
        weight=found.arrays["weight"],
        bias=float(found.arrays["bias"]),
        angle=float(values["angle"]),
        offset=values["offset"],
        clean_accuracy=float(values["clean_accuracy"]),
        robust_accuracy=None if alone else float(values["robust_accuracy"][0]),
    )
