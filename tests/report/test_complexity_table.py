from __future__ import annotations

import csv
import io

import pytest

from bench.report.complexity_table import (
    COLUMNS,
    WeightNorms,
    complexity_csv,
    complexity_facts,
    complexity_table,
)
from bench.report.markdown import markdown


def network(method: str, log10: float | None, label: str = "") -> WeightNorms:
    return WeightNorms(
        label=label or method,
        method=method,
        log10_products=dict.fromkeys(COLUMNS, log10),
        n_layers=5,
    )


def column(networks: list[WeightNorms]) -> dict[str, str]:
    return {
        line.head[0].main: " ".join(filter(None, (line.cells[0].main, line.cells[0].interval)))
        for line in complexity_table(networks).lines
    }


def test_ratios_are_to_the_paper_s_method_beyond_the_range_of_a_float() -> None:
    found = column(
        [
            network("cat-mix", 400.2),
            network("cat-ce", 400.0),
            network("madry", 400.40483),
            network("trades", 407.5),
            network("natural", 20.0),
            network("mart", None),
        ]
    )
    assert found == {
        "natural": "1.0e-380",
        "madry": "2.54",
        "trades": "3.2e+07",
        "mart": "\u2013",
        "cat-ce": "1",
        "cat-mix": "1.58",
    }
    assert list(found) == ["natural", "madry", "trades", "mart", "cat-ce", "cat-mix"]


def test_seeds_are_joined_by_the_geometric_mean() -> None:
    networks = [network("cat-ce", 2.0), network("madry", 2.0), network("madry", 3.0)]
    assert column(networks)["madry"] == "3.16 \u00d7\u00f7 5.09"
    lines = complexity_table(networks).lines
    assert [line.cells[-1].main for line in lines] == ["2", "1"]
    assert [line.cells[-2].main for line in lines] == ["5", "5"]


def test_the_plain_label_is_the_reference() -> None:
    networks = [network("cat-ce", 1.0, "cat-ce (eta=0.1)"), network("cat-ce", 0.0)]
    assert column(networks) == {"cat-ce": "1", "cat-ce (eta=0.1)": "10"}
    assert "relative to cat-ce;" in complexity_facts(networks)[0]


def test_without_the_paper_s_method_the_logarithms_stand() -> None:
    networks = [network("madry", -1.5)]
    assert column(networks) == {"madry": "\u22121.50"}
    assert "nothing is relative" in complexity_facts(networks)[0]
    assert "2.54, 3.53 and 1.39" in complexity_facts(networks)[1]


def test_markdown_and_csv() -> None:
    networks = [network("cat-ce", 2.0), network("madry", 3.0)]
    text = markdown(complexity_table(networks), complexity_facts(networks))
    assert text.startswith("| Method | Spectral, folded | Frobenius, folded |")
    assert "neither the network nor the norm" in text
    content = complexity_csv(networks, "note")
    assert content.startswith("# note\n")
    rows = list(csv.DictReader(io.StringIO(content.split("\n", 1)[1])))
    assert [row["label"] for row in rows] == ["madry", "cat-ce"]
    assert float(rows[0]["log10_product_weights_max_row_sum"]) == pytest.approx(3)
