"""The verdicts of the masking checks: which are shown, and that every table carries the mark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.evaluation.checks import CHECKS
from bench.records import RunRecord, load_records
from bench.records.measure import Measured
from bench.records.run_folder import RunFolder
from bench.records.spec import MeasureSpec
from bench.report import write_report
from bench.report.masking import NAMES, masking
from bench.report.style import styles
from bench.report.table3 import brief
from tests.report.made import evaluate, evaluate_all, train_run
from tests.stored import store_measure

EPS = 8 / 255


def verdict(
    folder: RunFolder,
    name: str,
    value: float | None,
    threshold: float,
    detail: dict[str, Any] | None = None,
    **spec: Any,
) -> None:
    """A check as the evaluator recorded it before it wrote counts of images."""
    fields: dict[str, Any] = {"checkpoint": "best", "eps": EPS, "n_examples": 100}
    asked = MeasureSpec(**{**fields, "data_sha256": "d" * 64, **spec}, name=name)
    values = {
        "name": f"{name}: the figure",
        "value": value,
        "threshold": threshold,
        "alarm": value is None or value > threshold,
        "source": "ours",
        "detail": detail or {},
    }
    store_measure(folder, asked, Measured(values=values))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for method in ("madry", "cat-ce"):
        run = train_run(folder, method)
        evaluate_all(run, clean=0.9, pgd=0.6, cw=0.6, autoattack=0.5)
        verdict(run, "C8", 0.15 if method == "cat-ce" else 0.02, 0.02)
        verdict(run, "C14", 0.0, 0.02)
    return folder


def test_the_report_knows_the_checks_that_the_evaluator_has() -> None:
    named = {f"C{number}": name for number, name in enumerate(NAMES, 1)}
    assert named == {number: check.looks_for for number, check in CHECKS.items()}


def test_every_table_that_shows_the_model_carries_the_mark(results: Path, tmp_path: Path) -> None:
    records = load_records(results)
    report = write_report(records, tmp_path / "r", command="bench report")
    table = (tmp_path / "r" / "table3.md").read_text()
    assert "| CAT-CE \u2020 " in table
    assert "| Madry AT " in table
    assert "[masking.md](masking.md)" in table
    shown = 0
    for path in report.paths:
        if path.suffix in (".png", ".pdf", ".svg", ".csv") or path.name == "index.md":
            continue
        for line in path.read_text().splitlines():
            # a sentence may name the method; a row shows the model
            row = line.startswith("| ") or path.suffix == ".tex"
            if row and re.search("cat-ce(?!-)|CAT-CE(?! is| loses)", line) and "`" not in line:
                shown += 1
                assert re.search(r"cat-ce (\u2020|\$\^\\dagger\$)", line, re.IGNORECASE), (
                    path.name,
                    line,
                )
    assert shown >= 8
    assert "CAT-CE \u2020" in brief(records, "results")
    (alarm,) = (
        x for x in (tmp_path / "r" / "masking.md").read_text().splitlines() if "(the figure)" in x
    )
    assert "0.15, lower limit 0.0722, threshold 0.02 (ours; n = 100)" in alarm
    found = pd.read_csv(tmp_path / "r" / "table3.csv", comment="#", keep_default_na=False)
    best = found[found["checkpoint"] == "best"].set_index("method")
    assert best["masking_alarms"].to_dict() == {"madry": "", "cat-ce": "C8"}
    assert set(best["masking_checks_made"]) == {2}


def test_a_marked_model_keeps_its_colour() -> None:
    assert styles(["cat-ce \u2020"])["cat-ce \u2020"] == styles(["cat-ce"])["cat-ce"]


def run_of(results: Path, method: str) -> RunRecord:
    (run,) = (run for run in load_records(results) if run.method == method)
    return run


def test_a_figure_that_is_no_number_is_an_alarm(results: Path) -> None:
    verdict(RunFolder(results, run_of(results, "madry").run_id), "C11", None, 0.5)
    assert masking([run_of(results, "madry")], "best").codes == ("C11",)


def test_the_verdict_on_most_images_counts_and_other_radii_do_not(results: Path) -> None:
    folder = RunFolder(results, run_of(results, "cat-ce").run_id)
    verdict(folder, "C8", 0.0, 0.02, n_examples=500)
    verdict(folder, "C14", 0.5, 0.02, eps=0.3)
    evaluate(folder, "pgd-20", range(50), 100, checkpoint="last")
    verdict(folder, "C1", 0.5, 0.02, checkpoint="last")
    run = run_of(results, "cat-ce")
    assert masking([run], "best", EPS).codes == ()
    assert masking([run], "best").codes == ("C14",)
    assert masking([run], "last", EPS).codes == ("C1",)


@pytest.mark.parametrize(("n_square", "codes"), [(5, ()), (10, ("AA",))])
def test_the_checks_of_autoattack_count(
    n_square: int, codes: tuple[str, ...], tmp_path: Path
) -> None:
    run = train_run(tmp_path / "results", "madry")
    square = {"name": "AA square", "value": n_square / 100, "threshold": 0.02}
    evaluate(run, "autoattack", range(50), 100, package_checks=(square,))
    (record,) = load_records(tmp_path / "results")
    found = masking([record], "best")
    assert (found.codes, len(found.watched)) == (codes, 1 - len(codes))


def test_a_check_that_chance_explains_is_listed_and_marks_nothing(
    results: Path, tmp_path: Path
) -> None:
    run = RunFolder(results, run_of(results, "madry").run_id)
    by_loss = {"cross entropy": 0.71, "MD": 0.62, "margin": 0.64}
    verdict(run, "C7", 0.71 - 0.62, 0.05, {"accuracy": by_loss})
    write_report(load_records(results), tmp_path / "r", command="bench report")
    page = (tmp_path / "r" / "masking.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| C7 loss dependence"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["0.05", "watch 0.09", "\u2013"]
    (passed,) = (line for line in page.splitlines() if line.startswith("| C14 surrogate labels"))
    assert [cell.strip() for cell in passed.split("|")[3:-1]] == ["\u2713", "\u2713"]
    assert (
        "- Madry AT: C7 loss dependence (the figure) 0.09, lower limit 0, threshold 0.05 (ours"
        in page
    )
    (finding,) = (f for f in masking([run_of(results, "madry")], "best").findings if f.number == 7)
    assert (finding.state, finding.alarm) == ("watch", False)


C7 = {"what": "losses apart by", "value": 0.2, "threshold": 0.05, "alarm": True}


@pytest.mark.parametrize(
    ("number", "value", "detail", "state", "limit"),
    [
        # 90 of the 100 images are correct; as if independent, 0.25 * 0.4 of them are lost
        ("C7", 0.35, {"figures": [C7 | {"value": 0.35}], "accuracy": [0.75, 0.4]}, "alarm", None),
        ("C7", 0.2, {"figures": [C7], "accuracy": {"MD": 0.4, "DLR": 0.6}}, "watch", None),
        ("C7", 0.2, {"figures": [C7 | {"n": 90, "lost": 0, "tries": 30}]}, "alarm", 0.0747),
        ("C9", 0.1, {}, "alarm", 0.0527),  # a share
        ("C5", 0.5, {"figures": [C7 | {"what": "accuracy at eps 1"}]}, "alarm", None),
        ("C5", 1.0, {"figures": [C7 | {"what": "a doubled eps keeps"}]}, "watch", None),
        ("C11", 0.9, {"n_robust": 100}, "alarm", 0.7),
        ("C11", 0.9, {"n_robust": 10}, "watch", 0.3),
    ],
)
def test_a_state_is_computed_from_the_recorded_figure_and_its_images(
    number: str,
    value: float,
    detail: dict[str, Any],
    state: str,
    limit: float | None,
    results: Path,
) -> None:
    threshold = 0.5 if number == "C11" else 0.05
    verdict(RunFolder(results, run_of(results, "madry").run_id), number, value, threshold, detail)
    (found,) = (f for f in masking([run_of(results, "madry")], "best").findings if f.code == number)
    assert found.state == state
    if limit is not None:
        assert found.limit == pytest.approx(limit, abs=0.06)


def test_without_a_count_of_correct_images_a_record_raises_no_alarm(tmp_path: Path) -> None:
    run = train_run(tmp_path, "madry")
    verdict(run, "C9", 0.9, 0.02)
    (found,) = masking(load_records(tmp_path), "best").findings
    assert (found.state, found.limit) == ("watch", None)


def test_a_surrogate_that_nobody_asked_for_has_no_row(results: Path, tmp_path: Path) -> None:
    train_run(results, "natural", provenance={"role": "surrogate"})
    write_report(load_records(results), tmp_path / "r", command="bench report")
    assert "| natural" not in (tmp_path / "r" / "table3.md").read_text()
