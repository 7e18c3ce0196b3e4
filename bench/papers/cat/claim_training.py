"""Whether a training reached what its method is about.

A method is trained if its radius per image, where it has one, has reached its bound and come to
rest, and if its robust validation accuracy no longer rises. Otherwise a comparison is one of
schedules, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from statistics import fmean
from typing import Any

from bench.eps import REFERENCE_EPS
from bench.records import QUANTILES, RunRecord
from bench.report.formatting import percent
from bench.report.statistics import wilson

STILL = 0.02
"""The median radius may move by this share of eps over the last tenth of the epochs."""
_SUFFIX = "_quantiles"
_MEDIAN = QUANTILES.index(0.5)


def untrained(runs: Sequence[RunRecord]) -> str:
    """Return why the trainings of one method, a seed each, do not count; empty if they do.

    Radii must be at their bound and at rest in every seed; the accuracy, which is measured on few
    images, must be on its plateau in the mean over the seeds.
    """
    found = [reason for run in runs for reason in _radius(run)]
    if found or not runs:
        return found[0] if found else ""
    return _plateau(runs)


def _radius(run: RunRecord) -> Iterator[str]:
    """Yield what is wrong with the radii, or margins, of the images of one training."""
    last = run.history[-1] if run.history else {}
    eps = float(run.spec["eps"])
    for name in (key for key in last if key.endswith(_SUFFIX) and eps):
        medians = [float(epoch[name][_MEDIAN]) / eps for epoch in _last(run.history, 10)]
        largest = float(last[name][-1]) / eps
        cap = (run.spec["params"].get("eps_max") or REFERENCE_EPS) / REFERENCE_EPS
        # a margin is what training makes it; a radius is what the training was given
        if name == f"radius{_SUFFIX}" and largest < min(cap, 1.0) - 1e-3:
            yield f"median radius {medians[-1]:.2f} eps, largest {largest:.2f} eps"
        elif (moved := max(medians) - min(medians)) > STILL or len(medians) < 2:
            what = name.removesuffix(_SUFFIX)
            yield f"{what} still moves by {percent(moved)}% of eps"


def _plateau(runs: Sequence[RunRecord]) -> str:
    """Return that the accuracy still rises by more than half of Wilson's half-width; or nothing."""
    scored = [
        [epoch for epoch in run.history if epoch.get("val_robust") is not None] for run in runs
    ]
    ends = [_last(epochs, 5) for epochs in scored]
    if not all(len(end) > 1 and end[-1].get("n_val") for end in ends):
        return "no robust validation accuracy on record"
    value = fmean(end[-1]["val_robust"] for end in ends)
    rise = value - fmean(end[0]["val_robust"] for end in ends)
    n = min(int(end[-1]["n_val"]) for end in ends)
    low, high = wilson(round(value * n), n)
    if rise <= (high - low) / 4:
        return ""
    return f"robust accuracy still rises, by {percent(rise)} points"


def _last(epochs: Sequence[Mapping[str, Any]], part: int) -> Sequence[Mapping[str, Any]]:
    """Return the last of `part` equal parts of the epochs, rounded up, and the epoch before it."""
    return epochs[-1 - ceil(len(epochs) / part) :]
