"""Tables 1, 2 and 4 of the paper from made records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.folder import RunFolder
from bench.report.artefact import Output
from bench.report.export import Bold
from bench.report.published import published
from bench.study import AskedAttack
from tests.report.made import evaluate
from tests.report.made_suite import falling, make_suite, nothing
from tests.report.outputs import BY_NAME, chosen_of, numbers_of, output_of

TABLES = ("table1", "table2", "table4")
PAPER = published("cat").more


def cells(output: Output, name: str) -> list[dict[str, Any]]:
    """The rows of a table by its headings."""
    return [dict(row) for _, row in output.tables[name].text.iterrows()]


def reading(output: Output, name: str) -> str:
    """What stands under a table."""
    return "\n".join([*output.tables[name].notes, *output.below])


def second_seed_lacks_train(method: str, asked: AskedAttack, eps: float, seed: int) -> float | None:
    return None if seed == 1 and asked.split == "train" else falling(method, asked, eps, seed)


def masked(method: str, asked: AskedAttack, eps: float, seed: int) -> float | None:
    """cat-ce falls to images from elsewhere, and one transfer on cat-mix was not made."""
    transferred = asked.name.startswith("transfer")
    if method == "cat-mix" and asked.name == "transfer:madry":
        return None
    if method == "cat-ce":
        return 0.3 if transferred else 0.6
    return 0.7 if transferred else falling(method, asked, eps, seed)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Output]:
    """Of the smallest size, with gaps: Table 1 of two seeds, Table 4 with a masked model."""
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        make_suite(folder / "table1", "table1", seeds=(0, 1), survives=second_seed_lacks_train)
        methods = ("natural", "trades", "cat-mix")
        make_suite(folder / "table2", "table3", methods=methods, survives=nothing)
        make_suite(
            folder / "table4", "table4", methods=("madry", "cat-ce", "cat-mix"), survives=masked
        )
    return {name: output_of(folder / name, name) for name in TABLES}


def test_what_lacks_is_named(tables: Mapping[str, Output]) -> None:
    eps = ("0.06375", "0.1275", "0.1913")
    assert tables["table1"].lacks == tuple(
        f"madry, eps {train}, seed 1: no pgd-20 at eps 0.06375 ({checkpoint}, train)"
        for train in eps
        for checkpoint in ("best", "last")
    )
    assert [text for text in tables["table2"].lacks if text.startswith("cat")] == [
        "cat-ce: no training"
    ]
    assert tables["table4"].lacks == (
        "trades: no training",
        "cat-mix: no transfer:madry at eps 0.1913 (best)",
    )


def test_only_the_full_size_on_the_paper_s_data_is_comparable(tmp_path: Path) -> None:
    for folder, dataset, remark in (
        ("a", None, ""),
        ("b", "cifar10-q75", " (cifar10-q75, size full: not comparable)"),
    ):
        make_suite(tmp_path / folder, "table1", size="full", dataset=dataset, images=10)
        headings = cells(output_of(tmp_path / folder, "table1"), "table1")[0]
        paper = [heading for heading in headings if heading.startswith("Paper")]
        assert paper == [f"Paper: robust, {split}{remark}" for split in ("test", "train")]
    assert chosen_of(tmp_path / "a", "table1").caption.endswith(
        "110 epochs): the paper's size, by recipe common."
    )
    assert chosen_of(tmp_path / "b", "table1").caption.endswith("not the paper's.")


def test_table1_has_the_real_radius_and_the_paper_s_values_once(
    tables: Mapping[str, Output],
) -> None:
    rows = cells(tables["table1"], "table1")
    assert [row["Trained at eps"] for row in rows[::2]] == [
        "0.06375 (the paper's 0.01)",
        "0.1275 (the paper's 0.02)",
        "0.1913 (the paper's 0.03)",
    ]
    assert [list(row.values())[-2:] for row in rows] == [
        ["69.79 \u00b9", "99.96 \u00b9"], ["", ""], ["69.06 \u00b9", "99.99 \u00b9"], ["", ""],
        ["66.04 \u00b9", "99.16 \u00b9"], ["", ""],
    ]  # fmt: skip
    assert "its values are accuracies" in reading(tables["table1"], "table1")
    numbers = numbers_of(tables["table1"], "table1").dropna(subset="paper_accuracy")
    train = numbers[numbers["split"] == "train"]
    stated = {row["eps"]: row["train"] for row in PAPER["table1"]["rows"]}
    assert dict(zip(train["paper_train_eps"], train["paper_accuracy"], strict=True)) == stated


def test_table1_over_seeds(tables: Mapping[str, Output]) -> None:
    rows = numbers_of(tables["table1"], "table1")
    own = rows[(rows["paper_train_eps"] == 0.01) & (rows["checkpoint"] == "best")]
    found = own.set_index(["split", "attack"])
    robust = found.loc["test", "pgd-20"]
    assert (robust["n"], robust["n_seeds"]) == (100, 2)
    assert robust.isna()["low"]
    assert 0 < robust["std"] < 0.05
    assert found.loc["train", "pgd-20"]["n_seeds"] == 1
    assert found.loc["train", "pgd-20"].isna()["std"]
    row = cells(tables["table1"], "table1")[0]
    mean, std = (f"{100 * robust[name]:.1f}" for name in ("accuracy", "std"))
    assert row["Robust, test"] == f"{mean} \u00b1 {std}"
    assert row["Robust, train"].endswith("(1 of 2 seeds)")


def test_table2_quotes_the_cards(tables: Mapping[str, Output]) -> None:
    rows = {row["Method"]: row for row in cells(tables["table2"], "table2")}
    assert len(rows) == 10
    assert rows["trades"]["Outer: minimised"].startswith("CE(Z(x'), y) + beta |trades|")
    assert rows["trades"]["With"] == "beta = 6"
    notes = tables["table2"].tables["table2"].notes
    assert rows["madry"]["Outer: minimised"] == "\u2013 \u00b9"
    assert notes[0] == "No training."
    assert "swaps the arguments" in "".join(notes)
    assert set(numbers_of(tables["table2"], "table2")["method"]) == {"natural", "trades", "cat-mix"}


def test_table2_without_cards_says_so(tmp_path: Path) -> None:
    make_suite(tmp_path, "table3", methods=("madry",), survives=nothing)
    chosen = chosen_of(tmp_path, "table3")
    (run,) = chosen.studies[0].runs["madry"]
    run.card["objective"] = ""  # type: ignore[index]
    make = BY_NAME["table2"].make
    assert make is not None
    made = make(chosen)
    assert not made.tables
    assert "madry: no objective on record" in made.lacks


def test_table4_marks_what_falls_below_the_white_box(tables: Mapping[str, Output]) -> None:
    rows = {row["Method"].split()[0]: row for row in cells(tables["table4"], "table4")}
    assert list(rows) == ["madry", "trades", "cat-ce", "cat-mix"]
    bold = {(m, heading) for m, row in rows.items() for heading, cell in row.items()
            if isinstance(cell, Bold)}  # fmt: skip
    sources = ("natural", "madry", "natural+madry")
    assert bold == {("cat-ce", f"From {source}") for source in sources}
    assert "the difference is \u221231.0 points [\u2212" in reading(tables["table4"], "table4")
    numbers = numbers_of(tables["table4"], "table4").dropna(subset="minus_white_box")
    gaps = numbers.set_index(["method", "source"])["minus_white_box"]
    assert gaps["cat-ce", "madry"] == pytest.approx(-0.31)
    assert (gaps[["madry", "cat-mix"]] >= 0).all()


def test_table4_scores_all_images_as_well(tables: Mapping[str, Output]) -> None:
    rows = numbers_of(tables["table4"], "table4")
    found = rows[rows["method"] == "madry"].set_index(["attack", "scoring"])
    assert found["accuracy"]["transfer", "robust"] == 0.7
    assert found["accuracy"]["transfer", "all images"] == 0.71
    assert set(found["eps"]) == {0.19125}
    assert set(found["paper_eps"]) == {0.03}
    assert found["low"]["transfer", "all images"] < 0.71


def test_table4_shows_two_networks_that_are_one_once(
    tables: Mapping[str, Output], tmp_path: Path
) -> None:
    rows = cells(tables["table4"], "table4")
    assert [row["Network"] for row in rows] == ["cnn", "", "", ""]
    assert list(rows[2].values())[-1].startswith("86.58 (vgg-16), 88.66 (wrn-34-10) ")
    make_suite(tmp_path, "table4", size="full", images=20)
    rows = cells(output_of(tmp_path, "table4"), "table4")
    assert [row["Network"] for row in rows] == ["vgg-16", "", "", "", "wrn-34-10", "", "", ""]
    assert [row["Paper, all images"].split()[0] for row in rows] == [
        f"{100 * PAPER['table4'][arch][name]:.2f}"
        for arch in ("vgg-16", "wrn-34-10")
        for name in ("madry", "trades", "cat", "cat")
    ]


def test_images_that_were_not_asked_for_do_not_count(tmp_path: Path) -> None:
    make_suite(tmp_path, "table1", survives=nothing)
    (run,) = chosen_of(tmp_path, "table1").studies[0].runs["madry"]
    folder = RunFolder(tmp_path, run.run_id)
    evaluate(folder, "pgd-20", range(150), 300, clean=1.0, eps=0.06375, split="train")
    made = output_of(tmp_path, "table1")
    rows = numbers_of(made, "table1")
    robust = rows[rows["attack"] == "pgd-20"]
    assert robust[["accuracy", "n"]].to_numpy().tolist() == [[1, 100]]
    assert "madry, eps 0.06375: no pgd-20 at eps 0.06375 (best)" in made.lacks
    assert "madry, eps 0.1275: not evaluated" in made.lacks


@pytest.mark.parametrize("name", TABLES)
def test_an_alarm_is_marked_and_explained(tmp_path: Path, name: str) -> None:
    suite = BY_NAME[name].suite
    make_suite(tmp_path, suite, methods=("madry",), images=10)
    run = chosen_of(tmp_path, suite).studies[0].runs["madry"][0]
    check = {"name": "AA square", "value": 0.1, "threshold": 0.02, "alarm": True}
    folder = RunFolder(tmp_path, run.run_id)
    evaluate(folder, "autoattack", 0.1, 10, eps=0.4, package_checks=(check,))
    made = output_of(tmp_path, name)
    methods = [row["Method"] for row in cells(made, name) if row["Method"].startswith("madry")]
    assert methods[0] == "madry \u2020"  # the others are trainings at other radii
    assert "\u2020: alarm of a masking check." in reading(made, name)
