from __future__ import annotations

from pathlib import Path

import pytest

from bench.records import load_records
from bench.records.run_folder import RunFolder
from bench.report.accuracy import AccuracyEstimate
from bench.report.export import Bold
from bench.report.groups import attack_labels
from bench.report.rows import MASKING_GAP, Section, TableRow, by_robustness, sections, status
from bench.report.table3 import facts, last_table, main_table, single_seeds
from tests.report.made import attacked, evaluate, evaluate_all, model_run, section_of, train_run

OUTSIDE = "mine.py:make (outside model)"


def row_of(section: Section, label: str, checkpoint: str = "best") -> TableRow:
    return {(row.group.label, row.checkpoint): row for row in section.rows}[label, checkpoint]


def labels(section: Section) -> list[str]:
    return [group.label for group in section.groups]


def value(estimate: AccuracyEstimate | None) -> float | None:
    assert estimate is not None
    return estimate.value


def usual(results: Path, method: str, n: int, n_left: int = 10) -> RunFolder:
    """PGD-20 and C&W leave 40 of 50 images, AutoAttack n_left of n."""
    attacked(results, method, 50, {"pgd-20": 40, "cw": 40})
    return attacked(results, method, n, {"autoattack": n_left})


def test_rows_follow_the_paper_then_the_alphabet(tmp_path: Path) -> None:
    for method in ("zeta", "cat-mix", "alpha", "trades", "natural", "cat-ce", "madry"):
        train_run(tmp_path, method)
    model_run(tmp_path)
    assert labels(section_of(tmp_path)) == [
        *("natural", "madry", "trades", "cat-ce", "cat-mix", "alpha", "zeta", OUTSIDE)
    ]


def test_each_setting_is_a_section(tmp_path: Path) -> None:
    train_run(tmp_path, "madry")
    train_run(tmp_path, "madry", dataset="cifar10")
    train_run(tmp_path, "madry", arch="vgg-16")
    train_run(tmp_path, "madry", recipe="paper", epochs=200)
    train_run(tmp_path, "madry", eps=0.031)
    found = [section.setting for section in sections(load_records(tmp_path))]
    assert [s.dataset for s in found] == ["cifar10", "digits", "digits", "digits", "digits"]
    assert len({s.slug for s in found}) == 5


def test_seeds_are_averaged_and_other_parameters_are_not(tmp_path: Path) -> None:
    for seed, beta, n_left in ((0, 6.0, 4), (1, 6.0, 6), (0, 1.0, 9)):
        attacked(tmp_path, "trades", 10, {"cw": n_left}, seed=seed, params={"beta": beta})
    section = section_of(tmp_path)
    assert labels(section) == ["trades (beta=1)", "trades (beta=6)"]
    cell = row_of(section, "trades (beta=6)").attacks["cw"]
    assert cell.value == pytest.approx(0.5)
    assert cell.std == pytest.approx(0.02**0.5)
    assert cell.n == (10, 10)
    assert row_of(section, "trades (beta=1)").attacks["cw"].value == pytest.approx(0.9)


def test_only_the_training_eps_and_the_test_split_count(tmp_path: Path) -> None:
    run = attacked(tmp_path, "madry", 10, {"pgd-20": 8})
    evaluate(run, "cw", range(3, 10), 10)
    evaluate(run, "pgd-20", range(0), 10, eps=16 / 255)
    evaluate(run, "pgd-20", range(1), 10, split="train")
    evaluate(run, "fgsm", range(1), 10, split="val")
    section = section_of(tmp_path)
    row = row_of(section, "madry")
    assert row.attacks["pgd-20"].value == 0.8
    assert value(row.worst) == 0.5  # images 3 to 7
    assert row.worst_over == ("pgd-20", "cw")
    assert section.attacks == ()


def test_the_gap_is_paired_and_above_the_threshold_marks_the_row(tmp_path: Path) -> None:
    for method, broken in (("cat-ce", 6), ("madry", 5)):
        run = train_run(tmp_path, method)
        evaluate(run, "pgd-20", range(60), 200)
        evaluate(run, "autoattack", range(broken, 60), 100)
    section = section_of(tmp_path)
    masked = row_of(section, "cat-ce")
    assert masked.gap is not None
    assert masked.gap.value == pytest.approx(0.06)
    assert masked.gap.n == (100,)
    assert value(row_of(section, "madry").gap) == pytest.approx(MASKING_GAP) == 0.05
    assert [row.suspicious for row in section.rows] == [False, False, True, False]


def test_all_numbers_of_a_row_are_of_the_images_that_most_rows_have(tmp_path: Path) -> None:
    for method, n in (("natural", 20), ("madry", 20), ("trades", 30), ("mart", 50)):
        usual(tmp_path, method, n)
    section = section_of(tmp_path)
    assert section.worst_over == ("pgd-20", "cw", "autoattack")
    assert section.index.tolist() == list(range(20))
    best = section.main_rows
    assert len(best) == 4
    for row in best:
        own = [row.clean, row.worst, row.lowest, row.gap, *row.attacks.values()]
        assert {cell.n for cell in own if cell} == {(20,)}
        assert row.attacks["pgd-20"].value == 1.0
        assert value(row.gap) == 0.5
        assert row.whole["pgd-20"].n == row.whole["clean"].n == (50,)
        assert row.whole["pgd-20"].value == 0.8
    assert [row.whole["autoattack"].n for row in best] == [(20,), (20,), (30,), (50,)]


def test_of_sets_that_are_as_frequent_the_larger_is_the_table_s(tmp_path: Path) -> None:
    for method, n in (("natural", 20), ("madry", 30)):
        usual(tmp_path, method, n)
    section = section_of(tmp_path)
    assert len(section.index) == 30
    assert [len(row.index) for row in section.main_rows] == [20, 30]


def test_an_evaluation_that_is_not_finished_leaves_the_other_rows_as_they_are(
    tmp_path: Path,
) -> None:
    for method in ("natural", "madry"):
        run = train_run(tmp_path, method)
        for attack in ("pgd-20", "autoattack"):
            chunks = [0] if (method, attack) == ("madry", "autoattack") else None
            evaluate(run, attack, range(200), 300, chunks=chunks)
    section = section_of(tmp_path)
    begun = row_of(section, "madry")
    assert (len(row_of(section, "natural").index), len(begun.index)) == (300, 256)
    assert (begun.attacks["pgd-20"].n, begun.attacks["pgd-20"].n_expected) == ((256,), (256,))
    cell = begun.attacks["autoattack"]
    assert (cell.n, cell.n_expected) == ((256,), (300,))
    assert begun.worst is not None
    assert begun.worst.n == (256,)


def test_an_evaluation_without_an_image_yet_is_not_on_record(tmp_path: Path) -> None:
    run = train_run(tmp_path, "madry")
    evaluate(run, "autoattack", range(5), 10)
    next(run.path.glob("evaluations/autoattack-*/0.npz")).write_bytes(b"cut")
    (record,) = load_records(tmp_path)
    assert status(record) == "not evaluated"
    evaluate(run, "pgd-20", range(6), 10)
    section = section_of(tmp_path)
    row = row_of(section, "madry")
    assert section.worst_over == row.lowest_over == tuple(row.attacks) == ("pgd-20",)
    assert len(row.index) == 10


def test_a_last_checkpoint_without_autoattack_is_of_the_table_s_images(tmp_path: Path) -> None:
    madry = usual(tmp_path, "madry", 20)
    evaluate(madry, "pgd-20", range(10, 50), 50, checkpoint="last")
    last = row_of(section_of(tmp_path), "madry", "last")
    assert last.index.tolist() == list(range(20))
    assert last.clean is not None
    assert last.clean.n == (20,)
    assert last.attacks["pgd-20"].value == value(last.lowest) == 0.5
    assert (last.worst, last.worst_over, last.lowest_over) == (None, (), ("pgd-20",))


def test_the_worst_case_is_over_what_half_of_the_rows_have_of_the_usual_three(
    tmp_path: Path,
) -> None:
    attacked(tmp_path, "natural", 10, {"pgd-20": 8})
    attacked(tmp_path, "madry", 10, {"pgd-20": 8, "cw": 7, "autoattack": 5})
    attacked(tmp_path, "trades", 10, {"pgd-20": 8, "cw": 6})
    train_run(tmp_path, "mart")  # not attacked, so of no say
    attacked(tmp_path, "iaat", 10, {"clean": 9})
    section = section_of(tmp_path)
    assert section.worst_over == ("pgd-20", "cw")
    madry, natural = row_of(section, "madry"), row_of(section, "natural")
    assert (value(madry.worst), madry.worst_over) == (0.7, ("pgd-20", "cw"))
    assert (value(madry.lowest), len(madry.lowest_over)) == (0.5, 3)
    assert (natural.worst, natural.worst_over) == (None, ())  # no weaker one in its place
    assert by_robustness(section)[:2] == ["madry", "trades"]


def test_without_any_of_the_three_the_worst_case_is_over_what_most_rows_have(
    tmp_path: Path,
) -> None:
    for method, attack in (("natural", "fgsm"), ("madry", "fgsm"), ("trades", "md")):
        attacked(tmp_path, method, 10, {attack: 8})
    section = section_of(tmp_path)
    assert section.worst_over == ("fgsm",)
    assert row_of(section, "trades").worst is None


def test_the_lowest_seen_joins_everything_and_is_never_above_the_worst_case(tmp_path: Path) -> None:
    run = usual(tmp_path, "madry", 20, 15)
    evaluate(run, "md", range(2, 5), 5)  # covers few of the images: the others count without it
    evaluate(run, "transfer", range(1, 50), 50)
    row = row_of(section_of(tmp_path), "madry")
    assert row.worst is not None
    assert row.lowest is not None
    assert (row.worst.value, row.worst.n) == (15 / 20, (20,))
    assert (row.lowest.value, row.lowest.n) == (13 / 20, (20,))
    assert row.lowest_over == ("pgd-20", "cw", "autoattack", "md", "transfer")


def test_a_seed_without_an_attack_weakens_neither_the_worst_case_nor_the_lowest_seen(
    tmp_path: Path,
) -> None:
    attacked(tmp_path, "madry", 10, {"pgd-20": 8, "autoattack": 5}, seed=0)
    attacked(tmp_path, "madry", 10, {"pgd-20": 2, "md": 1}, seed=1)
    row = row_of(section_of(tmp_path), "madry")
    assert row.worst is not None
    assert value(row.worst) == value(row.lowest) == 0.5
    assert (row.worst.n, row.n_seeds) == ((10,), 2)
    assert row.lowest_over == ("pgd-20", "autoattack")


def test_a_table_says_that_one_seed_does_not_rank_methods(tmp_path: Path) -> None:
    for method, n_seeds in (("madry", 1), ("trades", 1), ("mart", 3)):
        for seed in range(n_seeds):
            attacked(tmp_path / method, method, 10, {"pgd-20": 8}, seed=seed)
    runs = {name: list(load_records(tmp_path / name)) for name in ("madry", "trades", "mart")}

    def said(*methods: str) -> list[str]:
        return single_seeds(sections(run for method in methods for run in runs[method]))

    (both,) = said("madry", "trades")
    assert both == "One seed does not rank methods, and 2 of 2 rows here have only one."
    (some,) = said("madry", "mart")
    assert some.endswith("1 of 2 rows here have only one.")
    assert said("madry") == said("mart") == []  # nothing to rank


def test_table_3_is_sorted_by_worst_case_and_has_the_papers_names(tmp_path: Path) -> None:
    for seed, n_left in enumerate((4, 6, 8)):
        attacked(tmp_path, "madry", 10, {"pgd-20": n_left}, seed=seed)
    attacked(tmp_path, "trades", 10, {"pgd-20": 9})
    train_run(tmp_path, "mart", error="no memory")
    section = section_of(tmp_path)
    text = main_table(section, {"trades"}).text
    assert list(text) == ["Method", "Clean", "PGD-20", "C&W", "AutoAttack", "Worst case", "Cost"]
    assert text["Method"].tolist() == ["TRADES", "Madry AT"]
    assert text["PGD-20"].tolist() == ["90.0", "60.0"]
    assert text["Worst case"].tolist() == ["90.0 [59.6, 98.2]", "60.0 \u00b1 20.0"]
    assert [isinstance(cell, Bold) for cell in text["Worst case"]] == [True, False]
    narrow = main_table(section, narrow=True).text
    assert list(narrow) == ["Method", "Clean", "AutoAttack", "Worst case"]
    (absent,) = (line for line in facts(section) if line.startswith("Not in the table"))
    assert absent == "Not in the table: MART: failed: no memory."


def test_only_last_checkpoints_are_shown_as_such(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path, "madry"), "pgd-20", range(4), 10, checkpoint="last")
    trades = attacked(tmp_path, "trades", 10, {"pgd-20": 5})
    evaluate(trades, "pgd-20", range(3), 10, checkpoint="last")
    section = section_of(tmp_path)
    assert main_table(section).text["Method"].tolist() == ["TRADES", "Madry AT (last)"]
    last = last_table(section)
    assert last is not None
    assert last.text.to_dict("records") == [
        {
            "Method": "TRADES",
            "Clean, best": "100.0",
            "Clean, last": "100.0",
            "PGD-20, best": "50.0",
            "PGD-20, last": "30.0",
        }
    ]


def test_status_of_runs(tmp_path: Path) -> None:
    train_run(tmp_path, "natural", error="the loss is not finite\nat epoch 3")
    train_run(tmp_path, "madry", n_epochs_done=7)
    train_run(tmp_path, "trades")
    attacked(tmp_path, "mart", 2, {"cw": 1})
    assert {run.method: status(run) for run in load_records(tmp_path)} == {
        "natural": "failed: the loss is not finite at epoch 3",
        "madry": "unfinished: 7 of 20 epochs",
        "trades": "not evaluated",
        "mart": "",
    }
    rows = section_of(tmp_path).rows
    assert {row.group.label for row in rows if not row.evaluated} == {"natural", "madry", "trades"}


def test_an_outside_model_joins_the_largest_table_at_its_eps(tmp_path: Path) -> None:
    for method in ("natural", "madry", "trades"):
        train_run(tmp_path, method, arch="vgg-16", eps=0.1)
    for method in ("natural", "madry"):
        train_run(tmp_path, method, arch="cnn")
    train_run(tmp_path, "natural", arch="linear")
    outside = model_run(tmp_path)
    evaluate_all(outside, clean=0.9, pgd=0.5, cw=0.5, autoattack=0.4, checkpoint="given")
    found = {s.setting.arch: labels(s) for s in sections(load_records(tmp_path))}
    assert found["cnn"] == ["natural", "madry", OUTSIDE]
    assert len(found["vgg-16"]) == 3


def test_an_outside_model_alone_has_a_table(tmp_path: Path) -> None:
    outside = model_run(tmp_path)
    model_run(tmp_path, "other.py:make", dataset="cifar10")
    evaluate_all(outside, clean=0.9, pgd=0.5, cw=0.5, autoattack=0.4, eps=0.2, checkpoint="given")
    cifar, digits = sections(load_records(tmp_path))
    assert digits.setting.eps == 0.2
    assert row_of(digits, OUTSIDE, "given").gap is not None
    assert [row.evaluated for row in cifar.rows] == [False]


def test_two_models_of_one_name_are_told_apart_without_their_paths(tmp_path: Path) -> None:
    for place in ("/home/a/zoo.py:net", "/home/b/zoo.py:net"):
        model_run(tmp_path, place)
    first, second = labels(section_of(tmp_path))
    assert first != second
    assert "home" not in first + second


def test_attacks_of_one_name_are_told_apart() -> None:
    plain, other = ("transfer", '{"surrogate": "a"}'), ("transfer", '{"surrogate": "b"}')
    assert attack_labels([plain, other, other]) == {
        other: "transfer",
        plain: "transfer (surrogate=a)",
    }


def test_a_row_that_the_evaluator_warns_of_is_named_and_no_other(tmp_path: Path) -> None:
    madry, trades = train_run(tmp_path, "madry"), train_run(tmp_path, "trades")
    evaluate(madry, "pgd-20", 0.5, 100, warnings=["logits are random", "a second one"])
    evaluate(madry, "pgd-20", 0.7, 100, eps=4 / 255, warnings=["left the ball"])  # in no table
    evaluate(trades, "pgd-20", 0.5, 100)
    warned = [line for line in facts(section_of(tmp_path)) if "warns" in line]
    assert warned == [
        "The evaluator warns of Madry AT: logits are random; and 1 more, listed below."
    ]
