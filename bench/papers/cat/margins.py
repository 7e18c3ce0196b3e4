"""Section 3.5: how far images are from a wrong prediction, and the average of Theorem 3.2.

The paper's own margin, of Definition 3.1, is the measure `bilateral`, on training images like the
theorem's. The all-layer margins of the measure `margins`, on test images, are not the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.papers.cat.drawing import grid, titled
from bench.papers.cat.parts import alarm_note, captioned, suite_measures
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.formatting import span
from bench.report.published import shown_name
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
_HEADINGS = {
    "bilateral": "training images:\nDefinition 3.1",
    "both": "test images:\ninput and layers",
    "layers": "test images:\nlayers",
    "input": "test images:\ninput",
}
_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
_WIDTH = 7.0
"""Inches."""


def make_margins(chosen: SuiteRuns) -> Output:
    """Return the paper's margin, and the all-layer margins with and without the input."""
    found: dict[str, pd.DataFrame] = {}
    numbers, means, lacks = {}, [], dict[str, None]()
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
        found[kind] = rows
    if not means:
        return Output(lacks=tuple(lacks))
    every = pd.concat(means)
    floats = every.columns[every.columns.str.startswith("mean")]
    every[floats] = every[floats].map(lambda value: "" if np.isnan(value) else number(value))
    return Output(
        numbers=numbers | {"margins-mean": every},
        figures={"margins": partial(draw_margins, found, captioned(chosen, every["label"]))},
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


def draw_margins(found: Mapping[str, pd.DataFrame], caption: str = "") -> Figure:
    """Draw a panel per kind: median and spread of each method; further right is better.

    found: kind -> `label` and `margin` of each image, 0 if misclassified, infinite if nothing broke
    it; a quantile that is infinite ends at the panel's edge.
    """
    from matplotlib.ticker import MaxNLocator

    labels = list(dict.fromkeys(label for rows in found.values() for label in rows["label"]))
    sizes = [n for rows in found.values() for n in rows.groupby("label").size()]
    facts = f"Panels from the left: {'. '.join(KINDS[kind][-1] for kind in found)}"
    texts = (
        "Margins of the images, upper bounds without a unit",
        f"n = {span(sizes)} images; 0: misclassified; dot: median, lines: 25\u201375%, 10\u201390%",
        facts,
        caption,
    )
    figure = titled(_WIDTH, 1.3 + 0.2 * len(labels), texts)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    look = styles(labels)
    for axes, (kind, rows) in zip(panels, found.items(), strict=True):
        finite = rows["margin"][np.isfinite(rows["margin"])]
        right = float(finite.max() if len(finite) else 0.0) or 1.0
        for place, label in enumerate(labels):
            own = rows["margin"][rows["label"] == label]
            if len(own):  # of whole images: a mean of two is nothing where one is infinite
                q = np.quantile(own, _LEVELS, method="inverted_cdf").clip(max=2 * right)
                line: dict[str, Any] = {"color": look[label].colour, "solid_capstyle": "butt"}
                axes.plot(q[[0, 4]], [place] * 2, linewidth=1.0, **line)
                axes.plot(q[[1, 3]], [place] * 2, linewidth=4.0, alpha=0.45, **line)
                axes.plot(q[2], place, marker=look[label].marker, markersize=6.5, zorder=3, **line)
        axes.set_xlim(-0.03 * right, 1.03 * right)
        axes.set_title(_HEADINGS[kind], fontsize=9.0)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        grid(axes, "x")
    panels[0].set_yticks(range(len(labels)), [shown_name(label) for label in labels])
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    figure.supxlabel("margin, an upper bound (no unit)", fontsize=9.0)
    return figure
