"""Every number on the page is that of the .csv files, and of `bench compare`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.records import load_records
from bench.report.compare import compare
from bench.report.formatting import MISSING, percent
from bench.report.html.masking import WORST_FIRST
from bench.report.rows import sections
from tests.report.browser.conftest import ROOT, OpenPage
from tests.report.browser.reading import accuracy_text, by_key, numbers, rows

pytestmark = pytest.mark.browser
COLUMNS = ("clean", "worst_case", "autoattack", "pgd20_minus_autoattack")
FULL = {"clean": "clean_full", "pgd-20": "pgd20_full", "cw": "cw_full"}


@pytest.fixture(params=["digits", "several", "demanding_report"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def slug(row: dict[str, str]) -> str:
    recipe = f"-{row['recipe']}" if row["recipe"] else ""
    arch = f"-{row['arch']}" if row["arch"] else ""
    return f"{row['dataset']}{arch}{recipe}-eps{float(row['eps']):.4f}"


def settings(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of table3.csv by the setting's id on the page."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in numbers(folder, "table3"):
        found.setdefault(slug(row), []).append(row)
    return found


def test_the_leaderboard_is_table3(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder, java_script_enabled=False).page
    for place, lines in settings(folder).items():
        main = {row["label"]: row for row in lines if row["checkpoint"] != "last"}
        shown = rows(page, f'[id="{place}"] [data-board]')
        assert [row["label"] for row in shown if row["label"] in main]
        assert {row["label"] for row in shown} == {row["label"] for row in lines}
        worst = []
        for row in shown:
            source = main[row["label"]]
            cells = by_key(row)
            for key in COLUMNS:
                assert cells[key]["order"] == source[key]
                error = key != "pgd20_minus_autoattack"
                assert cells[key]["text"] == accuracy_text(source, key, error=error)
            cost = source["passes_relative_to_madry"]
            assert cells["cost"]["text"] == (f"{float(cost):.2f}" if cost else MISSING)
            worst.append(float(source["worst_case"] or -1))
            assert ("alarm" in row) == bool(source["masking_alarms"])
            assert ("\u2020" in row["label"]) == bool(source["masking_alarms"])
        assert worst == sorted(worst, reverse=True)


def test_every_attack_is_table3(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder, java_script_enabled=False).page
    checked = 0
    for place, lines in settings(folder).items():
        source = {(row["label"], row["checkpoint"]): row for row in lines}
        if not page.locator(f'[id="{place}"] [data-attacks]').count():
            continue
        for row in rows(page, f'[id="{place}"] [data-attacks]'):
            line = source[row["label"], row["checkpoint"]]
            for cell in row["cells"]:
                if name := cell.get("column"):
                    key = FULL.get(name, "autoattack_full" if name == "autoattack" else name)
                    assert cell["text"] == accuracy_text(line, key)
                    checked += 1
    assert checked > 20


def test_a_rank_counts_the_significant_comparisons(digits: Path, open_page: OpenPage) -> None:
    pairs = [row for row in numbers(digits, "comparisons") if row["significant"] == "1"]
    above = Counter(
        row["second"] if float(row["difference"]) > 0 else row["first"] for row in pairs
    )
    below = Counter(
        row["first"] if float(row["difference"]) > 0 else row["second"] for row in pairs
    )
    page = open_page(digits, java_script_enabled=False).page
    shown = rows(page, "[data-board]")
    for row in shown:
        first, last = 1 + above[row["label"]], len(shown) - below[row["label"]]
        text = str(first) if first == last else f"{first}\u2013{last}"
        assert row["cells"][0]["text"] == text


def test_the_curves_are_those_of_the_csv(digits: Path, open_page: OpenPage) -> None:
    page = open_page(digits).ready()
    (data,) = page.evaluate("bench.data.settings")
    names = {"pgd-20": "PGD-20", "cw": "C&W"}
    source = numbers(digits, "robust-accuracy-digits-cnn-common-eps0.2000")
    drawn = [
        (row["attack"], row["eps"], row["accuracy"])
        for row in data["curves"]
        if row["accuracy"] is not None
    ]
    assert drawn == [
        (names[row["attack"]], float(row["eps"]), float(row["accuracy"])) for row in source
    ]
    for attack, title in names.items():
        own = [percent(float(row["accuracy"])) for row in source if row["attack"] == attack]
        table = rows(page, f'[data-curve-table="{title}"]')
        assert [cell["text"] for row in table for cell in row["cells"][1:]] == own


def test_comparisons_equal_bench_compare_for_all_pairs(digits: Path, open_page: OpenPage) -> None:
    records = load_records(ROOT / "results" / "digits")
    (section,) = sections(records)
    labels = {group.title: group.label for group in section.groups}
    page = open_page(digits).ready()
    (data,) = page.evaluate("bench.data.settings")
    source = {(row["first"], row["second"]): row for row in numbers(digits, "comparisons")}
    assert len(data["pairs"]) == len(source) == 21
    for pair in data["pairs"]:
        first, second = labels[pair["first"]], labels[pair["second"]]
        found = compare(records, first, second).numbers
        ours = ("difference", "difference_low", "difference_high", "p", "robust_first")
        theirs = (found.difference, found.low, found.high, found.p, found.first)
        np.testing.assert_allclose([pair[name] for name in ours], theirs, atol=1e-9)
        row = source[first, second]
        assert [pair["n"], pair["significant"]] == [int(row["n"]), row["significant"] == "1"]
        assert pair["p_holm"] == pytest.approx(float(row["p_holm"]), rel=1e-5)
        page.select_option("[data-first]", label=pair["first"])
        page.select_option("[data-second]", label=pair["second"])
        text = page.inner_text("[data-result]")
        assert pair["sentence"] in text
        for name in ("difference", "difference_low", "difference_high"):
            assert percent(float(row[name])) in text


def test_the_discordant_images_are_those_of_the_records(
    several: Path, results: Path, open_page: OpenPage
) -> None:
    """Of methods with one seed, the fourfold table has the counts of McNemar's test."""
    page = open_page(several).ready()
    data = next(s for s in page.evaluate("bench.data.settings") if s["slug"].startswith("digits"))
    checked = 0
    for pair in data["pairs"]:
        if pair["first_only"] is None:
            continue
        page.select_option("[data-first]:visible", label=pair["first"])
        page.select_option("[data-second]:visible", label=pair["second"])
        table = page.locator("[data-fourfold]:visible")
        if table.count():  # not where the pair was attacked on other images than the table
            only = [table.locator(f'[data-kind="{kind}"]').inner_text() for kind in _ONLY]
            total = sum(int(cell) for cell in table.locator("td[data-kind]").all_inner_texts())
            if total == pair["n"]:
                assert only == [str(pair["first_only"]), str(pair["second_only"])]
                checked += 1
    assert checked >= 2


_ONLY = ("first", "second")


def expected_fates(row: Any, seed: Any, section: Any) -> list[int]:
    """How many images have each fate, by a loop over the images, apart from the package's way."""
    joined = ["pgd-20", "cw", "autoattack"]
    counts = [0] * 6
    outcome = {name: dict(zip(o.index, o.correct, strict=True)) for name, o in seed.attacks.items()}
    clean = dict(zip(seed.clean.index, seed.clean.correct, strict=True))
    for image in section.index:
        fate = 5
        if not clean[image]:
            fate = 0
        elif broken := [place for place, name in enumerate(joined, 1) if not outcome[name][image]]:
            fate = broken[0]
        elif not all(own.get(image, True) for own in outcome.values()):
            fate = 4
        counts[fate] += 1
    return counts


def test_the_matrix_has_the_fates_of_the_records(digits: Path, open_page: OpenPage) -> None:
    (section,) = sections(load_records(ROOT / "results" / "digits"))
    page = open_page(digits).ready()
    root = "document.querySelector('.setting')"
    main = {row.group.title: row for row in section.main_rows}
    shares: dict[str, list[list[int]]] = {}
    for place in range(5):
        page.select_option("[data-seed]", str(place))
        for name, counts in page.evaluate(f"{root}.matrix.counts()"):
            seed = main[name].seeds[place]
            assert counts == expected_fates(main[name], seed, section), (name, place)
            shares.setdefault(name, []).append(counts)
    for row in rows(page, "[data-fates]"):
        name, *cells = [cell["text"] for cell in row["cells"]]
        mean = np.mean(shares[name], axis=0) / len(section.index)
        assert cells == [percent(share) for share in mean]


def test_masking_chips_and_checks_are_masking_csv(folder: Path, open_page: OpenPage) -> None:
    page = open_page(folder, java_script_enabled=False).page
    states: dict[tuple[str, str, str], set[str]] = {}
    for line in numbers(folder, "masking") if (folder / "masking.csv").exists() else []:
        if line["checkpoint"] != "last":
            states.setdefault((slug(line), line["label"], line["check"]), set()).add(line["state"])
    shown = 0
    for place in settings(folder):
        board = rows(page, f'[id="{place}"] [data-board]')
        own = {key[1:]: found for key, found in states.items() if key[0] == place}
        checked = [row for row in board if any(label == row["label"] for label, _ in own)]
        for row in board:
            worst = _worst(
                {s for key, found in own.items() if key[0] == row["label"] for s in found}
            )
            chip = row["cells"][7]["text"]
            begins = {
                "pass": "\u2713",
                "watch": "! watch",
                "alarm": "\u2717 alarm",
                "": "not checked",
            }
            assert chip.startswith(begins[worst])
            alarms = {
                code for (label, code), f in own.items() if label == row["label"] and "alarm" in f
            }
            if worst == "alarm":
                assert set(re.findall(r"C\d+|AA", chip)) == alarms
        if not checked:
            continue
        for row in rows(page, f'[id="{place}"] [data-checks]'):
            if "check" not in row:
                continue
            for model, cell in zip(checked, row["cells"][1:], strict=True):
                assert cell["state"] == _worst(own.get((model["label"], row["check"]), set()))
                shown += 1
    assert shown > 0 or folder.name.startswith("several")


def _worst(states: set[str]) -> str:
    return next((state for state in WORST_FIRST if state in states), "")


def test_the_scoreboard_is_claims_csv(demanding_report: Path, open_page: OpenPage) -> None:
    page = open_page(demanding_report).ready()
    verdicts = {row["claim"]: row["claim_verdict"] for row in numbers(demanding_report, "claims")}
    counts = Counter(verdict.lower() for verdict in verdicts.values())
    assert {"supported", "inconclusive"} <= set(counts)
    score = page.locator("[data-score] > span").all_inner_texts()
    assert {text.partition(" ")[2]: int(text.partition(" ")[0]) for text in score} == counts
    for claim, verdict in verdicts.items():
        chip = page.locator(f'[data-claim="{claim}"] summary .chip')
        assert chip.inner_text().lower() == verdict
