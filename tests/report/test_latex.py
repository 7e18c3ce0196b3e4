"""The report's LaTeX, set by pdflatex: no error, 8 points, and nothing beyond the margin.

`make test-all` runs it: it needs Debian's texlive-latex-recommended.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bench.records import load_records
from bench.report import write_report
from tests.report.made import evaluate_all, train_run

pytestmark = pytest.mark.latex

REPORTS = Path(__file__).parent.parent.parent / "reports"
NEURIPS, ICML, COLUMN = 5.5, 6.75, 3.25
"""Inches: the text of NeurIPS; a table of two columns and one of ICML."""
TABLES = [
    (folder.name, file.name)
    for folder in (REPORTS / "digits", REPORTS / "smoke")
    for file in sorted(folder.glob("*.tex"))
    if "tabular" in file.read_text()
]
DOCUMENT = r"""
\documentclass[10pt]{article}
\usepackage[paperwidth=%(paper)sin,textwidth=%(width)sin,textheight=9in]{geometry}
\usepackage{booktabs,array}
\overfullrule=5pt
\begin{document}
%(body)s
\end{document}
"""
MEASURE = (
    r"\setlength{\linewidth}{6.75in}\setbox0\hbox{\fontsize{8}{9.6}\selectfont\setlength{\tabcolsep}{4pt}"
    "%s}"
)


def typeset(body: str, width: float, folder: Path) -> str:
    """Return what pdflatex logs; fails where it stops at an error."""
    values = {"paper": width + 2, "width": width, "body": body}
    (folder / "table.tex").write_text(DOCUMENT % values)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout.replace("\n", "")


def tabulars(tex: str) -> list[str]:
    return re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", tex, re.DOTALL)


def natural_widths(tex: str, folder: Path) -> list[float]:
    """Return the width of each tabular at 8 points, in inches."""
    boxes = (f"{MEASURE % table}\\typeout{{WIDTH \\the\\wd0;}}" for table in tabulars(tex))
    log = typeset("x\n".join(["", *boxes]) + "x", 20, folder)
    return [float(width) / 72.27 for width in re.findall(r"WIDTH ([\d.]+)pt;", log)]


@pytest.mark.parametrize(("report", "name"), TABLES)
def test_a_committed_table_fits_a_page_at_8_points(report: str, name: str, tmp_path: Path) -> None:
    tex = (REPORTS / report / name).read_text()
    assert "resizebox" not in tex
    limit = {"table3.tex": NEURIPS, "table3-narrow.tex": COLUMN}.get(name, ICML)
    widths = natural_widths(tex, tmp_path)
    assert len(widths) == len(tabulars(tex)) > 0
    assert max(widths) <= limit, widths
    log = typeset(tex, limit, tmp_path)
    assert "Overfull" not in log


def test_the_measure_sees_a_table_that_is_too_wide(tmp_path: Path) -> None:
    wide = r"\begin{tabular}{l}\rule{6in}{1pt}\end{tabular}"
    (width,) = natural_widths(wide, tmp_path)
    assert width == pytest.approx(6 + 8 / 72.27, abs=0.01)
    table = rf"\begin{{table}}\centering {wide}\end{{table}}"
    assert "Overfull" in typeset(table, NEURIPS, tmp_path)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_table_3_fits_with_intervals_and_with_long_parameters(n_seeds: int, tmp_path: Path) -> None:
    for seed in range(n_seeds):
        for beta in (1.0, 6.0):
            run = train_run(tmp_path / "results", "trades", params={"beta": beta}, seed=seed)
            evaluate_all(run, clean=0.9, pgd=0.6, cw=0.6, autoattack=0.5)
        run = train_run(tmp_path / "results", r"a_5% & {^~", seed=seed)
        evaluate_all(run, clean=1.0, pgd=1.0, cw=1.0, autoattack=1.0)
    write_report(load_records(tmp_path / "results"), tmp_path / "r", command="bench report")
    for name, limit in (("table3.tex", NEURIPS), ("table3-narrow.tex", COLUMN)):
        tex = (tmp_path / "r" / name).read_text()
        assert "Overfull" not in typeset(tex, limit, tmp_path)
