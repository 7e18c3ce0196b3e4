"""Section 3.5: how far images are from a wrong prediction, and the average of Theorem 3.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.papers.cat.series import grid
from bench.papers.cat.trainings import SuiteMeasure, alarm_note, by_label, captioned, suite_measures
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


@dataclass(frozen=True, kw_only=True)
class ImageMargins:
    """The margins of one method's images, one seed after the other."""

    label: str
    method: str
    margin: NDArray[np.floating[Any]]
    """(n,): 0 for a misclassified image, infinite if nothing broke it."""
    inverses: tuple[float, ...] = ()
    """Mean of 1 / margin of each seed that has one."""
    n_seeds: int = 1

    @property
    def mean_inverse(self) -> float | None:
        """Mean of 1 / margin over the images whose margin is above 0; None without any."""
        positive = self.margin[self.margin > 0]
        return float((1 / positive).mean()) if len(positive) else None


def make_margins(chosen: SuiteRuns) -> Output:
    """Return the margins of input and layers together, of layers, and of the input."""
    measures, lacks = suite_measures(chosen, "margins")
    if not measures:
        return Output(lacks=lacks)
    labels = [one.label for one in measures]
    numbers: dict[str, pd.DataFrame] = {}
    figures: dict[str, Any] = {}
    means = []
    for kind in KINDS:
        name = "margins" if kind == "both" else f"margins-{kind}"
        found = [_margins(label, seeds, kind) for label, seeds in by_label(measures).items()]
        found.sort(key=lambda m: (order(m.method), m.label))
        numbers[name] = pd.DataFrame(
            {"label": m.label, "n": len(m.margin), "image": place, "margin": number(value)}
            for m in found
            for place, value in enumerate(m.margin)
        )
        figures[name] = partial(draw_margins, found, kind, captioned(chosen, labels))
        means += [_means(m, kind) for m in found]
    return Output(
        numbers=numbers | {"margins-mean": pd.DataFrame(means)},
        figures=figures,
        note=f"{alarm_note(labels)} {UPPER_BOUND}".strip(),
        lacks=lacks,
    )


def _margins(label: str, seeds: Sequence[SuiteMeasure], kind: str) -> ImageMargins:
    inverses = (one.record.values[f"mean_inverse_{kind}"] for one in seeds)
    return ImageMargins(
        label=label,
        method=seeds[0].method,
        margin=np.concatenate([one.arrays[f"margin_{kind}"] for one in seeds]),
        inverses=tuple(value for value in inverses if value is not None),
        n_seeds=len(seeds),
    )


def _means(found: ImageMargins, kind: str) -> dict[str, Any]:
    std = stdev(found.inverses) if len(found.inverses) > 1 else None
    return {
        "label": found.label,
        "margin": kind,
        "n": len(found.margin),
        "n_seeds": found.n_seeds,
        "n_above_0": int((found.margin > 0).sum()),
        "mean": number(fmean(found.margin)),
        "mean_inverse": number(found.mean_inverse),
        "mean_inverse_std": number(std),
    }


def draw_margins(found: Sequence[ImageMargins], kind: str, caption: str = "") -> Figure:
    """Draw the share of images with at most each margin; lower and further right is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, max(3.2, 1.0 + 0.21 * len(found))), layout="constrained")
    axes = figure.subplots()
    look = styles(margins.label for margins in found)
    finite = [margins.margin[np.isfinite(margins.margin)] for margins in found]
    right = max((float(values.max()) for values in finite if len(values)), default=1.0) or 1.0
    for margins in found:
        style, (x, y) = look[margins.label], _distribution(margins.margin, right)
        inverse = margins.mean_inverse
        number = MISSING if inverse is None else f"{inverse:.3g}"
        axes.plot(
            x,
            y,
            label=legend_label(f"{margins.label}: {number}"),
            drawstyle="steps-post",
            markevery=max(1, len(x) // _MARKS),
            linewidth=1.4,
            markersize=5.0,
            **style.line,
        )
    axes.set_xlim(-0.02 * right, 1.02 * right)
    axes.set_ylim(-3, 103)
    grid(axes)
    axes.set_xlabel(f"margin, an upper bound (no unit)\n{KINDS[kind]}")
    axes.set_ylabel("images with at most this margin (%)")
    title = f"n = {span([len(margins.margin) for margins in found])} images; at 0: misclassified"
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


def _distribution(
    margin: NDArray[np.floating[Any]], right: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the empirical distribution in percent, from 0 to `right`."""
    values = np.sort(margin[np.isfinite(margin)].astype(np.float64))
    share = 100 * np.arange(1, len(values) + 1) / max(1, len(margin))
    last = share[-1:] if len(share) else np.zeros(1)
    return np.concatenate([[0.0], values, [right]]), np.concatenate([[0.0], share, last])
