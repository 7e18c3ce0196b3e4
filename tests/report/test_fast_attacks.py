"""Attacks that search on a copy have columns of their own, and stand for no other attack."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.attacks import list_attacks
from bench.records import RunRecord, load_records
from bench.report import write_report
from bench.report.masking import masking
from bench.report.model_card import model_card
from bench.report.rows import Section, sections
from bench.report.table3 import main_table, other_table
from bench.report.tables.published_results import autoattack_results
from bench.report.titles import TITLES, attack_title
from tests.report.made import evaluate, train_run

N = 100
ALARM = {"name": "AA repeated calls", "value": 1.0, "threshold": 0.0, "alarm": True}


def made(results: Path, **kept: int) -> Section:
    """TRADES on CIFAR-10; each attack, `_` for `-`, leaves the first so many of N images."""
    run = train_run(results, "trades", dataset="cifar10", arch="wrn-34-10")
    for attack, n in {"clean": 90, **kept}.items():
        checks = [ALARM] if attack.startswith("autoattack") else []
        name = attack.replace("_", "-")
        evaluate(run, name, range(n), N, clean=1.0, package_checks=checks)
    (section,) = sections(load_records(results))
    return section


def record(results: Path) -> RunRecord:
    (run,) = load_records(results)
    return run


def test_their_columns_are_their_own(tmp_path: Path) -> None:
    section = made(
        *(tmp_path,),
        pgd_20=60,
        autoattack=50,
        autoattack_fast=51,
        pgd_20_fast=58,
        autoattack_fast_fp32=49,
    )
    row = next(row for row in section.rows if row.checkpoint == "best")
    cells = _best(section)
    assert (cells["PGD-20"], cells["AutoAttack"]) == ("60.0", "50.0")
    assert cells["Worst case"] == "50.0"  # over pgd-20 and autoattack
    assert row.gap is not None
    assert row.gap.value == pytest.approx(0.1)
    table = other_table(section)
    assert table is not None
    assert table.text.iloc[0, 1:].to_dict() == {
        "Lowest seen": "49.0",  # what any of them broke is broken
        "AutoAttack, fast (bf16 search)": "51.0",
        "AutoAttack, fast (fp32 search)": "49.0",
        "PGD-20, fast (bf16 search)": "58.0",
    }
    card = model_card(record(tmp_path), ("pgd-20", "autoattack", "autoattack-fast"), "")
    assert card is not None
    names = [(stage.block, stage.name) for stage in card.accuracies]
    assert ("", "AutoAttack, fast (bf16 search)") in names
    assert next(stage.value for stage in card.accuracies if stage.block) == pytest.approx(0.5)


def _best(section: Section) -> dict[str, str]:
    """Heading -> the first word of the cell in the row of the best checkpoint."""
    text = main_table(section).text
    row = text.iloc[0]
    return {str(heading): str(cell).partition(" ")[0] for heading, cell in row.items()}


def test_alone_they_stand_for_no_other(tmp_path: Path) -> None:
    """No cell of AutoAttack or PGD-20, no gap, no place beside published results, no check."""
    section = made(tmp_path / "r", autoattack_fast=50, pgd_20_fast=60)
    cells = _best(section)
    assert cells["PGD-20"] == cells["AutoAttack"] == "\u2013"
    row = next(row for row in section.rows if row.checkpoint == "best")
    assert row.gap is None
    assert autoattack_results(section) == []
    assert masking([record(tmp_path / "r")], "best").findings == ()
    card = model_card(record(tmp_path / "r"), ("autoattack", "autoattack-fast"), "")
    assert card is not None
    assert not any(stage.block for stage in card.accuracies)
    assert autoattack_results(made(tmp_path / "s", autoattack=50, pgd_20_fast=60))


def test_every_fast_attack_has_a_title_and_the_csv_keeps_the_name(tmp_path: Path) -> None:
    assert {n for n in list_attacks() if "-fast" in n and "x10" not in n} == {
        n for n in TITLES if "-fast" in n
    }
    assert attack_title("pgd-20-fast (steps=40)") == "PGD-20, fast (bf16 search) (steps=40)"
    assert attack_title("apgd-ce") == "apgd-ce"
    made(tmp_path / "r", autoattack=50, autoattack_fast=51)
    write_report(load_records(tmp_path / "r"), tmp_path / "p", command="bench report")
    head = (tmp_path / "p" / "table3.csv").read_text().splitlines()[1].split(",")
    assert {"autoattack", "autoattack-fast"} <= set(head)
    assert "AutoAttack, fast (bf16 search)" in (tmp_path / "p" / "table3.md").read_text()
