"""The whole report of the made records, compared with text that a person has read.

After a change that is meant: `REGENERATE_GOLDEN=1 pytest tests/report/test_golden.py`, then read
the difference in git line by line before it is committed.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.report import ReportResult

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def folder(report: ReportResult) -> Path:
    return report.paths[0].parent


@pytest.fixture
def digits(folder: Path) -> str:
    """Table 3 on digits."""
    text = (folder / "table3.md").read_text()
    (section,) = (s for s in text.split("\n## ") if s.startswith("digits"))
    return section


@pytest.mark.parametrize(
    "name",
    [
        *("table3.md", "table3.csv", "table3.tex", "cost.md", "cost.csv", "cost.tex"),
        *("comparisons.csv", "comparisons.tex", "classes.md", "classes.csv", "context.csv"),
        "robust-accuracy-digits-cnn-common-eps0.0314.csv",
    ],
)
def test_equals_the_golden_text(folder: Path, name: str) -> None:
    # An id's hash moves with every field that a specification gains.
    text = re.sub(
        r"-(s\d+|make|eps[\d.]+)-[0-9a-f]{8,10}\b", r"-\1-HASH", (folder / name).read_text()
    )
    if os.environ.get("REGENERATE_GOLDEN"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_row_has_as_many_cells_as_its_heading(report: ReportResult) -> None:
    tables = [list(lines(block)) for block in report.text.split("\n\n")]
    widths = [{len(cells) for cells in table} for table in tables if table]
    assert all(len(one) == 1 for one in widths), widths
    assert {14, 7, 5, 4, 2} <= set.union(*widths)


def test_what_is_missing_is_shown(report: ReportResult, digits: str) -> None:
    rows = {cells[0]: cells for cells in lines(digits) if len(cells) == 14}
    assert rows["mart"][2] == "failed: the loss is not finite at epoch 3, step 12"
    assert rows["mma"][2] == "unfinished: 7 of 20 epochs"
    assert rows["bilateral"][2] == "not evaluated"
    (full,) = (
        cells for cells in lines(digits) if cells[:2] == ["trades", "best"] and len(cells) == 7
    )
    assert full[5].endswith("(256 of 300 images)")
    assert rows["madry \u00b9"][11] == "2 of 3"
    assert "madry, seed 2 failed: the loss is not finite at epoch 1, step 9." in report.text
    assert "cat-ce, seed 0, best, square: Square broke images" in report.text
    assert "pgd-20 at eps 8/255 (best, train split, linf): 1 evaluation" in report.text
    assert "does not match its checksum" in report.text.split("## Damaged files")[1]


def test_the_paper_is_beside_and_marked_where_it_is_of_another_data_set(
    report: ReportResult,
) -> None:
    headings = [cells[-1] for cells in lines(report.text) if cells[-1].startswith("Paper")]
    assert headings == [
        "Paper: clean / PGD-20 / C&W (CIFAR-10, WRN-34-10)",
        *["Paper: clean / PGD-20 / C&W (CIFAR-10, WRN-34-10: another data set and another "
          "network, not comparable)"] * 2,
    ]  # fmt: skip
    values = {cells[0]: cells[-1] for cells in lines(report.text) if len(cells) == 14}
    assert values["cat-ce"].startswith("93.48 / 73.38 / 61.88")
    assert values["mine.py:make (outside model)"] == ""


def test_the_masked_row_alone_carries_the_hint(digits: str) -> None:
    (note,) = (line for line in digits.splitlines() if "PGD-20 is more than 5 points" in line)
    mark = note.split()[1]
    marked = [cells[0] for cells in lines(digits) if cells[8:9] and cells[8].endswith(f" {mark}")]
    assert marked == ["cat-ce"]


def test_csv_holds_fractions_that_agree_with_the_table(folder: Path) -> None:
    text = (folder / "table3.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text.split("\n", 1)[1])))
    (cat,) = (r for r in rows if r["method"] == "cat-ce" and r["checkpoint"] == "best")
    assert float(cat["pgd20"]) == 0.78
    assert float(cat["pgd20_low"]) < float(cat["pgd20"]) < float(cat["pgd20_high"])
    assert float(cat["pgd20_full"]) == pytest.approx(281 / 360, abs=1e-6)
    assert (cat["pgd20_n"], cat["autoattack_n"], cat["suspicious"]) == ("100", "100", "1")
    assert (cat["pgd20_full_n"], cat["autoattack_full_n"]) == ("360", "100")
    assert (cat["worst_case"], cat["lowest_seen"]) == ("0.340000", "0.320000")
    assert cat["worst_case_over"] == "pgd-20; cw; autoattack"
    assert cat["lowest_seen_over"] == "pgd-20; cw; autoattack; square"
    assert cat["paper_differs"] == "another data set, another network"
    (trades,) = (r for r in rows if r["label"] == "trades" and r["checkpoint"] == "best")
    assert (trades["autoattack_n"], trades["autoattack_n_expected"]) == ("100", "100")
    assert (trades["autoattack_full_n"], trades["autoattack_full_n_expected"]) == ("256", "300")
    (madry,) = (r for r in rows if r["label"] == "madry" and r["checkpoint"] == "best")
    assert (madry["n_runs"], madry["n_seeds"], madry["clean_low"]) == ("3", "2", "")


@pytest.mark.parametrize(
    ("name", "n_environments", "widths"),
    [("table3.tex", 12, {16, 7, 5}), ("cost.tex", 6, {7}), ("comparisons.tex", 4, {5, 2})],
)
def test_latex_is_balanced_and_aligned(
    folder: Path, name: str, n_environments: int, widths: set[int]
) -> None:
    text = (folder / name).read_text()
    bare = text.replace("\\{", "").replace("\\}", "")
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert text.count("\\begin{") == text.count("\\end{") == n_environments
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert not [line for line in body if "%" in line.replace("\\%", "").removesuffix("{%")]
    assert not [line for line in body if "_" in line.replace("\\_", "")]
    assert text.isascii()
    for line in body:
        if line.endswith("\\\\") and "shortstack" not in line:
            wide = re.search(r"multicolumn{(\d+)}", line)
            n_cells = line.replace("\\&", "").count("&") + (int(wide[1]) if wide else 1)
            assert n_cells in widths, line


def test_origin_is_the_first_line_and_nothing_depends_on_the_place(
    report: ReportResult, folder: Path
) -> None:
    origin = "Made by `bench report` from 14 runs and 45 evaluations."
    cost = (folder / "cost.md").read_text().removeprefix(f"{origin}\n")
    assert report.text == (folder / "table3.md").read_text() + cost
    names = [f"{table}.{kind}" for table in ("table3", "cost") for kind in ("md", "csv", "tex")]
    assert [path.name for path in report.paths][:6] == names
    assert sorted(report.paths) == sorted(folder.iterdir())
    for path in report.paths:
        content = path.read_bytes()
        assert str(folder.parent).encode() not in content, path.name
        assert origin.encode() in content, path.name
        if path.suffix in (".md", ".csv", ".tex"):
            assert origin in path.read_text().splitlines()[0]
