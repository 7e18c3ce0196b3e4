"""Section 3.5: the product of the layers' weight norms, relative to that of CAT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.papers.cat.ratio_axis import ratio_axis
from bench.papers.cat.trainings import SuiteMeasure, alarm_note, captioned, suite_measures
from bench.report.artefact import Output
from bench.report.columns import number
from bench.report.export import Table, fitted
from bench.report.formatting import MINUS, MISSING
from bench.report.published import published
from bench.report.select import same_eps
from bench.report.style import order, styles
from bench.report.suite_runs import SuiteRuns
from bench.suite import load_suite

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
    row["eps"]: row["ratio"] for row in published("cat").more["complexity"]["ratios"]
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
_MARKERS = {"spectral": "o", "frobenius": "s", "max_row_sum": "^"}
_OFFSETS = {"spectral": -0.2, "frobenius": 0.0, "max_row_sum": 0.2}
"""Of a norm's mark from the middle of its row, in rows."""
_SIZES = {"folded": 5.0, "weights": 8.0}
"""The filled mark is visible inside the hollow one."""
_GREY = "#555555"


@dataclass(frozen=True, kw_only=True)
class WeightNorms:
    """One network; the seeds of one way of training share a label."""

    label: str
    method: str
    log10_products: Mapping[str, float | None]
    """By the names of COLUMNS."""
    n_layers: int


@dataclass(frozen=True, kw_only=True)
class NormComparison:
    """Networks by label in the order of the tables, and the one that they are relative to."""

    groups: Mapping[str, Sequence[WeightNorms]]
    reference: str | None
    """Label; None without a network of the paper's own methods."""

    def logs(self, label: str | None, name: str) -> list[float]:
        """Return the known logarithms of a label's networks."""
        values = [network.log10_products.get(name) for network in self.groups.get(label or "", [])]
        return [value for value in values if value is not None]

    def relative(self, network: WeightNorms) -> dict[str, float]:
        """Return the ratios to the reference's geometric mean, by the names of COLUMNS.

        Ratios outside the range of a float are left out.
        """
        ratios = {}
        for name in COLUMNS:
            value, base = network.log10_products.get(name), self.logs(self.reference, name)
            if value is not None and base and abs(value - fmean(base)) < _LARGEST:
                ratios[name] = 10 ** (value - fmean(base))
        return ratios


def make_complexity(chosen: SuiteRuns) -> Output:
    """Return the table of ratios, and their figure if CAT is among the networks."""
    found, lacks = suite_measures(chosen, "complexity")
    if not found:
        return Output(lacks=lacks)
    compared = compare([_norms(one) for one in found])
    labels = list(compared.groups)
    figures = {}
    if compared.reference is None:
        own = " or ".join(published("cat").own)
        lacks = (*lacks, f"no network of {own}: nothing is relative, so nothing is drawn")
    else:
        paper = _paper(chosen, found)
        figures["complexity"] = partial(_draw, compared, paper, captioned(chosen, labels))
    return Output(
        tables={"complexity": complexity_table(compared)},
        numbers={"complexity": complexity_numbers(compared)},
        figures=figures,
        below=[*complexity_reading(compared), *filter(None, [alarm_note(labels)])],
        note=alarm_note(labels),
        lacks=lacks,
    )


def _norms(found: SuiteMeasure) -> WeightNorms:
    values = found.record.values
    return WeightNorms(
        label=found.label,
        method=found.method,
        log10_products={name: values[f"log10_product_{name}"] for name in COLUMNS},
        n_layers=int(values["n_layers"]),
    )


def compare(found: Sequence[WeightNorms]) -> NormComparison:
    """Group the networks, and take the paper's own method as the reference.

    Of its several labels the shortest is the plain one.
    """
    groups: dict[str, list[WeightNorms]] = {}
    for network in sorted(found, key=lambda n: (order(n.method), n.label)):
        groups.setdefault(network.label, []).append(network)
    for method in published("cat").own:
        labels = [label for label, networks in groups.items() if networks[0].method == method]
        if labels:
            plain = min(labels, key=lambda label: (len(label), label))
            return NormComparison(groups=groups, reference=plain)
    return NormComparison(groups=groups, reference=None)


def complexity_table(compared: NormComparison) -> Table:
    """Return a row per label."""
    rows = [
        {
            "Method": label,
            **{heading: _ratio(compared, label, name) for name, heading in COLUMNS.items()},
            "Layers": ", ".join(map(str, sorted({network.n_layers for network in networks}))),
            "Seeds": str(len(networks)),
        }
        for label, networks in compared.groups.items()
    ]
    return Table(text=pd.DataFrame(rows))


def complexity_reading(compared: NormComparison) -> list[str]:
    """Return what the columns are, and what the paper says; or why nothing is relative."""
    paper = published("cat")
    claim = str(paper.more["complexity"]["claim"])
    if compared.reference is None:
        missing = f"No network of {' or '.join(paper.own)} is among these, so nothing is relative "
        return [f"{missing}to it: the columns are log10 of the products.", claim]
    return [_READING.format(reference=compared.reference), claim]


def complexity_numbers(compared: NormComparison) -> pd.DataFrame:
    """Return a row per network.

    ratio_NAME: its product relative to the geometric mean of the reference's; empty without one,
    and outside the range of a float.
    """
    rows = []
    for networks in compared.groups.values():
        for network in networks:
            own = compared.relative(network)
            rows.append(
                {"label": network.label, "method": network.method, "n_layers": network.n_layers}
                | {f"log10_product_{name}": network.log10_products.get(name) for name in COLUMNS}
                | {f"ratio_{name}": number(own.get(name)) for name in COLUMNS}
            )
    return pd.DataFrame(rows)


def _ratio(compared: NormComparison, label: str, name: str) -> str:
    own, base = compared.logs(label, name), compared.logs(compared.reference, name)
    if not own or (compared.reference and not base):
        return MISSING
    spread = f" \u00d7\u00f7 {10 ** stdev(own):.2f}" if len(own) > 1 else ""
    if not compared.reference:
        return f"{fmean(own):.2f}".replace("-", MINUS) + spread
    return ("1" if label == compared.reference else _factor(fmean(own) - fmean(base))) + spread


def _factor(log10: float) -> str:
    """Return `2.54`, or `3.1e+07` if plain digits would be hard to read."""
    if -2 <= log10 < 4:
        return f"{10**log10:.3g}"
    whole = int(log10 // 1)
    return f"{10 ** (log10 - whole):.1f}e{whole:+03d}"


def _paper(chosen: SuiteRuns, found: Sequence[SuiteMeasure]) -> dict[str, float]:
    """Return label -> the paper's ratio; a smaller size has other radii in the same order."""
    full = load_suite(chosen.suite.name).studies
    ratios: dict[str, float] = {}
    for study, own in zip(full, chosen.studies, strict=True):
        ids = {run.run_id for runs in own.runs.values() for run in runs}
        stated = [ratio for eps, ratio in PAPER_RATIOS.items() if same_eps(study.eps, eps)]
        ratios |= {one.label: ratio for ratio in stated for one in found if one.run.run_id in ids}
    return ratios


def _draw(compared: NormComparison, paper: Mapping[str, float], caption: str) -> Figure:
    """Draw a mark per seed; filled: BatchNorm folded in; hollow: weights as stored."""
    from matplotlib.figure import Figure

    labels = list(compared.groups)
    figure = Figure(figsize=(_WIDTH, 1.9 + 0.38 * len(labels)), layout="constrained")
    axes = figure.subplots()
    look = styles(networks[0].method for networks in compared.groups.values())
    for row, networks in enumerate(compared.groups.values()):
        for network in networks:
            for name, ratio in compared.relative(network).items():
                variant, _, norm = name.partition("_")
                axes.plot(
                    ratio,
                    row + _OFFSETS[norm],
                    linestyle="",
                    zorder=3 if variant == "folded" else 2,
                    **_mark(name, look[network.method].colour),
                )
    for label, ratio in paper.items():
        axes.plot(ratio, labels.index(label), linestyle="", marker="x", color=_GREY, zorder=0)
    ratio_axis([axes], labels)
    axes.set_xlabel(f"ratio to {compared.reference} (log scale); above 1: larger")
    _legend(figure, bool(paper))
    title = "Product of the layers' weight norms, relative to the reference"
    figure.suptitle(fitted((title, caption), _WIDTH), fontsize=9.0)
    return figure


def _legend(figure: Figure, with_paper: bool) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], linestyle="", label=heading, **_mark(name, _GREY))
        for name, heading in COLUMNS.items()
    ]
    if with_paper:
        text = "the paper's, at eps 0.01, 0.02, 0.03\n(network and norm unstated)"
        marks.append(Line2D([], [], linestyle="", color=_GREY, marker="x", label=text))
    figure.legend(handles=marks, loc="outside lower center", frameon=False, ncols=2)


def _mark(name: str, colour: str) -> dict[str, Any]:
    variant, _, norm = name.partition("_")
    return {
        "marker": _MARKERS[norm],
        "markersize": _SIZES[variant],
        "color": colour,
        "markerfacecolor": colour if variant == "folded" else "white",
    }
