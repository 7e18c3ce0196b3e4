"""Published AutoAttack results beside ours: only of the same network and data, and as published."""

from __future__ import annotations

import csv
import re
import tomllib
from pathlib import Path

import pytest

import bench.report
from bench.records import load_records
from bench.records.spec import GIVEN
from bench.report import write_report
from bench.report.export import markdown
from bench.report.rows import Section, sections
from bench.report.tables.published_results import (
    AutoAttackResult,
    autoattack_results,
    results_table,
)
from tests.report.made import evaluate, evaluate_all, model_run, train_run

_FILE = Path(bench.report.__file__).with_name("leaderboards.toml")
ENTRIES = tomllib.loads(_FILE.read_text())["entries"]


def section_of(
    folder: Path, *, dataset: str = "cifar10", arch: str = "wrn-34-10", eps: float = 8 / 255
) -> Section:
    """TRADES with a best checkpoint that AutoAttack was run on, and a last one that it was not."""
    run = train_run(folder, "trades", dataset=dataset, arch=arch, eps=eps)
    evaluate_all(run, clean=0.84, pgd=0.55, cw=0.54, autoattack=0.5, n_autoattack=200, eps=eps)
    evaluate(run, "pgd-20", 0.5, 360, clean=0.84, checkpoint="last", eps=eps)
    (section,) = sections(load_records(folder))
    return section


def published(section: Section) -> dict[str, AutoAttackResult]:
    return {one.name: one for one in autoattack_results(section) if one.origin != "here"}


def test_the_values_are_those_of_the_sources() -> None:
    """A few of each source, typed from it again; and what holds for all."""
    by_name = {e["name"].split(" (")[0]: e for entries in ENTRIES.values() for e in entries}
    for name, clean, autoattack, eps in (
        ("Zhang2019Theoretically", 84.92, 53.08, 0.031),
        ("Wu2020Adversarial", 85.36, 56.17, 8 / 255),
        ("Wang2020Improving", 87.50, 56.29, 8 / 255),
        ("Wong2020Fast", 83.34, 43.21, 8 / 255),
        ("Engstrom2019Robustness", 87.03, 49.25, 8 / 255),
        ("Wang & Zhang", 92.80, 29.35, 8 / 255),
        ("Shafahi et al.", 86.11, 41.47, 8 / 255),
    ):
        entry = by_name[name]
        assert (100 * entry["clean"], 100 * entry["autoattack"]) == pytest.approx(
            (clean, autoattack)
        )
        assert float(entry.get("eps", 8 / 255)) == eps
    for entries in ENTRIES.values():
        assert all(0 < e["autoattack"] < e["clean"] < 1 for e in entries)
        assert [e["autoattack"] for e in entries] == sorted(
            (e["autoattack"] for e in entries), reverse=True
        )
    assert len(by_name) == sum(map(len, ENTRIES.values()))
    assert "extra" in by_name["Wang2020Improving"]
    assert "extra" not in by_name["Wu2020Adversarial"]


def test_ours_come_first_then_those_of_the_same_network(tmp_path: Path) -> None:
    section = section_of(tmp_path)
    ours, *others = autoattack_results(section)
    assert (ours.name, ours.origin, ours.n) == ("trades (best)", "here", (200,))
    assert ours.autoattack == pytest.approx(0.5, abs=0.02)
    assert [one.name for one in others] == [e["name"] for e in ENTRIES["wrn-34-10"]]
    assert published(section)["Zhang2019Theoretically (TRADES)"].differs == ("eps 0.031",)
    assert published(section)["Wu2020Adversarial (TRADES-AWP)"].differs == ()
    text = markdown(results_table([ours, *others]))
    row = next(line for line in text.splitlines() if "trades (best)" in line)
    assert "here; AutoAttack on the first 200 images" in row
    assert "| Wu2020Adversarial (TRADES-AWP), NeurIPS 2020 " in text
    assert re.search(r"\| 85\.36 +\| 56\.17 ", text)


def test_at_the_other_radius_the_difference_is_of_the_others(tmp_path: Path) -> None:
    found = published(section_of(tmp_path, eps=0.031))
    assert found["Zhang2019Theoretically (TRADES)"].differs == ()
    assert found["Wu2020Adversarial (TRADES-AWP)"].differs == ("eps 8/255",)


def test_extra_data_and_other_networks_are_said(tmp_path: Path) -> None:
    found = published(section_of(tmp_path, arch="preact-resnet-18-raw"))
    assert found["Rade2021Helper_R18_ddpm (HAT)"].differs == (
        "1M synthetic images", "network: Swish in place of ReLU",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"dataset": "cifar10-q75"},
        {"dataset": "digits", "arch": "cnn"},
        {"arch": "vgg-16"},
        {"eps": 4 / 255},
    ],
    ids=str,
)
def test_nothing_is_said_of_other_settings(setting: dict[str, str], tmp_path: Path) -> None:
    section = section_of(tmp_path, **setting)  # type: ignore[arg-type]
    assert autoattack_results(section) == []
    made = write_report(load_records(tmp_path), tmp_path / "p", command="bench report")
    assert made.paths
    assert "Published AutoAttack" not in (tmp_path / "p" / "table3.md").read_text()
    assert not (tmp_path / "p" / "context.csv").exists()


def test_without_autoattack_of_ours_there_is_nothing_to_compare(tmp_path: Path) -> None:
    run = train_run(tmp_path, "trades", dataset="cifar10", arch="wrn-34-10")
    evaluate(run, "pgd-20", 0.5, 100)
    outside = model_run(tmp_path, dataset="cifar10")
    evaluate(outside, "autoattack", 0.5, 100, checkpoint=GIVEN)
    (section,) = sections(load_records(tmp_path))
    assert autoattack_results(section) == []


def test_the_report_has_the_block_and_the_csv(tmp_path: Path) -> None:
    section_of(tmp_path / "r")
    records = load_records(tmp_path / "r")
    made = write_report(records, tmp_path / "p", command="bench report")
    text = (tmp_path / "p" / "table3.md").read_text()
    assert "Published AutoAttack results on the same data set, network and eps\n" in text
    assert "lists a model of CAT" in text
    path = tmp_path / "p" / "context.csv"
    assert path in made.paths
    first, *lines = path.read_text().splitlines()
    assert first.startswith("# Made by `bench report`")
    rows = list(csv.DictReader(lines))
    assert len(rows) == 1 + len(ENTRIES["wrn-34-10"])
    assert (rows[0]["origin"], rows[0]["n"]) == ("here", "200")
    (trades,) = (r for r in rows if r["name"].startswith("Zhang2019Theoretically"))
    assert (trades["clean"], trades["autoattack"], trades["n"]) == ("0.8492", "0.5308", "10000")
    assert (trades["differs"], trades["venue"]) == ("eps 0.031", "ICML 2019")
