"""What a report of many records does must grow with their number, not with its square."""

from __future__ import annotations

import re
import sys
from collections import Counter
from math import comb
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
import pytest

from bench.records import load_records
from bench.report import write_report
from bench.report.accuracy_vs_eps import curves, drawn
from bench.report.rows import MOST, sections
from bench.report.tables.pairwise import pair_matrix
from tests.report import many
from tests.report.made import evaluate, section_of, train_run
from tests.report.many import METHODS, SETTINGS, make_many

N = len(SETTINGS) * len(METHODS)


def calls(results: Path, reports: Path) -> int:
    """Of the project's functions, by a report from reading to writing."""
    n = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal n
        n += event == "call" and "/bench/" in frame.f_code.co_filename

    sys.setprofile(count)
    try:
        write_report(load_records(results), reports, command="bench report")
    finally:
        sys.setprofile(None)
    return n


@pytest.mark.slow
def test_the_work_grows_with_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "SETTINGS", SETTINGS[:1])
    counts = []
    for n_seeds in (1, 2, 6, 10):  # the first report also imports the papers
        results = tmp_path / str(n_seeds)
        make_many(results, len(METHODS) * n_seeds, images=10)
        counts.append(calls(results, tmp_path / "reports"))
    one, two = counts[2] - counts[1], counts[3] - counts[2]
    # of work that grows with the square, the second step has 64 / 32 of the first
    assert two < 1.02 * one


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_many(tmp_path, N, images=300, attacks=("pgd-20", "cw"))
    reads: Counter[Path] = Counter()
    opened = Path.open

    def count(path: Path, *args: Any, **kwargs: Any) -> Any:
        reads[path] += 1
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", count)
    records = load_records(tmp_path)
    assert len(records) == N
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(reads) == {path for path in files if not path.name.startswith(".")}
    assert set(reads.values()) == {1}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods more than are compared; the last of them is the most robust."""
    results = tmp_path_factory.mktemp("crowd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        for number in range(MOST + 3):
            run = train_run(results, f"own-{number:02}")
            for eps in (4 / 255, 8 / 255):
                evaluate(run, "pgd-20", range(2 * number), 100, eps=eps)
    return results


def test_of_very_many_methods_the_most_robust_are_compared(crowd: Path) -> None:
    section = section_of(crowd)
    found = pair_matrix(section)
    assert found is not None
    assert found.labels == tuple(f"own-{number:02}" for number in range(MOST + 2, 2, -1))
    assert len(found.pairs) == comb(MOST, 2)
    assert found.n_methods == MOST + 3
    everyone = pair_matrix(section, most=MOST + 3)
    assert everyone is not None
    for names, pair in found.pairs.items():
        other = everyone.pairs[names]
        assert pair is not None
        assert other is not None
        assert (pair.numbers.p, pair.n_pairs) == (other.numbers.p, comb(MOST + 3, 2))
        # nothing becomes significant by leaving others out
        assert (pair.p_holm or 0.0) >= (other.p_holm or 1.0) >= pair.numbers.p


@pytest.mark.slow
def test_a_report_says_who_is_left_out(crowd: Path, tmp_path: Path) -> None:
    records = load_records(crowd)
    write_report(records, tmp_path, command="bench report")
    text = (tmp_path / "table3.md").read_text()
    assert f"The {MOST} most robust of {MOST + 3}. Points of" in text
    assert re.search(rf"after Holm's correction: \d+ of {comb(MOST + 3, 2)} pairs", text)
    assert f"The {MOST} most robust of {MOST + 3} are drawn; [the numbers of all](robust-" in text
    (section,) = sections(records)
    everyone = curves(section)
    left_out = {c.label for c in everyone} - {c.label for c in drawn(section, everyone)}
    assert left_out == {"own-00", "own-01", "own-02"}
    (file,) = tmp_path.glob("robust-accuracy-*.csv")
    assert pd.read_csv(file, comment="#")["method"].nunique() == MOST + 3
