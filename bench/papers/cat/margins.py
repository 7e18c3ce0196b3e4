"""Section 3.5: how far images are from a wrong prediction, and the average of Theorem 3.2.

The paper's own margin, of Definition 3.1, is the measure `bilateral`, on training images like the
theorem's. The all-layer margins of the measure `margins`, on test images, are not the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.papers.cat.epochs import draw_curve, legend_beside
from bench.papers.cat.parts import alarm_note, by_label, captioned, grid, suite_measures
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.export import fitted
from bench.report.formatting import MISSING, span
from bench.report.style import order, styles
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = (
    "Bilateral margins of Definition 3.1 on training images, and all-layer margins on test images, "
    "with the mean of their inverse (upper bounds of margins)"
)
UPPER_BOUND = (
    "Every margin is an upper bound, found by a search that need not find the smallest "
    "perturbation; the mean of 1 / margin is a lower bound. The paper's margin (Definition 3.1) is "
    "that of input and softmax output; those of layers are not the paper's. The softmax output "
    "alone bounds the paper's margin, so soft labels lower it: the mean of 1 / that bound is next "
    "to its own."
)
KINDS = {
    "bilateral": (
        *("bilateral", "margin"),
        "training images; input and softmax output perturbed: Definition 3.1",
    ),
    "both": (
        *("margins", "margin_both"),
        "test images; input and all layers perturbed: not Definition 3.1",
    ),
    "layers": (
        *("margins", "margin_layers"),
        "test images; all layers perturbed: all-layer margin, not Definition 3.1",
    ),
    "input": ("margins", "margin_input", "test images; input perturbed, relative to its norm"),
}
"""Kind of margin -> its measure, its array in the records, and what the axis says of it."""
_WIDTH = 6.2
"""Inches."""
Margins = Mapping[str, NDArray[np.float64]]
"""Label -> (n,) margins of its images, one seed after the other: 0 for a misclassified image,
infinite if nothing broke it."""


def make_margins(chosen: SuiteRuns) -> Output:
    """Return the paper's margin, and the all-layer margins with and without the input."""
    numbers: dict[str, pd.DataFrame] = {}
    figures: dict[str, Any] = {}
    means, labels, lacks = [], dict[str, None](), dict[str, None]()
    for kind, (measure, array, _) in KINDS.items():
        measures, missing = suite_measures(chosen, measure)
        measures.sort(key=lambda one: (order(one.method), one.label))
        seeds = by_label(measures)
        lacks, labels = lacks | dict.fromkeys(missing), labels | dict.fromkeys(seeds)
        if not seeds:
            continue
        per_seed = {label: [one.arrays[array] for one in own] for label, own in seeds.items()}
        found = {label: np.concatenate(own) for label, own in per_seed.items()}
        bounds = {
            label: np.concatenate([one.arrays["bound"] for one in own])
            for label, own in (seeds.items() if kind == "bilateral" else ())
        }
        name = "margins" if kind == "both" else f"margins-{kind}"
        numbers[name] = pd.DataFrame(
            {"label": label, "n": len(margin), "image": place, "margin": number(value)}
            for label, margin in found.items()
            for place, value in enumerate(margin)
        )
        figures[name] = partial(draw_margins, found, kind, captioned(chosen, seeds), bounds)
        means += [
            {"label": label, "margin": kind} | _means(own, bounds.get(label))
            for label, own in per_seed.items()
        ]
    if not means:
        return Output(lacks=tuple(lacks))
    return Output(
        numbers=numbers | {"margins-mean": pd.DataFrame(means)},
        figures=figures,
        note=f"{alarm_note(labels)} {UPPER_BOUND}".strip(),
        lacks=tuple(lacks),
    )


def _mean_inverse(margin: NDArray[np.float64] | None) -> float | None:
    """Return the mean of 1 / margin over the images whose margin is above 0; None without any."""
    if margin is None or not (margin > 0).any():
        return None
    return float((1 / margin[margin > 0]).mean())


def _means(
    seeds: Sequence[NDArray[np.float64]], bound: NDArray[np.float64] | None
) -> dict[str, Any]:
    margin = np.concatenate(seeds)
    known = [value for value in map(_mean_inverse, seeds) if value is not None]
    return {
        "n": len(margin),
        "n_seeds": len(seeds),
        "n_above_0": int((margin > 0).sum()),
        "mean": number(fmean(margin)),
        "mean_inverse": number(_mean_inverse(margin)),
        "mean_inverse_std": number(stdev(known) if len(known) > 1 else None),
        "mean_inverse_of_softmax_bound": number(_mean_inverse(bound)),
    }


def draw_margins(
    found: Margins, kind: str, caption: str = "", bounds: Margins | None = None
) -> Figure:
    """Draw the share of images with at most each margin; lower and further right is better.

    bounds: of the margins, by the softmax output alone; the legend has the mean of their inverse.
    """
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
        inverse, of_bound = map(_mean_inverse, (margin, (bounds or {}).get(label)))
        text = MISSING if inverse is None else f"{inverse:.3g}"
        text += "" if of_bound is None else f" ({of_bound:.3g})"
        line = [0.0, *x, right], [*y, y[-1]], f"{label}: {text}"
        draw_curve(axes, *line, look[label], drawstyle="steps-post")
    axes.set_xlim(-0.02 * right, 1.02 * right)
    axes.set_ylim(-3, 103)
    grid(axes)
    axes.set_xlabel(f"margin, an upper bound (no unit)\n{KINDS[kind][-1]}")
    axes.set_ylabel("images with at most this margin (%)")
    title = f"n = {span([len(margin) for margin in found.values()])} images; at 0: misclassified"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    heading = "mean 1 / margin, a lower\nbound (of margins above 0)"
    legend_beside(figure, heading + ("\n(by the softmax alone)" if bounds else ""))
    return figure
