"""The whole report of the made records: its files, its teeth, and its plug-ins.

After a deliberate change of text: `REGENERATE_GOLDEN=1 pytest tests/report/test_page.py`, then
read the difference in git line by line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.errors import RecordError
from bench.papers import papers
from bench.records import Records, load_records
from bench.report import ReportResult, columns, write_report
from tests.report.made import evaluate, train_run

GOLDEN = Path(__file__).parent / "golden"
PAGES = ("table3.md", "cost.md", "classes.md")
NUMBERS = (
    *("table3.csv", "cost.csv", "comparisons.csv", "classes.csv", "context.csv"),
    "robust-accuracy-digits-cnn-common-eps0.0314.csv",
)


@pytest.fixture
def folder(report: ReportResult) -> Path:
    return report.paths[0].parent


@pytest.fixture
def digits(folder: Path) -> str:
    """Table 3 on digits."""
    text = (folder / "table3.md").read_text()
    (section,) = (s for s in text.split("\n## ") if s.startswith("digits"))
    return section


def without_hashes(text: str) -> str:
    """An id's hash changes with every field that a specification gains."""
    return re.sub(r"-(s\d+|make|eps[\d.]+)-[0-9a-f]{8,10}\b", r"-\1-HASH", text)


def numbers(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, comment="#")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_pages_equal_the_golden_text(folder: Path, name: str) -> None:
    text = without_hashes((folder / name).read_text())
    # the widths of columns are tabulate's
    text = re.sub(r" +\|", " |", re.sub(r"\|[:-]+(?=\|)", "|---", text))
    if os.environ.get("REGENERATE_GOLDEN"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_equal_the_golden_ones(folder: Path, name: str) -> None:
    text = without_hashes((folder / name).read_text())
    if os.environ.get("REGENERATE_GOLDEN"):
        (GOLDEN / name).write_text(text)
    found, golden = numbers(folder / name), numbers(GOLDEN / name)
    found = found.map(lambda cell: without_hashes(cell) if isinstance(cell, str) else cell)
    pd.testing.assert_frame_equal(found, golden, rtol=1e-6)


def written(folder: Path) -> str:
    """Write the report of folder/results to folder/r; return table3.md."""
    write_report(load_records(folder / "results"), folder / "r", command="x")
    return (folder / "r" / "table3.md").read_text()


def lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_what_is_missing_is_named(folder: Path, digits: str) -> None:
    rows = {cells[0]: cells for cells in lines(digits) if len(cells) == 7}
    assert list(rows) == [
        *("Method", "TRADES", "Madry AT", "mine.py:make (outside model)", "CAT-CE"),
        "Natural training",
    ]
    for text in (
        "Not in the table: Madry AT, seed 2: failed: the loss is not finite at epoch 1, step 9; "
        "Bilateral AT: not evaluated; MMA: unfinished: 7 of 20 epochs; "
        "MART: failed: the loss is not finite at epoch 3, step 12; YOPO: not evaluated.",
        "TRADES: AutoAttack 256 of 300 images.",
        "Madry AT: 2 of 3 seeds.",
        "The evaluator warns of CAT-CE: Square broke images that PGD-20 did not.",
        "CAT-CE, seed 0, best, square: Square broke images that PGD-20 did not",
        "PGD-20 is more than 5 points above AutoAttack for CAT-CE (44.0): do not read PGD-20",
    ):
        assert f"- {text}" in digits
    page = (folder / "table3.md").read_text()
    assert "- pgd-20 at eps 8/255 (best, train split, linf): 1 evaluation" in page
    assert "does not match its checksum" in page.split("## Damaged files")[1]


def test_the_papers_values_are_only_next_to_ours_of_the_same_data_and_network(
    folder: Path,
) -> None:
    parts = (folder / "table3.md").read_text().split("\n## ")[1:]
    stated = [part.startswith("cifar10, wrn-34-10") for part in parts[:3]]
    assert stated == ["### Stated in papers" in part for part in parts[:3]] == [True, False, False]
    assert "| CAT-CE | 93.48" in re.sub(" +", " ", parts[0])
    unlike = ["Do not compare with its values." in part for part in parts[:3]]
    assert unlike == [False, True, True]


@pytest.mark.parametrize("name", ["table3.tex", "table3-more.tex", "cost.tex", "comparisons.tex"])
def test_latex_is_balanced_and_aligned(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    depth = 0
    for character in text.replace("\\{", "").replace("\\}", ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert text.count("\\begin{") == text.count("\\end{") > 0
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert not [line for line in body if "%" in line.replace("\\%", "").removesuffix("{%")]
    assert not [line for line in body if "_" in line.replace("\\_", "")]
    assert text.isascii()
    for table in text.split("\\begin{tabular}")[1:]:
        n_columns = len(re.match(r"\{@\{\}([lr]+)@\{\}\}", table)[1])  # type: ignore[index]
        rows = [line for line in table.split("\\end{tabular}")[0].splitlines() if "&" in line]
        assert {row.replace("\\&", "").count("&") + 1 for row in rows} == {n_columns}


def test_origin_is_in_every_file_and_nothing_depends_on_the_place(
    report: ReportResult, folder: Path
) -> None:
    origin = (
        "Made by `bench report` from 14 runs and 45 evaluations. "
        "One seed does not rank methods, and 5 of 6 rows here have only one."
    )
    assert sorted(report.paths) == sorted(p for p in folder.rglob("*") if p.is_file())
    for path in report.paths:
        content = path.read_bytes()
        assert str(folder.parent).encode() not in content, path.name
        if path.suffix != ".pdf":  # compressed
            assert origin.encode() in content, path.name
        if path.suffix in (".md", ".csv", ".tex"):
            assert origin in path.read_text().splitlines()[0]


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(
    results: Path, report: ReportResult, tmp_path: Path
) -> None:
    records = load_records(results)
    shuffled = Records(records[::-1])
    shuffled.damaged, shuffled.manifests = records.damaged, records.manifests
    again = write_report(shuffled, tmp_path, command="bench report")
    for one, other in zip(report.paths, again.paths, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one.name


def test_no_records_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no records in mine: make some with `bench run`"):
        write_report(load_records(tmp_path), tmp_path, command="bench report", results="mine")
    (tmp_path / "results" / "a").mkdir(parents=True)
    (tmp_path / "results" / "a" / "spec.json").write_text("{")
    records = load_records(tmp_path / "results")
    with pytest.raises(RecordError, match="no records in results but 1 damaged files"):
        write_report(records, tmp_path / "reports", command="bench report")
    assert not (tmp_path / "reports").exists()


def test_a_run_without_any_attack_needs_no_figure(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path / "results", "natural"), "clean", range(9), 10)
    assert "Not in the figure" not in written(tmp_path)
    assert not list((tmp_path / "r").glob("robust-accuracy-*"))


def test_a_figure_has_at_least_two_methods_and_three_radii(tmp_path: Path) -> None:
    for number, method in enumerate(("madry", "trades")):
        run = train_run(tmp_path / "results", method)
        for eps in (4 / 255, 8 / 255):
            evaluate(run, "pgd-20", range(5), 10, eps=eps)
        written(tmp_path)
        assert len(list((tmp_path / "r").glob("robust-accuracy-*.png"))) == number


def test_the_terminal_gets_one_short_table_and_where_the_rest_is(report: ReportResult) -> None:
    shown = report.text.splitlines()
    assert shown[0] == "digits, cnn, recipe common, eps 8/255 (0.0314)"
    assert shown[2].split() == [
        "Method",
        "Clean",
        "PGD-20",
        "C&W",
        "AutoAttack",
        "Worst",
        "case",
        "Cost",
    ]
    assert shown[3].split()[:2] == ["TRADES", "84.0"]
    assert "54.0 [44.3, 63.4] *" in shown[3]
    assert "2 other settings: see table3.md." in shown
    assert shown[-1] == f"The report: {report.paths[0].parent / 'index.html'}"
    assert len(shown) < 30
    assert max(map(len, shown[:-1])) <= 100


@pytest.mark.slow
def test_evaluations_of_different_data_are_not_trusted(tmp_path: Path) -> None:
    run = train_run(tmp_path / "results", "natural")
    evaluate(run, "pgd-20", range(9), 10)
    assert "Do not trust" not in written(tmp_path)
    evaluate(run, "cw", range(9), 10, data_sha256="e" * 64)
    assert f"Do not trust Natural (run {run.run_id})" in written(tmp_path)


def test_free_text_does_not_break_the_table(tmp_path: Path) -> None:
    name = r"a|b_50% & {c} \f $g$ #h ~i ^j"
    evaluate(train_run(tmp_path / "results", name), "pgd-20", range(5), 10)
    train_run(tmp_path / "results", "mine", error="a | b\n<c> 5% & {d_e} \\f $g$ #h ~i ^j")
    assert "failed: a | b \\<c> 5% & {d_e}" in written(tmp_path)
    tex = (tmp_path / "r" / "table3.tex").read_text()
    assert r"a\textbar{}b\_50\% \& \{c\} \textbackslash{}f \$g\$ \#h" in tex
    assert r"\textasciitilde{}i \textasciicircum{}j & 100.0 & 50.0" in tex


@pytest.mark.slow
def test_the_report_needs_no_torch_and_its_import_no_matplotlib(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path / "results", "madry"), "pgd-20", range(5), 10)
    script = (
        "import sys; from pathlib import Path\n"
        "from bench.report import write_report; from bench.records import load_records\n"
        "assert 'matplotlib' not in sys.modules\n"
        "here = Path(sys.argv[1])\n"
        "write_report(load_records(here / 'results'), here / 'r', command='x')\n"
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


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path / "results", "madry"), "pgd-20", range(5), 10)
    (tmp_path / "r").write_text("a file")
    with pytest.raises(RecordError, match="cannot write"):
        written(tmp_path)


@pytest.mark.slow
def test_a_table_of_bf16_trainings_says_so(tmp_path: Path) -> None:
    said = "Trained in bf16; attacks are judged in fp32."
    for precision in ("bf16", "fp32"):  # of both, the rows that differ are named
        for method in ("natural", "madry"):
            run = train_run(tmp_path / "results", method, precision=precision)
            evaluate(run, "pgd-20", range(9), 10)
        text = written(tmp_path)
        assert (said in text) is (precision == "bf16")
    assert "Trained differently: precision = " in text


@pytest.mark.slow
def test_the_command_names_itself_and_what_is_missing(tmp_path: Path) -> None:
    results, reports = tmp_path / "records", tmp_path / "out"
    evaluate(train_run(results, "madry"), "pgd-20", range(5), 10)
    folders = ["--results", str(results), "--reports", str(reports)]
    done = CliRunner().invoke(main, ["report", *folders, "--suite", "figure3"])
    assert done.exit_code == 0, done.output
    assert "bench run --suite figure3 --size tiny" in done.output
    assert not (reports / "table3.md").exists()
    for more in ([], ["--suite", "table3", "--size", "tiny"], ["--suite", "digits"]):
        done = CliRunner().invoke(main, ["report", *folders, *more])
        assert done.exit_code == 0, done.output
        command = " ".join(["bench report", *folders, *more])
        text = (reports / "table3.md").read_text()
        assert text.startswith(f"Made by `{command}` from 1 run and 1 evaluation.")
    wrong = CliRunner().invoke(main, ["report", *folders, "--suite", "figur3"])
    assert wrong.exit_code == 2
    assert "Did you mean 'figure3'?" in wrong.output


@pytest.mark.slow
def test_a_new_column_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(train_run(tmp_path / "results", "madry"), "pgd-20", range(8), 10)
    column = columns.Column(
        key="pgd20_again",
        title="PGD & again",
        value=lambda row, _: row.attacks.get("pgd-20"),
        unit="accuracy",
        interval=True,
    )
    monkeypatch.setattr(columns, "COLUMNS", [*columns.COLUMNS, column])
    written(tmp_path)
    page, tex = ((tmp_path / "r" / f"table3.{kind}").read_text() for kind in ("md", "tex"))
    head, row = (cells for cells in lines(page) if cells[0] in ("Method", "Madry AT"))
    assert row[head.index("PGD & again")] == "80.0 [49.0, 94.3]"
    assert r"PGD \& again" in tex
    found = numbers(tmp_path / "r" / "table3.csv").iloc[0]
    assert (found["pgd20_again"], found["pgd20_again_n"]) == (0.8, 10)


PLUGIN = """
from pathlib import Path
import pandas as pd
from bench.papers import Paper
from bench.report.artefact import Artefact, Output
from bench.report.export import Table

def make(records):
    frame = pd.DataFrame({"method": [run.method for run in records]})
    return Output(tables={"rivals": Table(text=frame)}, numbers={"rivals": frame})

def broken(records):
    raise KeyError("nothing")

PAPER = Paper(name="rival", title="The rival paper", folder=Path(__file__).parent,
              artefacts=__name__)
ARTEFACTS = (
    Artefact(name="rivals", title="All rivals", make_of_all=make),
    Artefact(name="broken", title="A broken one", make_of_all=broken),
)
"""


def test_a_second_paper_is_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "rival-1.0.dist-info").mkdir(parents=True)
    (site / "rival-1.0.dist-info" / "METADATA").write_text("Name: rival\nVersion: 1.0\n")
    (site / "rival-1.0.dist-info" / "entry_points.txt").write_text(
        "[atbench.papers]\nrival = rival_paper\n"
    )
    (site / "rival_paper").mkdir()
    (site / "rival_paper" / "__init__.py").write_text(PLUGIN)
    (site / "rival_paper" / "published.toml").write_text(
        'origin = "Rival data"\n[table3.madry]\narch = "x"\nclean = 0.5\n'
    )
    monkeypatch.syspath_prepend(str(site))
    evaluate(train_run(tmp_path / "results", "madry"), "pgd-20", range(8), 10)
    papers.cache_clear()
    try:
        records = load_records(tmp_path / "results")
        write_report(records, tmp_path / "r", command="x")
        told = write_report(records, tmp_path / "named", command="x", suite="broken").text
    finally:
        papers.cache_clear()
    index = (tmp_path / "r" / "index.md").read_text()
    assert "### The rival paper" in index
    assert "All rivals: rivals [csv](rivals.csv) [md](rivals.md) [tex](rivals.tex)" in index
    assert "broken (A broken one) could not be made: KeyError: 'nothing'" in index
    assert told == "broken: could not be made: KeyError: 'nothing'"
    assert "| madry" in (tmp_path / "r" / "rivals.md").read_text()
    found = numbers(tmp_path / "r" / "table3.csv").iloc[0]
    assert (found["paper_rival_clean"], found["paper_cat_clean"]) == (0.5, 0.873)
