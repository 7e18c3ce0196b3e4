"""Section 3.5: how far images are from a wrong prediction, and the average of Theorem 3.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.papers.cat.parts import (
    SuiteMeasure,
    alarm_note,
    by_label,
    captioned,
    grid,
    suite_measures,
)
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.export import fitted, legend_label
from bench.report.formatting import MISSING, span
from bench.report.style import order, styles
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Bilateral margins of test images (upper bounds), and the mean of their inverse"
UPPER_BOUND = (
    "Every margin is an upper bound, found by a search that need not find the smallest "
    "perturbation; the mean of 1 / margin is a lower bound."
)
KINDS = {
    "both": "input and all layers perturbed (bilateral margin, our reading)",
    "layers": "all layers perturbed (all-layer margin)",
    "input": "input perturbed, relative to its norm",
}
"""Kind of margin, `margin_KIND` of the records -> what the axis says of it."""
_MARKS = 8
"""Markers on a curve, which distinguish it in grey."""
_WIDTH = 6.2
"""Inches."""
Margins = Mapping[str, NDArray[np.float64]]
"""Label -> (n,) margins of its images, one seed after the other: 0 for a misclassified image,
infinite if nothing broke it."""


def make_margins(chosen: SuiteRuns) -> Output:
    """Return the margins of input and layers together, of layers, and of the input."""
    measures, lacks = suite_measures(chosen, "margins")
    if not measures:
        return Output(lacks=lacks)
    measures.sort(key=lambda one: (order(one.method), one.label))
    seeds = by_label(measures)
    numbers: dict[str, pd.DataFrame] = {}
    figures: dict[str, Any] = {}
    means = []
    for kind in KINDS:
        name = "margins" if kind == "both" else f"margins-{kind}"
        found = {
            label: np.concatenate([one.arrays[f"margin_{kind}"] for one in own])
            for label, own in seeds.items()
        }
        numbers[name] = pd.DataFrame(
            {"label": label, "n": len(margin), "image": place, "margin": number(value)}
            for label, margin in found.items()
            for place, value in enumerate(margin)
        )
        figures[name] = partial(draw_margins, found, kind, captioned(chosen, seeds))
        means += [_means(label, margin, kind, seeds[label]) for label, margin in found.items()]
    return Output(
        numbers=numbers | {"margins-mean": pd.DataFrame(means)},
        figures=figures,
        note=f"{alarm_note(seeds)} {UPPER_BOUND}".strip(),
        lacks=lacks,
    )


def _mean_inverse(margin: NDArray[np.float64]) -> float | None:
    """Return the mean of 1 / margin over the images whose margin is above 0; None without any."""
    positive = margin[margin > 0]
    return float((1 / positive).mean()) if len(positive) else None


def _means(
    label: str, margin: NDArray[np.float64], kind: str, seeds: Sequence[SuiteMeasure]
) -> dict[str, Any]:
    inverses = [one.values[f"mean_inverse_{kind}"] for one in seeds]
    known = [value for value in inverses if value is not None]
    return {
        "label": label,
        "margin": kind,
        "n": len(margin),
        "n_seeds": len(seeds),
        "n_above_0": int((margin > 0).sum()),
        "mean": number(fmean(margin)),
        "mean_inverse": number(_mean_inverse(margin)),
        "mean_inverse_std": number(stdev(known) if len(known) > 1 else None),
    }


def draw_margins(found: Margins, kind: str, caption: str = "") -> Figure:
    """Draw the share of images with at most each margin; lower and further right is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, max(3.2, 1.0 + 0.21 * len(found))), layout="constrained")
    axes = figure.subplots()
    look = styles(found)
    everything = np.concatenate(list(found.values()))
    right = float(everything[np.isfinite(everything)].max(initial=0.0)) or 1.0
    for label, margin in found.items():
        # the empirical distribution from 0 to the right edge
        x = np.sort(margin[np.isfinite(margin)].astype(np.float64))
        y = 100 * np.arange(len(x) + 1) / max(1, len(margin))
        inverse = _mean_inverse(margin)
        text = MISSING if inverse is None else f"{inverse:.3g}"
        axes.plot(
            [0.0, *x, right],
            [*y, y[-1]],
            label=legend_label(f"{label}: {text}"),
            drawstyle="steps-post",
            markevery=max(1, (len(x) + 2) // _MARKS),
            linewidth=1.4,
            markersize=5.0,
            **look[label].line,
        )
    axes.set_xlim(-0.02 * right, 1.02 * right)
    axes.set_ylim(-3, 103)
    grid(axes)
    axes.set_xlabel(f"margin, an upper bound (no unit)\n{KINDS[kind]}")
    axes.set_ylabel("images with at most this margin (%)")
    title = f"n = {span([len(margin) for margin in found.values()])} images; at 0: misclassified"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    figure.legend(
        loc="outside right center",
        frameon=False,
        handlelength=2.8,
        title="mean 1 / margin, a lower\nbound (of margins above 0)",
        title_fontsize=9.0,
        alignment="left",
    )
    return figure
