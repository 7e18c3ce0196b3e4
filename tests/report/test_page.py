from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import RecordError
from bench.records import Records, load_records
from bench.report import ReportResult, write_report
from tests.report.made import evaluate, evaluate_all, train_run


def test_no_records_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no records in mine: make some with `bench run`"):
        write_report(load_records(tmp_path), tmp_path, command="bench report", results="mine")


def test_damage_alone_is_said(tmp_path: Path) -> None:
    (tmp_path / "results" / "a").mkdir(parents=True)
    (tmp_path / "results" / "a" / "spec.json").write_text("{")
    records = load_records(tmp_path / "results")
    with pytest.raises(RecordError, match="no records in results but 1 damaged files"):
        write_report(records, tmp_path / "reports", command="bench report")
    assert not (tmp_path / "reports").exists()


def test_the_same_records_give_the_same_bytes(
    results: Path, report: ReportResult, tmp_path: Path
) -> None:
    records = load_records(results)
    shuffled = Records(list(records)[::-1], records.damaged)
    again = write_report(shuffled, tmp_path, command="bench report")
    for one, other in zip(report.paths, again.paths, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one.name


def test_a_run_without_any_attack_needs_no_figure(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path / "results", "natural"), "clean", range(9), 10)
    report = write_report(load_records(tmp_path / "results"), tmp_path / "r", command="x")
    names = [f"{table}.{kind}" for table in ("table3", "cost") for kind in ("md", "csv", "tex")]
    assert [path.name for path in report.paths] == [*names, "claims.md", "claims.csv", "index.md"]
    assert "Not in the figure" not in report.text


def test_evaluations_of_different_data_are_not_trusted(tmp_path: Path) -> None:
    run = train_run(tmp_path / "results", "natural")
    evaluate(run, "pgd-20", range(9), 10)
    report = write_report(load_records(tmp_path / "results"), tmp_path / "r", command="x")
    assert "Do not trust" not in report.text
    evaluate(run, "cw", range(9), 10, data_sha256="e" * 64)
    report = write_report(load_records(tmp_path / "results"), tmp_path / "r", command="x")
    assert f"Do not trust natural (run {run.run_id})" in report.text


def test_free_text_does_not_break_the_table(tmp_path: Path) -> None:
    train_run(tmp_path / "results", "mine_50%", error="a | b\n<c> 5% & {d_e} \\f $g$ #h ~i ^j")
    report = write_report(load_records(tmp_path / "results"), tmp_path / "r", command="x")
    assert "failed: a \\| b \\<c> 5% & {d_e}" in report.text
    tex = report.paths[2].read_text()
    assert r"mine\_50\% & --" in tex
    assert r"a \textbar{} b \textless{}c\textgreater{} 5\% \& \{d\_e\} \textbackslash{}f" in tex
    assert r"\$g\$ \#h \textasciitilde{}i \textasciicircum{}j" in tex


def test_the_report_needs_no_torch_and_help_no_matplotlib(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path / "results", "madry"), "pgd-20", range(5), 10)
    script = (
        "import sys; from pathlib import Path\n"
        "from bench.report import write_report; from bench.records import load_records\n"
        "assert 'matplotlib' not in sys.modules\n"
        "here = Path(sys.argv[1])\n"
        "report = write_report(load_records(here / 'results'), here / 'r', command='x')\n"
        "assert len(report.paths) == 12, report.paths\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_300_runs_take_seconds(tmp_path: Path) -> None:
    for arch in ("cnn", "vgg-16"):
        for method in ("natural", "madry", "trades", "mart", "cat-ce", "cat-mix"):
            run = train_run(tmp_path / "results", method, arch=arch)
            evaluate_all(run, clean=0.9, pgd=0.5, cw=0.5, autoattack=0.4)
    few = load_records(tmp_path / "results")
    many = [
        replace(run, run_id=f"{run.run_id}-{seed}", spec={**run.spec, "seed": seed})
        for run in few
        for seed in range(25)
    ]
    assert len(many) == 300
    started = time.process_time()
    report = write_report(Records(many), tmp_path / "r", command="x")
    elapsed = time.process_time() - started
    assert elapsed < 5
    table = csv.DictReader(report.paths[1].read_text().splitlines()[1:])
    assert [row["n_seeds"] for row in table] == ["25", "0"] * 12


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    evaluate_all(
        train_run(tmp_path / "results", "madry"), clean=0.9, pgd=0.5, cw=0.5, autoattack=0.4
    )
    (tmp_path / "r").write_text("a file")
    with pytest.raises(RecordError, match="cannot write"):
        write_report(load_records(tmp_path / "results"), tmp_path / "r", command="x")


def test_a_table_of_bf16_trainings_says_so(tmp_path: Path) -> None:
    said = "Trained in bf16; attacks are judged in fp32."
    for precision in ("bf16", "fp32"):  # of both, the rows that differ are named
        for method in ("natural", "madry"):
            run = train_run(tmp_path / "results", method, precision=precision)
            evaluate(run, "pgd-20", range(9), 10)
        text = write_report(load_records(tmp_path / "results"), tmp_path / "r", command="x").text
        assert (said in text) is (precision == "bf16")
    assert "Trained differently: precision = " in text
