"""The page of claims of a few made records, compared with text that a person has read.

After a change that is meant: `REGENERATE_GOLDEN=1 pytest tests/report/test_claims_golden.py`, then
read the difference in git line by line before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench.report.claims import CLAIMS, claims_files
from bench.report.claims.evidence import radii

from bench.records import load_records
from bench.report.titles import AUTOATTACK, PGD
from bench.suite import load_suite
from tests.report.cells import attacked, cell, first, measured

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Claims of each kind: refuted, confirmed, open, partly and wholly without records."""
    folder = tmp_path_factory.mktemp("claims")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        _table3(folder)
        _plane(folder)
        _table1(folder)
    return claims_files(load_records(folder), "Made by `bench report` from made records.")


def _table3(folder: Path) -> None:
    own = load_suite("table3", "tiny").only()
    kept = {"madry": (60, 50), "trades": (64, 58), "mart": (66, 50), "cat-ce": (90, 20)}
    for method, (pgd, hardest) in kept.items():
        run = cell(folder, own, method, passes=12.0 if method == "cat-ce" else 11.0)
        attacked(run, PGD, first(120, pgd), eps=own.eps)
        attacked(run, AUTOATTACK, first(120, hardest), eps=own.eps)
        for number, alarm in ((3, False), (8, method == "cat-ce")):
            check = {"name": f"C{number}: x", "value": 0.1, "threshold": 0.01, "alarm": alarm}
            measured(run, f"C{number}", eps=own.eps, n=32, values=check)


def _plane(folder: Path) -> None:
    within, beyond = load_suite("figure1").studies
    for own, method, k in ((within, "madry", 600), (beyond, "madry", 500), (beyond, "cat-ce", 600)):
        run = cell(folder, own, method, num_classes=2)
        kept = first(600, k)
        attacked(run, "clean", kept, clean=kept, eps=own.eps, checkpoint="last")


def _table1(folder: Path) -> None:
    own = load_suite("table1", "tiny").studies[0]
    run = cell(folder, own, "madry", seed=1)
    at = radii(own, PGD)[0]
    for split, k in (("test", 80), ("train", 119)):
        attacked(run, PGD, first(120, k), eps=at, checkpoint="last", split=split)


@pytest.mark.parametrize("name", ["claims.md", "claims.csv"])
def test_equals_the_golden_text(files: dict[str, bytes], name: str) -> None:
    if os.environ.get("REGENERATE_GOLDEN"):
        (GOLDEN / name).write_bytes(files[name])
    assert files[name].decode() == (GOLDEN / name).read_text()


def test_the_page_says_what_is_masked_and_what_is_missing(files: dict[str, bytes]) -> None:
    sections = files["claims.md"].decode().split("\n## ")
    summary = {row.split()[1]: row for row in sections[1].splitlines() if row.startswith("| ")}
    assert {one.key for one in CLAIMS} <= summary.keys()
    assert "cat-ce C8" in summary["1a"]
    (robust,) = (section for section in sections if section.startswith("1a "))
    assert "| cat-ce \u2020 vs madry " in robust
    assert "alarms on cat-ce (C8; 2 of 14 made)" in robust
    assert "no alarm on madry (2 of 14 made)" in robust
    assert "cat-mix: no training. Run `bench run --suite table3 --size tiny`" in robust
    (hardest,) = (section for section in sections if section.startswith("1c "))
    assert "**does not hold** (3: 3 do not)" in hardest


def test_every_row_has_as_many_cells_as_its_heading(files: dict[str, bytes]) -> None:
    for block in files["claims.md"].decode().split("\n\n"):
        widths = {row.count(" | ") for row in block.splitlines() if row.startswith("| ")}
        assert len(widths) <= 1, block
