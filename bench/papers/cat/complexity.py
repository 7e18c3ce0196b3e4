"""Section 3.5: the product of the layers' weight norms, relative to that of CAT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.papers.cat.parts import SuiteMeasure, alarm_note, captioned, suite_measures
from bench.papers.cat.stated import STATED
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.export import Table, fitted
from bench.report.formatting import MINUS, MISSING
from bench.report.frame import same_eps
from bench.report.style import order, styles
from bench.report.suite_runs import SuiteRuns
from bench.suite import load_suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
_READING = (
    "Product over the layers of a norm of their weights, relative to {reference}; above 1: larger. "
    "Weight matrices have a row for each output channel; a convolution's kernel is reshaped. "
    "weights: as stored. folded: BatchNorm multiplied in. Over seeds the geometric mean, "
    "\u00d7\u00f7 its standard deviation as a factor."
)
_LARGEST = 300
"""Decades that a float holds."""
_WIDTH = 6.4
"""Inches."""
_MARKERS = {"spectral": ("o", -0.2), "frobenius": ("s", 0.0), "max_row_sum": ("^", 0.2)}
"""Norm -> its mark, and how far it is from the middle of its row, in rows."""
_GREY = "#555555"
_NARROW = 30
"""Largest ratio of the axis' ends at which every label has room."""


def make_complexity(chosen: SuiteRuns) -> Output:
    """Return the table of ratios, and their figure if CAT is among the networks."""
    found, lacks = suite_measures(chosen, "complexity")
    if not found:
        return Output(lacks=lacks)
    products = [f"log10_product_{name}" for name in COLUMNS]
    networks, reference = with_ratios(
        {"label": one.label, "method": one.method, "n_layers": int(one.values["n_layers"])}
        | {name: one.values[name] for name in products}
        for one in found
    )
    figures, note = {}, alarm_note(networks["label"])
    if reference is None:
        own = " or ".join(STATED.own)
        lacks = (*lacks, f"no network of {own}: nothing is relative, so nothing is drawn")
        reading = f"No network of {own} is among these, so nothing is relative "
        reading += "to it: the columns are log10 of the products."
    else:
        reading = _READING.format(reference=reference)
        draw = partial(_draw, networks, reference, _paper(chosen, found))
        figures["complexity"] = partial(draw, captioned(chosen, networks["label"]))
    ratios = [f"ratio_{name}" for name in COLUMNS]
    numbers = {r: networks[r].map(lambda v: number(None if pd.isna(v) else v)) for r in ratios}
    return Output(
        tables={"complexity": Table(text=complexity_text(networks, reference))},
        numbers={"complexity": networks.assign(**numbers)},
        figures=figures,
        below=[reading, str(STATED.more["complexity"]["claim"]), *filter(None, [note])],
        note=note,
        lacks=lacks,
    )


def with_ratios(rows: Iterable[dict[str, Any]]) -> tuple[pd.DataFrame, str | None]:
    """Return a row per network in the order of the tables, and the label of the reference.

    rows: mappings with label, method, n_layers and log10_product_NAME for COLUMNS; the seeds of
    one way of training share a label. `ratio_NAME` is added: the product relative to the
    geometric mean of the reference's; NaN without one, and outside the range of a float. The
    reference is the paper's own method, of its several labels the shortest; None without any.
    """
    ordered = sorted(rows, key=lambda row: (order(row["method"]), row["label"]))
    networks = pd.DataFrame(ordered)
    methods = dict(zip(networks["label"], networks["method"], strict=True))
    own = [label for method in STATED.own for label in methods if methods[label] == method]
    same = [label for label in own if methods[label] == methods[own[0]]]
    reference = min(same, key=lambda label: (len(label), label), default=None)
    for name in COLUMNS:
        logs = networks[f"log10_product_{name}"] = networks[f"log10_product_{name}"].astype(float)
        apart = logs - logs[networks["label"] == reference].mean()
        networks[f"ratio_{name}"] = 10 ** apart.where(apart.abs() < _LARGEST)
    return networks, reference


def complexity_text(networks: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """Return a row per label: ratios to the reference, or log10 of the products without one."""
    base = networks[networks["label"] == reference]
    rows = []
    for label, own in networks.groupby("label", sort=False):
        row = {"Method": label}
        for name, heading in COLUMNS.items():
            logs, others = (part[f"log10_product_{name}"].dropna() for part in (own, base))
            if logs.empty or (reference and others.empty):
                row[heading] = MISSING
                continue
            mean = f"{logs.mean():.2f}".replace("-", MINUS)
            if reference:
                mean = "1" if label == reference else _factor(logs.mean() - others.mean())
            spread = f" \u00d7\u00f7 {10 ** logs.std():.2f}" if len(logs) > 1 else ""
            row[heading] = mean + spread
        layers = ", ".join(map(str, sorted(set(own["n_layers"]))))
        rows.append(row | {"Layers": layers, "Seeds": str(len(own))})
    return pd.DataFrame(rows)


def _factor(log10: float) -> str:
    """Return `2.54`, or `3.1e+07` if plain digits would be hard to read."""
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
    """Draw a mark per seed; filled: BatchNorm folded in; hollow: weights as stored."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    labels = list(dict.fromkeys(networks["label"]))
    figure = Figure(figsize=(_WIDTH, 1.9 + 0.38 * len(labels)), layout="constrained")
    axes = figure.subplots()
    look = styles(networks["method"])
    for network in networks.to_dict("records"):
        for name in COLUMNS:
            ratio, (variant, _, norm) = network[f"ratio_{name}"], name.partition("_")
            if pd.notna(ratio):
                axes.plot(
                    ratio,
                    labels.index(network["label"]) + _MARKERS[norm][1],
                    linestyle="",
                    zorder=3 if variant == "folded" else 2,
                    **_mark(name, look[network["method"]].colour),
                )
    for label, ratio in paper.items():
        axes.plot(ratio, labels.index(label), linestyle="", marker="x", color=_GREY, zorder=0)
    ratio_axis([axes], labels)
    axes.set_xlabel(f"ratio to {reference} (log scale); above 1: larger")
    marks = [
        Line2D([], [], linestyle="", label=heading, **_mark(name, _GREY))
        for name, heading in COLUMNS.items()
    ]
    if paper:
        text = "the paper's, at eps 0.01, 0.02, 0.03\n(network and norm unstated)"
        marks.append(Line2D([], [], linestyle="", color=_GREY, marker="x", label=text))
    figure.legend(handles=marks, loc="outside lower center", frameon=False, ncols=2)
    title = "Product of the layers' weight norms, relative to the reference"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    return figure


def _mark(name: str, colour: str) -> dict[str, Any]:
    """Return a filled mark, or a hollow one inside which the filled one is visible."""
    variant, _, norm = name.partition("_")
    folded = variant == "folded"
    return {
        "marker": _MARKERS[norm][0],
        "markersize": 5.0 if folded else 8.0,
        "color": colour,
        "markerfacecolor": colour if folded else "white",
    }


def ratio_axis(
    panels: Sequence[Axes],
    labels: Sequence[str],
    *,
    steps: tuple[float, ...] | None = None,
    room: float = 0.0,
) -> None:
    """Scale panels of ratios that share their axes; call it after the points are drawn.

    steps: labelled multiples of a power of ten; by default as many as have room. room: added to
    the right, in lengths of the axis. The rows are numbered from the top, and 1 is a dotted line.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    first = panels[0]
    first.set_xscale("log")
    low, high = first.get_xlim()
    first.set_xlim(low, high * (high / low) ** room)
    if steps is None and high / low < 1000:
        steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < _NARROW else (1.0, 2.0, 5.0)
    if steps is not None:
        first.xaxis.set_major_locator(LogLocator(subs=steps))
    first.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}")
    first.xaxis.set_minor_locator(NullLocator())
    first.set_yticks(range(len(labels)), labels)
    first.set_ylim(len(labels) - 0.5, -0.5)
    for axes in panels:
        axes.axvline(1, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
        axes.tick_params(axis="y", length=0)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
