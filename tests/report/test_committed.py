"""The committed reports are those of the committed records: the same command, the same bytes.

Of the text files; pictures depend on the version of matplotlib, and are not drawn here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.records import load_records
from bench.report import write_report

ROOT = Path(__file__).parent.parent.parent
TEXT = (".md", ".csv", ".tex")


@pytest.mark.parametrize("name", ["digits", "paper-tiny"])
def test_the_committed_report_is_that_of_the_records(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = [
        module
        for key, module in list(sys.modules.items())
        if key.startswith("bench.report") and hasattr(module, "picture_files")
    ]
    assert len(drawing) > 10
    for module in drawing:
        monkeypatch.setattr(module, "picture_files", lambda *_: {".png": b"", ".svg": b""})
    records = load_records(ROOT / "results" / name)
    assert len(records)
    assert not records.damaged
    command = f"bench report --results results/{name} --reports reports/{name}"
    write_report(records, tmp_path, command=command, results=f"results/{name}")
    committed = ROOT / "reports" / name
    made = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    assert made == {p.relative_to(committed) for p in committed.rglob("*") if p.is_file()}
    for file in sorted(p for p in made if p.suffix in TEXT):
        assert (tmp_path / file).read_text() == (committed / file).read_text(), f"run `{command}`"
