"""Claim 13: a training radius beyond the margin of two classes in the plane (Figure 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.papers.cat.claim_evidence import (
    LAST,
    Query,
    TrainedModel,
    assess,
    compare,
    measures,
    models,
    versus,
)
from bench.papers.cat.claim_rules import SMALL, Assessment, at_most, better
from bench.papers.cat.gaussians import UNIT
from bench.papers.cat.stated import CAT
from bench.report.formatting import MINUS, percent
from bench.report.published import REFERENCE
from bench.report.suite_runs import SuiteRuns

_CLEAN = Query(None, checkpoint=LAST, kind="clean")


def beyond_margin(suite: SuiteRuns) -> Assessment:
    """Test a fixed radius beyond the margin against one within it, and CAT against both."""
    found = [
        replace(model, label=f"{model.method} (radius {model.study.eps * UNIT:g})")
        for model in models(suite)
    ]
    fixed = sorted((m for m in found if m.method == REFERENCE), key=lambda m: m.study.eps)
    small, large = fixed[0], fixed[-1]
    cats = [model for model in found if model.method in CAT]
    families = [
        compare(versus([small], [large], _CLEAN), better, detail="the large radius harms"),
        compare(versus(cats, [large], _CLEAN), better, detail="CAT avoids the harm"),
        compare(versus([small], cats, _CLEAN), at_most(SMALL), detail="what CAT loses"),
    ]
    return assess(families, notes=list(_lines(found)))


def _lines(found: Sequence[TrainedModel]) -> Iterator[str]:
    """Yield where each line is, and its accuracy under attack at its own training radius."""
    for model in found:
        for run, record in measures(model, "boundary", LAST):
            values = record.values
            at = ", ".join(
                f"{percent(accuracy)}% at radius {eps:g}"
                for eps, accuracy in zip(values["eps"], values["robust_accuracy"], strict=True)
            )
            offset = values["offset"]
            crosses = "nowhere" if offset is None else f"{offset:.2f}".replace("-", MINUS)
            yield (
                f"{model.label}, seed {run.seed}: the line is rotated by {values['angle']:.1f} "
                f"degrees and crosses the axis at {crosses}; clean accuracy "
                f"{percent(values['clean_accuracy'])}%, robust {at}."
            )
