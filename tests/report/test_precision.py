"""Whether bf16 costs robust accuracy is judged from paired runs, and `auto` goes by that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.precision import Paired, automatic, evidence
from bench.records import load_records
from bench.report.precision import paired_precisions, precision_page
from bench.report.statistics import mean_difference
from tests.report.made import evaluate, train_run

ROW = Paired(
    method="madry",
    arch="cnn",
    dataset="digits",
    attack="pgd-20",
    eps=0.2,
    n_train=1294,
    epochs=20,
    n_seeds=5,
    n_images=360,
    fp32=0.7,
    bf16=0.701,
    low=-0.01,
    high=0.012,
)


def both(
    results: Path, seed: int, fp32: Sequence[int], bf16: Sequence[int], *, n: int = 100
) -> None:
    """Runs of one seed whose networks keep these images."""
    for precision, kept in (("fp32", fp32), ("bf16", bf16)):
        folder = train_run(results, "madry", seed=seed, precision=precision)
        evaluate(folder, "pgd-20", kept, n)


def test_runs_are_paired_by_seed_and_image(tmp_path: Path) -> None:
    both(tmp_path, 0, range(60), range(50))
    both(tmp_path, 1, range(60), range(64))
    train_run(tmp_path, "madry", seed=2)  # has no partner, and no attack
    (row,) = paired_precisions(load_records(tmp_path))
    assert (row.method, row.n_seeds, row.n_images) == ("madry", 2, 100)
    assert (row.fp32, row.bf16) == pytest.approx((0.6, 0.57))
    differences = np.repeat([0, -0.5, 0.5, 0], [50, 10, 4, 36])
    assert (row.low, row.high) == pytest.approx(mean_difference(differences))


def test_a_seed_in_one_precision_and_half_an_evaluation_do_not_count(tmp_path: Path) -> None:
    both(tmp_path, 0, range(60), range(60))
    evaluate(train_run(tmp_path, "madry", seed=1), "pgd-20", range(9), 100)
    folder = train_run(tmp_path, "madry", seed=1, precision="bf16")
    evaluate(folder, "pgd-20", range(300), 300, chunks=[0])
    (row,) = paired_precisions(load_records(tmp_path))
    assert row.n_seeds == 1


@pytest.mark.parametrize(
    ("fast", "rows", "chosen", "reason"),
    [
        (True, [ROW], "bf16", "within 2 points"),
        (False, [ROW], "fp32", "no bf16 arithmetic"),
        (True, [], "fp32", "no comparison"),
        (True, [replace(ROW, n_seeds=4)], "fp32", "no comparison of 5 seeds"),
        (True, [ROW, replace(ROW, dataset="x", high=0.021)], "fp32", "on x, madry"),
        (True, [replace(ROW, low=-0.0201)], "fp32", "-2.0 to +1.2"),
        (True, [ROW, replace(ROW, n_seeds=1, dataset="y")], "bf16", "2 comparisons"),
    ],
)
def test_auto_needs_hardware_seeds_and_narrow_intervals(
    fast: bool, rows: list[Paired], chosen: str, reason: str
) -> None:
    precision, why = automatic(fast, rows)
    assert precision == chosen
    assert reason in why


def test_the_page_shows_each_row_and_the_verdict() -> None:
    page = precision_page([ROW], "`auto` is bf16, since so it is")
    (row,) = (line for line in page.splitlines() if line.startswith("| madry"))
    cells = "madry|cnn|digits|0.2|1294|20|5|360|70.0|70.1|+0.1|-1.0 to +1.2"
    assert [cell.strip() for cell in row.strip("|").split("|")] == cells.split("|")
    assert "`auto` is bf16, since so it is" in page


def test_the_package_carries_what_the_committed_records_show() -> None:
    rows = paired_precisions(load_records(Path(__file__).parents[2] / "results" / "precision"))
    assert rows
    assert evidence() == rows
    assert max(row.n_seeds for row in rows) >= 5
    assert {row.dataset for row in rows} >= {"digits", "cifar10-q75"}
