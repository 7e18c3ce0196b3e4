"""bench report as a command: what it writes for a suite, and what a file names as its origin."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from bench.cli import main
from tests.report.made import evaluate, train_run


def test_a_file_names_the_command_that_made_it(tmp_path: Path) -> None:
    results, reports = tmp_path / "records", tmp_path / "out"
    evaluate(train_run(results, "madry"), "pgd-20", range(5), 10)
    folders = ["--results", str(results), "--reports", str(reports)]
    for more in ([], ["--suite", "table3", "--size", "tiny"]):
        done = CliRunner().invoke(main, ["report", *folders, *more])
        assert done.exit_code == 0, done.output
        command = " ".join(["bench report", *folders, *more])
        text = (reports / "table3.md").read_text()
        assert text.startswith(f"Made by `{command}` from 1 run and 1 evaluation.")


def test_an_artefact_without_records_names_the_command_that_makes_them(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path / "records", "madry"), "pgd-20", range(5), 10)
    folders = ["--results", str(tmp_path / "records"), "--reports", str(tmp_path / "out")]
    done = CliRunner().invoke(main, ["report", *folders, "--suite", "figure3"])
    assert done.exit_code == 0, done.output
    assert "bench run --suite figure3 --size tiny" in done.output
    assert not (tmp_path / "out" / "table3.md").exists()
    wrong = CliRunner().invoke(main, ["report", *folders, "--suite", "figur3"])
    assert wrong.exit_code == 2
    assert "Did you mean 'figure3'?" in wrong.output
