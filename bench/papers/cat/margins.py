"""Section 3.5: how far images are from a wrong prediction, and the average of Theorem 3.2.

The paper's own margin, of Definition 3.1, is the measure `bilateral`, on training images like the
theorem's. The all-layer margins of the measure `margins`, on test images, are not the paper's.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.papers.cat.drawing import curve, legend_beside, percent_axis, titled
from bench.papers.cat.parts import alarm_note, captioned, suite_measures
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.formatting import MISSING, span
from bench.report.style import styles
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


def make_margins(chosen: SuiteRuns) -> Output:
    """Return the paper's margin, and the all-layer margins with and without the input."""
    numbers, figures, means, lacks = {}, {}, [], dict[str, None]()
    for kind, (measure, array, _) in KINDS.items():
        measures, missing = suite_measures(chosen, measure)
        lacks |= dict.fromkeys(missing)
        if not measures:
            continue
        rows = pd.concat(
            pd.DataFrame(
                {
                    "label": one.label,
                    "seed": one.run.seed or 0,
                    "margin": one.arrays[array],
                    "bound": one.arrays.get("bound", np.nan),
                }
            )
            for one in measures
        )
        name = "margins" if kind == "both" else f"margins-{kind}"
        by_label = rows.groupby("label", sort=False)
        numbers[name] = pd.DataFrame(
            {
                "label": rows["label"],
                "n": by_label["margin"].transform("size"),
                "image": by_label.cumcount(),
                "margin": rows["margin"].map(number),
            }
        )
        mean = pd.DataFrame(
            {"label": label, "margin": kind} | _means(own) for label, own in by_label
        )
        means.append(mean)
        figures[name] = partial(draw_margins, rows, mean, kind, captioned(chosen, mean["label"]))
    if not means:
        return Output(lacks=tuple(lacks))
    every = pd.concat(means)
    floats = every.columns[every.columns.str.startswith("mean")]
    every[floats] = every[floats].map(lambda value: "" if np.isnan(value) else number(value))
    return Output(
        numbers=numbers | {"margins-mean": every},
        figures=figures,
        note=f"{alarm_note(every['label'])} {UPPER_BOUND}".strip(),
        lacks=tuple(lacks),
    )


def mean_inverse(margin: pd.Series[Any]) -> float:
    """Return the mean of 1 / margin over the images whose margin is above 0; NaN without any."""
    return float((1 / margin[margin > 0]).mean())


def _means(rows: pd.DataFrame) -> dict[str, float]:
    margin, per_seed = rows["margin"], rows.groupby("seed")["margin"]
    return {
        "n": len(margin),
        "n_seeds": len(per_seed),
        "n_above_0": int((margin > 0).sum()),
        "mean": margin.mean(),
        "mean_inverse": mean_inverse(margin),
        "mean_inverse_std": per_seed.apply(mean_inverse).std(),
        "mean_inverse_of_softmax_bound": mean_inverse(rows["bound"]),
    }


def draw_margins(rows: pd.DataFrame, means: pd.DataFrame, kind: str, caption: str = "") -> Figure:
    """Draw the share of images with at most each margin; lower and further right is better.

    rows: `label` and `margin` of each image, 0 if misclassified, infinite if nothing broke it.
    """
    sizes = f"n = {span(list(means['n']))} images; at 0: misclassified"
    figure = titled(_WIDTH, max(3.2, 1.0 + 0.21 * len(means)), (sizes, caption))
    axes = figure.subplots()
    look = styles(means["label"])
    finite = rows[np.isfinite(rows["margin"])]
    right = float(finite["margin"].max()) if len(finite) else 0.0
    right = right or 1.0
    for mean in means.to_dict("records"):
        # the empirical distribution from 0 to the right edge
        x = np.sort(finite["margin"][finite["label"] == mean["label"]].astype(float))
        y = 100 * np.arange(len(x) + 1) / mean["n"]
        inverse, of_bound = mean["mean_inverse"], mean["mean_inverse_of_softmax_bound"]
        text = MISSING if np.isnan(inverse) else f"{inverse:.3g}"
        text += "" if np.isnan(of_bound) else f" ({of_bound:.3g})"
        points = [0.0, *x, right], [*y, y[-1]]
        curve(
            axes, *points, f"{mean['label']}: {text}", look[mean["label"]], drawstyle="steps-post"
        )
    axes.set_xlim(-0.02 * right, 1.02 * right)
    percent_axis(axes, "images with at most this margin (%)")
    axes.set_xlabel(f"margin, an upper bound (no unit)\n{KINDS[kind][-1]}")
    heading = "mean 1 / margin, a lower\nbound (of margins above 0)"
    bounded = means["mean_inverse_of_softmax_bound"].notna().any()
    legend_beside(figure, heading + ("\n(by the softmax alone)" if bounded else ""))
    return figure
