"""The verdicts of the masking checks: which are shown, and that every table carries the mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.evaluation.checks import CHECKS
from bench.measure_record import Measured, write_measure
from bench.records import RunRecord, load_records
from bench.report import write_report
from bench.report.masking import N_CHECKS, masking
from bench.report.style import styles
from bench.report.table3 import brief
from bench.run_store import RunFolder
from bench.spec import MeasureSpec
from tests.report.made import evaluate, evaluate_all, train_run

EPS = 8 / 255


def verdict(
    folder: RunFolder, name: str, value: float | None, threshold: float, **spec: Any
) -> None:
    """A check as the evaluator records it."""
    fields: dict[str, Any] = {"checkpoint": "best", "eps": EPS, "n_examples": 100}
    asked = MeasureSpec(**{**fields, "data_sha256": "d" * 64, **spec}, name=name)
    values = {
        "name": f"{name}: the figure",
        "value": value,
        "threshold": threshold,
        "alarm": value is None or value > threshold,
        "source": "ours",
    }
    write_measure(folder.measure(asked), asked, Measured(values=values), 1.0, {})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for method in ("madry", "cat-ce"):
        run = train_run(folder, method)
        evaluate_all(run, clean=0.9, pgd=0.6, cw=0.6, autoattack=0.5)
        verdict(run, "C8", 0.05 if method == "cat-ce" else 0.02, 0.02)
        verdict(run, "C14", 0.0, 0.02)
    return folder


def test_the_report_knows_as_many_checks_as_the_evaluator_has() -> None:
    assert list(CHECKS) == [f"C{n}" for n in range(1, N_CHECKS + 1)]


def test_every_table_that_shows_the_model_carries_the_mark(results: Path, tmp_path: Path) -> None:
    records = load_records(results)
    report = write_report(records, tmp_path / "r", command="bench report")
    table = (tmp_path / "r" / "table3.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| cat-ce")]
    assert "**C8 of 2**" in rows[0]
    assert "| 2 passed " in next(x for x in table.splitlines() if x.startswith("| madry"))
    assert "[masking.md](masking.md)" in table
    shown = 0
    for path in report.paths:
        if path.suffix in (".png", ".pdf", ".svg", ".csv") or path.name == "index.md":
            continue
        for line in path.read_text().splitlines():
            # a sentence may name the method; a row shows the model
            row = line.startswith("| ") or path.suffix == ".tex"
            if row and "cat-ce" in line and "cat-ce-" not in line and "`" not in line:
                shown += 1
                assert "cat-ce \u2020" in line or r"cat-ce $^\dagger$" in line, (path.name, line)
    assert shown >= 8
    assert "cat-ce \u2020" in brief(records, "results")
    (alarm,) = (x for x in (tmp_path / "r" / "masking.md").read_text().splitlines() if "C8:" in x)
    assert "0.05, threshold 0.02 (n = 100; ours)" in alarm
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
    verdict(folder, "C1", 0.5, 0.02, checkpoint="last")
    run = run_of(results, "cat-ce")
    assert masking([run], "best", EPS).codes == ()
    assert masking([run], "best").codes == ("C14",)
    assert masking([run], "last", EPS).codes == ("C1",)


def test_the_checks_of_autoattack_count(tmp_path: Path) -> None:
    run = train_run(tmp_path / "results", "madry")
    check = {"name": "AA square", "value": 0.1, "threshold": 0.02, "alarm": True}
    evaluate(run, "autoattack", range(50), 100, package_checks=(check,))
    (record,) = load_records(tmp_path / "results")
    assert masking([record], "best").codes == ("AA",)


def test_a_surrogate_that_nobody_asked_for_has_no_row(results: Path, tmp_path: Path) -> None:
    train_run(results, "natural", provenance={"role": "surrogate"})
    write_report(load_records(results), tmp_path / "r", command="bench report")
    assert "| natural" not in (tmp_path / "r" / "table3.md").read_text()
