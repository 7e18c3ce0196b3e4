"""Section 3.5: the product of the layers' weight norms, relative to that of CAT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.experiments.suite import load_suite
from bench.papers.cat.drawing import grid, legend_below, one_line, ratio_axis, titled
from bench.papers.cat.parts import SuiteMeasure, alarm_note, captioned, suite_measures
from bench.papers.cat.stated import STATED
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.export import Table
from bench.report.formatting import MINUS, MISSING
from bench.report.frame import same_eps
from bench.report.published import shown_name
from bench.report.style import styles
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Weight norms of networks trained at fixed radii, relative to CAT's"
COLUMNS = {
    "folded_spectral": "Spectral, folded",
    "folded_frobenius": "Frobenius, folded",
    "folded_max_row_sum": "Max row sum, folded",
    "weights_spectral": "Spectral, weights",
    "weights_frobenius": "Frobenius, weights",
    "weights_max_row_sum": "Max row sum, weights",
}
"""`log10_product_NAME` of the records -> heading. Folded first: scaling a convolution before a
BatchNorm changes only the others, and no output."""
PAPER_RATIOS: dict[float, float] = {
    row["eps"]: row["ratio"] for row in STATED.more["complexity"]["ratios"]
}
"""By the fixed radius. The paper names no network; its Table 1 has VGG-16 at these radii."""
_PRODUCTS = [f"log10_product_{name}" for name in COLUMNS]
_READING = (
    "Product over the layers of a norm of their weights, relative to {reference}; above 1: larger. "
    "Weight matrices have a row for each output channel; a convolution's kernel is reshaped. "
    "weights: as stored. folded: BatchNorm multiplied in. Over seeds the geometric mean, "
    "\u00d7\u00f7 its standard deviation as a factor."
)
_WIDTH = 6.4
"""Inches."""
_NORMS = {"spectral": "spectral", "frobenius": "Frobenius", "max_row_sum": "max row sum"}
_VARIANTS = (("folded", -0.15, 25.0, "BatchNorm folded in"), ("weights", 0.15, 36.0, "as stored"))
"""Of the weights: name, distance from the middle of a row, size of a mark, label."""
_PAPER = "the paper's (network and norm unstated)"
_GREY = "#555555"
_LARGEST = 300
"""Decades that a float holds."""


def make_complexity(chosen: SuiteRuns) -> Output:
    """Return the table of ratios, and their figure if CAT is among the networks."""
    found, lacks = suite_measures(chosen, "complexity")
    if not found:
        return Output(lacks=lacks)
    networks = pd.DataFrame(
        {
            "label": one.label,
            "method": one.run.method,
            "n_layers": int(one.record.values["n_layers"]),
        }
        | {name: one.record.values[name] for name in _PRODUCTS}
        for one in found
    )
    networks, reference = with_ratios(networks)
    figures, note = {}, alarm_note(networks["label"])
    if reference is None:
        own = " or ".join(STATED.own)
        lacks = (*lacks, f"no network of {own}: nothing is relative, so nothing is drawn")
        reading = f"No network of {own} is among these, so nothing is relative "
        reading += "to it: the columns are log10 of the products."
    else:
        reading = _READING.format(reference=reference)
        caption = captioned(chosen, networks["label"])
        paper = _paper(chosen, found)
        if networks["label"].nunique() > 1:
            figures["complexity"] = partial(_draw, networks, reference, paper, caption)
    ratios = [f"ratio_{name}" for name in COLUMNS]
    numbers = networks[ratios].map(lambda v: "" if pd.isna(v) else number(v))
    return Output(
        tables={"complexity": Table(text=complexity_text(networks, reference))},
        numbers={"complexity": networks.assign(**numbers)},
        figures=figures,
        below=[reading, str(STATED.more["complexity"]["claim"]), *filter(None, [note])],
        note=note,
        lacks=lacks,
    )


def with_ratios(networks: pd.DataFrame) -> tuple[pd.DataFrame, str | None]:
    """Return the networks with their ratios to the reference, and its label.

    networks: a row per seed with label, method, n_layers and log10_product_NAME for COLUMNS. The
    added `ratio_NAME` is the product relative to the geometric mean of the reference's: NaN
    without one, and outside the range of a float. The reference is the paper's own method, of its
    several labels the shortest; None without any.
    """
    logs = networks[_PRODUCTS].astype(float)
    own = [method for method in STATED.own if method in set(networks["method"])]
    labels: Sequence[str] = networks["label"][networks["method"].isin(own[:1])].tolist()
    reference = min(labels, key=lambda label: (len(label), label), default=None)
    apart = logs - logs[networks["label"] == reference].mean()
    ratios = (10 ** apart.where(apart.abs() < _LARGEST)).set_axis(
        [f"ratio_{name}" for name in COLUMNS], axis=1
    )
    return networks.assign(**logs).join(ratios), reference


def complexity_text(networks: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """Return a row per label: ratios to the reference, or log10 of the products without one."""
    by_label = networks.groupby("label", sort=False)
    means, stds = by_label[_PRODUCTS].mean(), by_label[_PRODUCTS].std()
    if reference:
        means -= means.loc[reference]
    spreads = (10**stds).map(lambda v: "" if pd.isna(v) else f" \u00d7\u00f7 {v:.2f}")
    text = means.map(_factor if reference else _signed) + spreads
    text[means.isna()] = MISSING
    layers = by_label["n_layers"].agg(lambda n: ", ".join(map(str, sorted(set(n)))))
    text = text.set_axis(list(COLUMNS.values()), axis=1)
    text = text.assign(Layers=layers, Seeds=by_label.size().map(str))
    text.index = text.index.map(shown_name)
    return text.reset_index(names="Method")


def _signed(log10: float) -> str:
    return f"{log10:.2f}".replace("-", MINUS)


def _factor(log10: float) -> str:
    """Return `2.54`, or `3.1e+07` if plain digits would be hard to read."""
    if pd.isna(log10):
        return MISSING
    if -2 <= log10 < 4:
        return f"{10**log10:.3g}"
    whole = int(log10 // 1)
    return f"{10 ** (log10 - whole):.1f}e{whole:+03d}"


def _paper(chosen: SuiteRuns, found: Sequence[SuiteMeasure]) -> dict[str, float]:
    """Return label -> the paper's ratio; a smaller size has other radii in the same order."""
    full = load_suite(chosen.suite.name).studies
    stated = [
        (own.study.eps, ratio)
        for study, own in zip(full, chosen.studies, strict=True)
        for eps, ratio in PAPER_RATIOS.items()
        if same_eps(study.eps, eps)
    ]
    return {one.label: ratio for eps, ratio in stated for one in found if same_eps(one.eps, eps)}


def _draw(
    networks: pd.DataFrame, reference: str, paper: Mapping[str, float], caption: str
) -> Figure:
    """Draw a panel per norm and a mark per seed; the reference, at 1, is a line."""
    from matplotlib.ticker import LogLocator

    networks = networks[networks["label"] != reference]
    labels = list(networks["label"].unique())
    paper = {label: ratio for label, ratio in paper.items() if label in labels}
    title = f"Product of the layers' weight norms, relative to {shown_name(reference)}"
    figure = titled(_WIDTH, 1.6 + 0.3 * len(labels), (title, caption))
    look = styles(networks["method"])
    colours = [look[method].colour for method in networks["method"]]
    rows = networks["label"].map(labels.index)
    panels = figure.subplots(1, len(_NORMS), sharex=True, sharey=True)
    for axes, (norm, heading) in zip(panels, _NORMS.items(), strict=True):
        for variant, above, size, name in _VARIANTS:
            faces = colours if variant == "folded" else "white"
            mark: dict[str, Any] = {"marker": "o", "s": size, "edgecolors": colours, "zorder": 3}
            axes.scatter(networks[f"ratio_{variant}_{norm}"], rows + above, c=faces, **mark)
            face = _GREY if variant == "folded" else "white"  # for the legend
            axes.scatter([], [], label=name, marker="o", s=size, c=face, edgecolors=_GREY)
        if paper:
            at = [labels.index(label) for label in paper]
            cross: dict[str, Any] = {"marker": "x", "color": _GREY, "linewidths": 1.0}
            axes.scatter(list(paper.values()), at, label=_PAPER, **cross)
        one_line(axes)
        grid(axes, "both")
        axes.set_title(heading)
    ratio_axis(panels[0], [shown_name(label) for label in labels])
    panels[0].xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    text = f"ratio to {shown_name(reference)} (dotted; log scale); above 1: larger"
    panels[len(panels) // 2].set_xlabel(text)
    legend_below(figure, 3)
    return figure
