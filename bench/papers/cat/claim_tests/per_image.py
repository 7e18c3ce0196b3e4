"""Claims 7 and 10b: surfaces and margins image by image (Figure 3, section 3.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from statistics import fmean

import numpy as np

from bench.measured import MeasureRecord
from bench.papers.cat.claim_evidence import (
    BASELINES,
    NATURAL,
    TrainedModel,
    assess,
    compare_images,
    hidden,
    measures,
    models,
    studies_with,
)
from bench.papers.cat.claim_rules import Assessment, ratio_above, ratio_below
from bench.report.published import CAT
from bench.report.suite_runs import SuiteRuns

_KINDS = {"both": "input and layers", "input": "input", "layers": "layers"}


def smoother(suite: SuiteRuns, surface: str) -> Assessment:
    """Test each CAT against each other method in the patch's surface: `ce` or `margin`."""
    found = models(suite)
    cats = [model for model in found if model.method in CAT]
    others = [model for model in found if model.method not in (*CAT, NATURAL)]
    natural = [model for model in found if model.method == NATURAL]

    def height(record: MeasureRecord) -> np.ndarray:
        z = record.arrays[surface].astype(np.float64)
        difference: np.ndarray = z.max((1, 2)) - z.min((1, 2))
        return difference

    values = {"highest minus lowest": height}
    if surface == "margin":
        values = {"rise over the margin at x": _relative_rise} | values
    families = [
        compare_images(
            product(cats, group), "landscape", value, ratio_below, detail=detail, decides=decides
        )
        for place, (detail, value) in enumerate(values.items())
        for group, decides in ((others, place == 0), (natural, False))
    ]
    return assess(families, found)


def _relative_rise(record: MeasureRecord) -> np.ndarray:
    """Return highest margin minus that at x, relative to the latter: free of the logits' scale."""
    z = record.arrays["margin"].astype(np.float64)
    centre = z.shape[1] // 2
    at_x = z[:, centre, centre]
    with np.errstate(divide="ignore"):
        rise: np.ndarray = (z.max((1, 2)) - at_x) / np.abs(at_x)
    return rise


def larger_margins(suite: SuiteRuns) -> Assessment:
    """Test each CAT against each baseline; the margin of input and layers together decides."""
    found = models(suite, studies_with(suite, "margins"))
    cats = [model for model in found if model.method in CAT]
    baselines = [model for model in found if model.method in BASELINES]

    families = [
        hidden(
            compare_images(
                product(cats, baselines),
                "margins",
                partial(_margin, kind=kind),
                ratio_above,
                detail=words,
                decides=kind == "both",
            )
        )
        for kind, words in _KINDS.items()
    ]
    both = [*cats, *baselines]
    return assess(families, both, notes=list(_mean_inverse(both)))


def _margin(record: MeasureRecord, kind: str) -> np.ndarray:
    values: np.ndarray = record.arrays[f"margin_{kind}"]
    return values


def _mean_inverse(found: Iterable[TrainedModel]) -> Iterator[str]:
    """Yield the theorem's own quantity, over the images that each model gets right."""
    parts = []
    for model in found:
        values = [r.values.get("mean_inverse_both") for _, r in measures(model, "margins")]
        known = [float(value) for value in values if value is not None]
        if known:
            parts.append(f"{model.label} {fmean(known):.3g}")
    if parts:
        yield (
            "Mean of 1 / margin over the images that each model gets right, so over different "
            f"images: {', '.join(parts)}."
        )
