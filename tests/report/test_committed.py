"""The committed reports are those of the committed records: the same files, text and numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.records import load_records
from bench.report import write_report

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "smoke"])
def test_the_committed_report_is_that_of_the_records(name: str, tmp_path: Path) -> None:
    records = load_records(ROOT / "results" / name)
    assert len(records)
    assert not records.damaged
    command = f"bench report --results results/{name} --reports reports/{name}"
    write_report(records, tmp_path, command=command, results=f"results/{name}")
    committed = ROOT / "reports" / name
    made = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    ignored = {Path("index.html")} if name == "smoke" else set()  # a megabyte for each version
    made -= ignored
    there = {p.relative_to(committed) for p in committed.rglob("*") if p.is_file()}
    assert made == there - ignored
    for file in sorted(made):
        if file.suffix in (".md", ".tex", ".html"):
            assert (tmp_path / file).read_text() == (committed / file).read_text(), f"`{command}`"
        if file.suffix == ".csv":
            ours, theirs = (
                pd.read_csv(folder / file, comment="#") for folder in (tmp_path, committed)
            )
            pd.testing.assert_frame_equal(ours, theirs, rtol=1e-6)
