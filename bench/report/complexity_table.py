"""The table of weight norms: how much larger a network's product is than the reference's."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from bench.report.layout import Line, Table, Text
from bench.report.published import CAT
from bench.report.style import order
from bench.report.units import MINUS, MISSING

COMPLEXITY_CLAIM = (
    "The CAT paper (arXiv 2002.06789, section 3.5) finds products 2.54, 3.53 and 1.39 times its "
    "own network's for training at fixed eps 0.01, 0.02 and 0.03. It names neither the network nor "
    "the norm."
)
COMPLEXITY_LEGEND = (
    "Product over the layers of a norm of their weights, relative to {reference}; above 1: larger. "
    "Weight matrices have a row for each output channel; a convolution's kernel is reshaped. "
    "weights: as stored. folded: BatchNorm multiplied in. Over seeds the geometric mean, "
    "\u00d7\u00f7 its standard deviation as a factor."
)
PAPER_RATIOS = {0.01: 2.54, 0.02: 3.53, 0.03: 1.39}
"""By the fixed radius. The paper names no network; its Table 1 has VGG-16 at these radii."""
COLUMNS = {
    "folded_spectral": "Spectral, folded",
    "folded_frobenius": "Frobenius, folded",
    "folded_max_row_sum": "Max row sum, folded",
    "weights_spectral": "Spectral, weights",
    "weights_frobenius": "Frobenius, weights",
    "weights_max_row_sum": "Max row sum, weights",
}
"""`log10_product_NAME` of the records, and the heading. Folded first: scaling a convolution before
a BatchNorm changes the others alone, and no output."""
_LARGEST = 300
"""Decades that a float holds."""


@dataclass(frozen=True, kw_only=True)
class WeightNorms:
    """One network; the seeds of one way of training share a label."""

    label: str
    method: str
    log10_products: Mapping[str, float | None]
    """By the names of COLUMNS."""
    n_layers: int


def complexity_table(found: Sequence[WeightNorms]) -> Table:
    """A line for each label, ratios to the paper's own method where there is one."""
    groups = _groups(found)
    reference = _reference(groups)
    lines = []
    for label, networks in groups.items():
        cells = [
            _ratio(networks, groups.get(reference or "", []), name, label == reference)
            for name in COLUMNS
        ]
        sizes = sorted({network.n_layers for network in networks})
        counts = (Text(main=", ".join(map(str, sizes))), Text(main=str(len(networks))))
        lines.append(Line(head=(Text(main=label),), cells=(*cells, *counts)))
    return Table(
        headings=("Method", *COLUMNS.values(), "Layers", "Seeds"), lines=tuple(lines), notes=()
    )


def complexity_facts(found: Sequence[WeightNorms]) -> list[str]:
    """What the columns are, and what the paper says; or why nothing is relative."""
    reference = _reference(_groups(found))
    if reference is None:
        missing = f"No network of {' or '.join(CAT)} is among these, so nothing is relative to it: "
        return [f"{missing}the columns are log10 of the products.", COMPLEXITY_CLAIM]
    return [COMPLEXITY_LEGEND.format(reference=reference), COMPLEXITY_CLAIM]


def complexity_csv(found: Sequence[WeightNorms], note: str) -> str:
    """A comment line with `note`, the header, and a line for each network.

    ratio_NAME: its product relative to the geometric mean of the reference's; empty without one,
    and where the ratio is outside the range of a float.
    """
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    products, ratios = (
        [f"{head}_{name}" for name in COLUMNS] for head in ("log10_product", "ratio")
    )
    rows.writerow(["label", "method", "n_layers", *products, *ratios])
    for network, own in zip(ordered(found), relative(found), strict=True):
        values = [network.log10_products.get(name) for name in COLUMNS]
        cells = ["" if value is None else f"{value:.6f}" for value in values]
        cells += [f"{own[name]:.6g}" if name in own else "" for name in COLUMNS]
        rows.writerow([network.label, network.method, network.n_layers, *cells])
    return buffer.getvalue()


def ordered(found: Sequence[WeightNorms]) -> list[WeightNorms]:
    """The networks in the order of the table's lines."""
    return [network for networks in _groups(found).values() for network in networks]


def relative(found: Sequence[WeightNorms]) -> list[dict[str, float]]:
    """Of each network, as `ordered` has them, by the names of COLUMNS: its ratio to the reference.

    A name is left out where there is none, or it is outside the range of a float.
    """
    groups = _groups(found)
    reference = groups.get(_reference(groups) or "", [])
    ratios = []
    for network in ordered(found):
        own = network.log10_products
        logs = {
            name: value - fmean(base)
            for name in COLUMNS
            if (value := own.get(name)) is not None and (base := _logs(reference, name))
        }
        ratios.append({name: 10**log for name, log in logs.items() if abs(log) < _LARGEST})
    return ratios


def _groups(found: Sequence[WeightNorms]) -> dict[str, list[WeightNorms]]:
    """Label -> its networks, in the order of the tables."""
    groups: dict[str, list[WeightNorms]] = {}
    for network in sorted(found, key=lambda n: (order(n.method), n.label)):
        groups.setdefault(network.label, []).append(network)
    return groups


def reference(found: Sequence[WeightNorms]) -> str | None:
    """Label of the network that the others are relative to; None where there is none."""
    return _reference(_groups(found))


def _reference(groups: Mapping[str, Sequence[WeightNorms]]) -> str | None:
    """The label of the paper's own method; of several the plainest, by its shortest label."""
    for method in CAT:
        labels = [label for label, networks in groups.items() if networks[0].method == method]
        if labels:
            return min(labels, key=lambda label: (len(label), label))
    return None


def _ratio(
    networks: Sequence[WeightNorms], reference: Sequence[WeightNorms], name: str, itself: bool
) -> Text:
    own, base = _logs(networks, name), _logs(reference, name)
    if not own or (reference and not base):
        return Text(main=MISSING)
    spread = f"\u00d7\u00f7 {10 ** stdev(own):.2f}" if len(own) > 1 else ""
    if not reference:
        return Text(main=f"{fmean(own):.2f}".replace("-", MINUS), interval=spread)
    return Text(main="1" if itself else _factor(fmean(own) - fmean(base)), interval=spread)


def _logs(networks: Sequence[WeightNorms], name: str) -> list[float]:
    values = [network.log10_products.get(name) for network in networks]
    return [value for value in values if value is not None]


def _factor(log10: float) -> str:
    """`2.54`, or `3.1e+07` where plain digits would not be read."""
    if -2 <= log10 < 4:
        return f"{10**log10:.3g}"
    whole = int(log10 // 1)
    return f"{10 ** (log10 - whole):.1f}e{whole:+03d}"
