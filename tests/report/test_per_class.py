from __future__ import annotations

from pathlib import Path

import pytest

from bench.records import load_records
from bench.report import write_report
from bench.report.export import markdown
from bench.report.groups import Setting
from bench.report.rows import sections
from bench.report.statistics import wilson
from bench.report.tables.per_class import (
    ClassAccuracies,
    class_csv,
    class_facts,
    class_table,
    per_class,
)
from tests.report.made import evaluate, section_of, train_run

SETTING = Setting(dataset="digits", arch="cnn", recipe="common", norm="linf", eps=8 / 255)
LABELS = [0] * 6 + [3] * 4
"""Of ten images."""


@pytest.fixture
def found(tmp_path: Path) -> list[ClassAccuracies]:
    madry = train_run(tmp_path, "madry")
    evaluate(madry, "clean", range(10), 10, labels=LABELS)
    evaluate(madry, "pgd-20", [0, 1, 2, 6, 7], 10, labels=LABELS)
    evaluate(madry, "cw", [1, 2, 3, 7], 8, labels=LABELS[:8])
    evaluate(madry, "pgd-20", range(10), 10, labels=LABELS, checkpoint="last")
    for seed, survived in ((0, range(6)), (1, range(3))):
        trades = train_run(tmp_path, "trades", seed=seed)
        evaluate(trades, "pgd-20", survived, 10, labels=LABELS)
        evaluate(trades, "cw", survived, 10, labels=LABELS)
    evaluate(train_run(tmp_path, "natural"), "pgd-20", range(3), 10)
    train_run(tmp_path, "mart", error="the loss is not finite")
    return per_class(section_of(tmp_path))


def test_each_class_has_its_clean_and_its_worst_case_accuracy(found: list[ClassAccuracies]) -> None:
    madry, trades = (method for method in found if method.clean)
    assert [madry.label, trades.label] == ["madry", "trades"]
    assert (madry.row.checkpoint, madry.row.worst_over) == ("best", ("pgd-20", "cw"))
    assert {k: cell.value for k, cell in madry.clean.items()} == {0: 1.0, 3: 1.0}
    # survivors of both: 1 and 2 of class 0, 7 of class 3, of the 8 images that both attacks saw
    assert {k: (cell.value, cell.n) for k, cell in madry.robust.items()} == {
        0: (2 / 6, (6,)),
        3: (1 / 2, (2,)),
    }
    assert (madry.robust[0].low, madry.robust[0].high) == wilson(2, 6)
    assert trades.robust[0].value == pytest.approx((6 / 6 + 3 / 6) / 2)  # over seeds
    assert trades.robust[0].std is not None
    assert trades.robust[3].value == 0


def test_records_without_labels_are_left_out_and_said_so(found: list[ClassAccuracies]) -> None:
    assert [method.label for method in found if not method.clean] == ["natural"]
    assert class_facts(found) == [
        "Robust: images that survive all of pgd-20, cw.",
        "Left out, since their records hold no labels: natural.",
    ]


def test_the_table_has_a_line_a_class(found: list[ClassAccuracies]) -> None:
    text = markdown(class_table(found))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert rows[0] == ["Class", "n (robust)", "Madry AT", "TRADES"]
    assert rows[1:] == [
        ["0", "6", "100.0 / 33.3", "100.0 / 75.0"],
        ["3", "4 (2\u20134)", "100.0 / 50.0", "100.0 / 0.0"],
        ["mean", "", "100.0 / 41.7", "100.0 / 37.5"],
        ["lowest", "", "100.0 / 33.3", "100.0 / 0.0"],
    ]


def test_csv_has_wilsons_limits(found: list[ClassAccuracies]) -> None:
    rows = class_csv([(SETTING, found)]).to_dict("records")
    assert [(row["label"], row["class"]) for row in rows] == [
        *(("madry", 0), ("madry", 3), ("trades", 0), ("trades", 3)),
    ]
    limits = float(rows[1]["robust_low"]), float(rows[1]["robust_high"])
    assert limits == pytest.approx(wilson(1, 2), abs=1e-6)
    assert (rows[1]["robust"], rows[1]["robust_n"], rows[1]["clean_n"]) == ("0.500000", "2", "4")
    assert (rows[2]["robust_low"], rows[2]["robust_n_seeds"]) == ("", "2")


@pytest.mark.slow
def test_no_labels_at_all(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path, "madry"), "pgd-20", range(3), 10)
    records = load_records(tmp_path)
    (section,) = sections(records)
    assert [method.clean for method in per_class(section)] == [{}]
    write_report(records, tmp_path / "reports", command="x")
    text = (tmp_path / "reports" / "table3.md").read_text()
    assert "Accuracy of each class: unknown, since the records hold no labels." in text


def test_labels_of_some_images_are_not_enough(tmp_path: Path) -> None:
    madry = train_run(tmp_path, "madry")
    evaluate(madry, "clean", range(10), 10)
    evaluate(madry, "pgd-20", range(3), 5, labels=LABELS[:5])
    assert [method.clean for method in per_class(section_of(tmp_path))] == [{}]
