from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench.records import load_records
from bench.report.aggregate import sections
from bench.report.comparison_table import comparison_csv, comparison_legend, comparison_table
from bench.report.latex import latex
from bench.report.markdown import markdown
from bench.report.matrix import Matrix, matrix
from bench.report.significance import holm, mcnemar
from tests.report.made import evaluate, train_run


@pytest.fixture
def found(tmp_path: Path) -> Matrix:
    """Four methods: one with a further attack, one on fewer images, one under another attack."""
    for method, survived in (("natural", 0), ("madry", 60), ("mine", 75)):
        evaluate(train_run(tmp_path, method), "pgd-20", range(survived), 100)
        evaluate(train_run(tmp_path, method), "cw", range(survived), 100)
    evaluate(train_run(tmp_path, "mine"), "square", range(70), 100)
    evaluate(train_run(tmp_path, "trades"), "pgd-20", range(40), 50)
    evaluate(train_run(tmp_path, "other"), "fgsm", range(99), 100)
    train_run(tmp_path, "mart", error="the loss is not finite")
    (section,) = sections(load_records(tmp_path))
    made = matrix(section)
    assert made is not None
    return made


def test_methods_are_in_the_order_of_their_robust_accuracy(found: Matrix) -> None:
    # those that lack an attack of the worst case come last
    assert found.labels == ("mine", "madry", "natural", "trades", "other")
    assert found.usual == (("pgd-20", "cw"), 100)
    assert list(found.pairs) == [
        (a, b) for i, a in enumerate(found.labels) for b in found.labels[i + 1 :]
    ]


def test_each_pair_is_on_what_both_have(found: Matrix) -> None:
    mine, trades = found.pairs["mine", "madry"], found.pairs["mine", "trades"]
    assert mine is not None
    assert trades is not None
    assert (mine.attacks, mine.n, mine.first_only) == (("pgd-20", "cw"), 100, 15)
    assert (trades.attacks, trades.n) == (("pgd-20",), 50)
    assert (trades.first_only, trades.second_only) == (10, 0)
    assert [found.pairs[name, "other"] for name in ("mine", "madry")] == [None, None]


def test_p_values_are_corrected_over_the_pairs_that_have_one(found: Matrix) -> None:
    p_values = [c.p for c in found.compared]
    assert len(p_values) == 6
    assert [c.p_holm for c in found.compared] == holm(p_values)
    assert {c.n_pairs for c in found.compared} == {6}
    assert mcnemar(15, 0) in p_values


def test_what_is_significant_stands_out_and_what_is_unlike_is_noted(found: Matrix) -> None:
    table = comparison_table(found)
    text = markdown(table, (comparison_legend(found),))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:6]
    ]
    assert rows == [
        ["mine", "**15.0**", "**75.0**", "**20.0** \u00b9", "\u2013"],
        ["madry", "", "**60.0**", "**20.0** \u00b9", "\u2013"],
        ["natural", "", "", "**\u221280.0** \u00b9", "\u2013"],
        ["trades", "", "", "", "\u2013"],
    ]
    assert "- \u00b9 Under pgd-20, on 50 images." in text
    assert "the worst case over pgd-20 and cw, on the same 100 images" in text
    assert "McNemar's exact test, after Holm's correction over 6 pairs, as 6 are." in text
    assert r"& \textbf{15.0} & \textbf{75.0} & \textbf{20.0}$^{1}$ & -- \\" in latex(
        table, "c", "l", ()
    )


def test_chance_does_not_stand_out(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path, "mine"), "pgd-20", range(12), 100)
    evaluate(train_run(tmp_path, "madry"), "pgd-20", range(9), 100)
    evaluate(train_run(tmp_path, "madry", seed=1), "pgd-20", range(8, 16), 100)
    (section,) = sections(load_records(tmp_path))
    found = matrix(section)
    assert found is not None
    text = markdown(comparison_table(found), (comparison_legend(found),))
    assert "| mine                         | 3.5   |" in text
    assert "the sign-flip test of each image's sum), as it is not." in text


def test_one_method_is_not_compared(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path, "mine"), "pgd-20", range(12), 100)
    evaluate(train_run(tmp_path, "madry"), "clean", range(100), 100)
    (section,) = sections(load_records(tmp_path))
    assert matrix(section) is None


def test_csv_has_every_pair(found: Matrix) -> None:
    text = comparison_csv([found], "where from")
    assert text.startswith("# where from\n")
    rows = {(r["first"], r["second"]): r for r in csv.DictReader(text.splitlines()[1:])}
    assert set(rows) == set(found.pairs)
    mine = rows["mine", "madry"]
    assert (mine["first_only"], mine["second_only"], mine["n"]) == ("15", "0", "100")
    assert float(mine["difference_low"]) < 0.15 < float(mine["difference_high"])
    assert float(mine["p"]) == pytest.approx(2 / 2**15, rel=1e-5)
    assert float(mine["p"]) < float(mine["p_holm"])
    assert (mine["test"], mine["significant"], mine["attacks"]) == ("mcnemar", "1", "pgd-20 cw")
    none = rows["mine", "other"]
    assert {none[name] for name in ("n", "p", "significant", "run_ids_second")} == {""}
