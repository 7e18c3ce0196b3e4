"""Claim 7: the loss around an image is smoother (Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from bench.measured import MeasureRecord
from bench.report.claims.claim import Claim, Finding, Tested, conclude
from bench.report.claims.evidence import models
from bench.report.claims.medians import Figure, ratio_findings
from bench.report.claims.paper import NATURAL
from bench.report.claims.wording import RATIO_BELOW
from bench.report.published import CAT
from bench.report.suite_runs import SuiteRuns

_MEASURE = "landscape"


def _range(name: str) -> Figure:
    """Highest minus lowest point of the patch."""

    def figure(record: MeasureRecord) -> np.ndarray:
        z = record.arrays[name].astype(np.float64)
        found: np.ndarray = z.max((1, 2)) - z.min((1, 2))
        return found

    return figure


def _relative_rise(record: MeasureRecord) -> np.ndarray:
    """Highest margin minus that at x, in units of the latter's size: free of the logits' scale."""
    z = record.arrays["margin"].astype(np.float64)
    centre = z.shape[1] // 2
    at_x = z[:, centre, centre]
    with np.errstate(divide="ignore"):
        found: np.ndarray = (z.max((1, 2)) - at_x) / np.abs(at_x)
    return found


def _patch(chosen: SuiteRuns, figures: Mapping[str, Figure]) -> Tested:
    """Each CAT against each other method in each figure, the first of which decides."""
    found = models(chosen)
    cats = [model for model in found if model.method in CAT]
    rivals = [model for model in found if model.method not in (*CAT, NATURAL)]
    natural = [model for model in found if model.method == NATURAL]
    findings: list[Finding] = []
    lacks: list[str] = []
    for place, (detail, figure) in enumerate(figures.items()):
        for others, decides in ((rivals, place == 0), (natural, False)):
            rows, missing = ratio_findings(
                list(product(cats, others)),
                _MEASURE,
                figure,
                larger=False,
                detail=detail,
                decides=decides,
            )
            findings += rows
            lacks += missing if decides else []
    concerned = [model.concerned() for model in found if model.runs]
    return conclude(findings, lacks=lacks, models=concerned)


_SAYS = (
    "Around test images the loss of CAT is lower and smoother than that of other adversarial "
    "training, along the gradient's sign and along random signs"
)
_PATCH = (
    "over the patch of 2 eps either way along both directions, image by image, best checkpoints. "
    "First and second: medians over the images. Natural training stands beside and decides nothing."
)
_RANGE = "highest minus lowest"
_RISE = "rise over the margin at x"

CLAIMS = (
    Claim(
        key="7a",
        title="CAT's cross entropy is smoother around an image",
        says=f"{_SAYS}.",
        source="section 4.3, Figure 3",
        measured=(
            f"Cross entropy, highest minus lowest {_PATCH} Training on soft labels keeps cross "
            "entropy from rising and falling, so a low surface here need not mean robustness: see "
            "7b."
        ),
        rule=RATIO_BELOW,
        columns=("CAT", "Other", "Median ratio"),
        suite="figure3",
        test=lambda chosen: _patch(chosen, {_RANGE: _range("ce")}),
    ),
    Claim(
        key="7b",
        title="CAT's margin rises less around an image",
        says=f"{_SAYS}: asked of the margin, which soft labels do not bound by construction.",
        source="section 4.3, Figure 3; the margin is ours",
        measured=(
            "The margin (best wrong logit minus the true one): its rise from x to the highest "
            f"point, over the size of the margin at x, {_PATCH} Above 1 the prediction turns. The "
            "size of the logits cancels. It does not in highest minus lowest, which a training "
            "that shrinks or swells the logits moves without changing a decision: it stands "
            "beside and decides nothing."
        ),
        rule=RATIO_BELOW,
        columns=("CAT", "Other", "Median ratio"),
        suite="figure3",
        test=lambda chosen: _patch(chosen, {_RISE: _relative_rise, _RANGE: _range("margin")}),
    ),
)
