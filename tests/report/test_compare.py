from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from bench.errors import ConfigError, RecordError
from bench.records import load_records
from bench.records.run_folder import RunFolder
from bench.records.spec import GIVEN
from bench.report.compare import (
    MethodComparison,
    block,
    compare,
    corrected,
    p_text,
    sentence,
)
from bench.report.export import latex, markdown
from bench.report.statistics import crossed_mean, holm, mcnemar, mcnemar_interval
from bench.report.tables.pairwise import (
    PairMatrix,
    leaders,
    pair_matrix,
    pairwise_csv,
    pairwise_legend,
    pairwise_table,
)
from tests.report.made import attacked, evaluate, model_run, section_of, train_run


def both_checkpoints(folder: RunFolder, attack: str, survived: Sequence[int], n: int) -> None:
    evaluate(folder, attack, survived, n)
    evaluate(folder, attack, survived[:1], n, checkpoint="last")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Of 20 images under PGD, of which the first 16 under C&W."""
    mine, madry = train_run(tmp_path, "mine"), train_run(tmp_path, "madry")
    both_checkpoints(mine, "pgd-20", range(18), 20)
    both_checkpoints(mine, "cw", range(1, 16), 16)
    both_checkpoints(madry, "pgd-20", [*range(6), 17, 18, 19], 20)
    both_checkpoints(madry, "cw", [0, *range(8, 16)], 16)
    evaluate(mine, "autoattack", [], 16)  # madry has none: it would be judged by less
    evaluate(madry, "fgsm", [0], 20)
    return tmp_path


def test_robust_is_the_worst_case_over_what_both_have_on_the_images_of_both(two: Path) -> None:
    found = compare(load_records(two), "mine", "madry")
    n = found.numbers
    assert found.attacks == ("pgd-20", "cw")
    # mine: images 1 to 15 of 16; madry: image 0 alone
    assert (n.n, n.first, n.second, n.difference) == (16, 15 / 16, 1 / 16, 14 / 16)
    assert (n.first_only, n.second_only, n.p) == (15, 1, mcnemar(15, 1))
    assert (n.low, n.high) == mcnemar_interval(15, 1, 16)
    assert found.significant
    assert found.p_holm is None
    other = compare(load_records(two), "madry", "mine").numbers
    assert (other.difference, other.low, other.high) == (-n.difference, -n.high, -n.low)
    assert (other.first_only, other.second_only, other.p) == (1, 15, n.p)


def test_one_attack_alone_and_clean_and_the_last_checkpoint(two: Path) -> None:
    records = load_records(two)
    pgd = compare(records, "mine", "madry", attack="pgd-20")
    assert (pgd.numbers.n, pgd.numbers.first_only, pgd.numbers.second_only) == (20, 11, 2)
    clean = compare(records, "mine", "madry", attack="clean")
    assert (clean.numbers.n, clean.numbers.difference, clean.numbers.p) == (20, 0.0, 1.0)
    last = compare(records, "mine", "madry", checkpoint="last")
    assert last.sides[0].checkpoint == "last"
    assert (last.numbers.first, last.numbers.second) == (0.0, 1 / 16)
    with pytest.raises(ConfigError, match=r"'autoattack'.* Known: clean, cw, pgd-20"):
        compare(records, "mine", "madry", attack="autoattack")


def seeds(folder: Path, method: str, survived: Sequence[Sequence[int]], n: int) -> None:
    for seed, indices in enumerate(survived):
        evaluate(train_run(folder, method, seed=seed), "pgd-20", indices, n)


def test_several_seeds_are_joined_image_by_image(tmp_path: Path) -> None:
    seeds(tmp_path, "mine", [[0, 1, 2, 3], [0, 1, 2, 4]], 10)
    seeds(tmp_path, "madry", [[0], [0, 1], [0, 9]], 10)
    found = compare(load_records(tmp_path), "mine", "madry")
    n = found.numbers
    survivors = [0, 1, 2, 3], [0, 1, 2, 4], [0], [0, 1], [0, 9]
    shares = [np.isin(range(10), indices) for indices in survivors]
    values = np.array([[a.astype(float) - b for b in shares[2:]] for a in shares[:2]])
    mean = crossed_mean(values, images=True)
    assert n.difference == pytest.approx(mean.value) == pytest.approx(0.4 - 5 / 30)
    assert (n.p, n.low, n.high) == pytest.approx((mean.p(), *mean.interval()))
    assert (n.first_only, n.second_only, found.one_seed) == (None, None, False)
    assert [run.seed for run in found.runs[1]] == [0, 1, 2]
    text = sentence(found)
    assert "on the same 10 images under pgd-20 (means of 2 and 3 seeds)" in text
    assert re.search(r"; t test over seeds and images, p = 0\.\d+: not significant at 5%\.$", text)
    seeds(tmp_path, "trades", [[5]], 10)
    text = sentence(compare(load_records(tmp_path), "mine", "trades"))
    assert text.endswith(" at 5%. One seed of trades: this is about its network.")


def test_a_seed_without_an_attack_of_the_others_is_not_counted(tmp_path: Path) -> None:
    seeds(tmp_path, "mine", [range(10), range(2)], 10)
    seeds(tmp_path, "madry", [range(5)], 10)
    for record in load_records(tmp_path):
        if (record.method, record.seed) != ("mine", 1):
            evaluate(RunFolder(tmp_path, record.run_id), "cw", range(4), 10)
    found = compare(load_records(tmp_path), "mine", "madry")
    assert found.attacks == ("pgd-20", "cw")
    assert [run.seed for run in found.runs[0]] == [0]
    assert found.numbers.first == 0.4
    alone = compare(load_records(tmp_path), "mine", "madry", attack="pgd-20")
    assert [run.seed for run in alone.runs[0]] == [0, 1]


def test_a_run_by_its_id_is_that_run_alone(tmp_path: Path) -> None:
    seeds(tmp_path, "mine", [range(10), range(2)], 10)
    first, second = (run.run_id for run in load_records(tmp_path))
    found = compare(load_records(tmp_path), first, second)
    assert {side.group.label for side in found.sides} == {"mine, seed 0", "mine, seed 1"}
    assert abs(found.numbers.difference) == 0.8
    with pytest.raises(ConfigError, match=f"{first} and {first} are the same: name two"):
        compare(load_records(tmp_path), first, first)


def test_a_model_from_outside_is_compared_at_its_only_checkpoint(two: Path) -> None:
    evaluate(model_run(two, "zoo/mine.py:make"), "pgd-20", range(4), 20, checkpoint=GIVEN)
    found = compare(load_records(two), "mine.py:make", "madry", checkpoint="last")
    assert [side.checkpoint for side in found.sides] == [GIVEN, "last"]
    assert (found.numbers.first, found.numbers.second) == (4 / 20, 1 / 20)
    assert block(found).splitlines()[3].split() == [
        *("mine.py:make", "(outside", "model)", "given", "-", "20.0", "3"),
    ]


def test_what_cannot_be_compared_is_one_line(two: Path) -> None:
    records = load_records(two)
    with pytest.raises(ConfigError, match=r"s0-00' is not on record\. Did you mean 'madry-cnn"):
        compare(records, "mine", "madry-cnn-digits-s0-00")
    train_run(two, "mart", error="the loss is not finite at epoch 3, step 12")
    with pytest.raises(RecordError, match="mart has nothing to compare: failed: the loss"):
        compare(load_records(two), "mine", "mart")
    attacked(two, "trades", 20, {"square": 4})
    with pytest.raises(RecordError, match=r"no attack is on record of both .*trades: square"):
        compare(load_records(two), "mine", "trades")
    evaluate(train_run(two, "free"), "pgd-20", range(4), 300, chunks=[1])
    with pytest.raises(RecordError, match="mine and free share no image under pgd-20"):
        compare(load_records(two), "mine", "free")


def test_other_images_are_not_compared(tmp_path: Path) -> None:
    evaluate(train_run(tmp_path, "mine"), "pgd-20", range(4), 20)
    evaluate(train_run(tmp_path, "madry"), "pgd-20", range(4), 20, data_sha256="e" * 64)
    with pytest.raises(RecordError, match="mine and madry were attacked on different images"):
        compare(load_records(tmp_path), "mine", "madry")


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Two methods in three settings, and one of them twice in one setting."""
    for method in ("mine", "madry"):
        for dataset, arch in (("digits", "cnn"), ("cifar10", "wrn-34-10"), ("cifar10", "vgg-16")):
            folder = train_run(tmp_path, method, dataset=dataset, arch=arch)
            evaluate(folder, "pgd-20", range(len(arch)), 20)
    for beta in (1.0, 6.0):
        attacked(tmp_path, "trades", 20, {"pgd-20": 4}, params={"beta": beta})
    attacked(tmp_path, "alone", 20, {"pgd-20": 4}, arch="linear")
    evaluate(train_run(tmp_path, "far", eps=0.2), "pgd-20", range(4), 20, eps=0.2)
    return tmp_path


def test_several_settings_are_listed_with_the_options_that_pick_one(several: Path) -> None:
    records = load_records(several)
    with pytest.raises(ConfigError) as error:
        compare(records, "mine", "madry")
    for words in ("mine and madry have 3 settings", "cifar10, wrn-34-10, common, eps 8/255;"):
        assert words in str(error.value)
    assert str(error.value).endswith("pick one with --dataset or --arch")
    found = compare(records, "mine", "madry", dataset="digits")
    assert found.setting.arch == "cnn"
    found = compare(records, "mine", "madry", arch="wrn")
    assert found.numbers.first == len("wrn-34-10") / 20
    with pytest.raises(ConfigError, match=r"no records with --arch wrm; there are vgg-16, wrn"):
        compare(records, "mine", "madry", dataset="cifar10", arch="wrm")


def test_twins_and_strangers_are_told(several: Path) -> None:
    records = load_records(several)
    with pytest.raises(ConfigError, match=r"several trainings: name two of .*'trades \(beta=1\)'"):
        compare(records, "trades", "mine", dataset="digits")
    assert compare(records, "trades (beta=1)", "trades (beta=6)").numbers.difference == 0
    elsewhere = compare(records, "alone", "trades (beta=6)")  # of another network
    assert elsewhere.sides[0].group.label == "alone"
    with pytest.raises(ConfigError, match=r"no data set and eps in common .*far: digits, cnn"):
        compare(records, "mine", "far")


def compared(first: int, second: int, both: int = 40) -> MethodComparison:
    """100 images, of which either method alone gets some."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        mine = range(both + first)
        evaluate(train_run(folder, "mine"), "pgd-20", mine, 100)
        other = [*range(both), *range(both + first, both + first + second)]
        evaluate(train_run(folder, "trades"), "pgd-20", other, 100)
        return compare(load_records(folder), "mine", "trades")


def test_the_sentence_says_which_by_how_much_and_how_sure() -> None:
    assert sentence(compared(15, 3)) == (
        "mine is 12.0 points (95% interval 2.8 to 21.3) more robust than trades on the same 100 "
        "images under pgd-20; exact McNemar p = 0.0075: significant at 5%. One "
        "seed each: this is about two networks, not two methods."
    )
    assert sentence(compared(3, 15)).startswith(
        "mine is 12.0 points (95% interval 2.8 to 21.3) less robust than trades"
    )
    assert (
        "not distinguishable on the same 100 images under pgd-20: a difference of 2.0 points (95% "
        "interval \u22124.8 to 9.1); exact McNemar p = 0.73: not significant at 5%."
    ) in sentence(compared(5, 3))


def test_a_family_is_judged_by_corrected_p_values() -> None:
    family = corrected([compared(10, 1), compared(12, 4), compared(5, 5)])
    assert [pair.numbers.p < 0.05 for pair in family] == [True, False, False]
    assert family[0].p_holm == 3 * mcnemar(10, 1)
    borderline = corrected([compared(12, 3)] * 2)[0]
    assert borderline.numbers.p < 0.05 < (borderline.p_holm or 0)
    assert not borderline.significant
    text = sentence(borderline)
    assert "after Holm's correction over 2 pairs p = 0.07: not significant" in text
    assert "9.0 points (95% interval, not corrected, 0.5 to 17.8)" in text
    assert "Holm" not in sentence(corrected([compared(12, 3)])[0])


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "p = 1"), (0.0373, "p = 0.037"), (0.04996, "p = 0.04996"), (0.05, "p = 0.05"),
     (0.00012, "p = 0.00012"), (9.9e-5, "p < 0.0001")],
)  # fmt: skip
def test_a_p_value_never_rounds_across_the_level(p: float, text: str) -> None:
    assert p_text(p) == text


@pytest.fixture
def found(tmp_path: Path) -> PairMatrix:
    """Four methods: one with a further attack, one on fewer images, one under another attack."""
    attacked(tmp_path, "natural", 100, {"pgd-20": 0, "cw": 0})
    attacked(tmp_path, "madry", 100, {"pgd-20": 60, "cw": 60})
    attacked(tmp_path, "mine", 100, {"pgd-20": 75, "cw": 75, "square": 70})
    attacked(tmp_path, "trades", 50, {"pgd-20": 40})
    attacked(tmp_path, "other", 100, {"fgsm": 99})
    train_run(tmp_path, "mart", error="the loss is not finite")
    made = pair_matrix(section_of(tmp_path))
    assert made is not None
    return made


def test_each_pair_is_on_what_both_have(found: PairMatrix) -> None:
    # by robustness; those that lack an attack of the worst case come last
    assert found.labels == ("mine", "madry", "natural", "trades", "other")
    assert found.usual == (("pgd-20", "cw"), 100)
    assert list(found.pairs) == list(combinations(found.labels[:4], 2))
    mine, trades = found.pairs["mine", "madry"], found.pairs["mine", "trades"]
    assert (mine.attacks, mine.numbers.n, mine.numbers.first_only) == (("pgd-20", "cw"), 100, 15)
    assert (trades.attacks, trades.numbers.n) == (("pgd-20",), 50)
    assert (trades.numbers.first_only, trades.numbers.second_only) == (10, 0)
    p_values = [c.numbers.p for c in found.pairs.values()]
    assert mcnemar(15, 0) in p_values
    assert [c.p_holm for c in found.pairs.values()] == holm(p_values)
    assert {c.n_pairs for c in found.pairs.values()} == {6}


def test_what_is_significant_stands_out_and_what_is_unlike_is_noted(found: PairMatrix) -> None:
    table = pairwise_table(found)
    assert table is not None
    text = markdown(table, (pairwise_legend(found),))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:6]
    ]
    assert rows == [
        ["1 mine", "**15.0**", "**75.0**", "**20.0 \u00b9**", "\u2013"],
        ["2 Madry AT", "", "**60.0**", "**20.0 \u00b9**", "\u2013"],
        ["3 Natural", "", "", "**\u221280.0 \u00b9**", "\u2013"],
        ["4 TRADES", "", "", "", "\u2013"],
    ]
    assert "- \u00b9 Under PGD-20, on 50 images." in text
    assert "the lowest accuracy seen, over PGD-20 and C&W, on the same 100 images" in text
    assert "exact test on the images, after Holm's correction: 6 of 6 pairs." in text
    assert r"& \textbf{15.0} & \textbf{75.0} & \textbf{20.0 $^{1}$} & -- \\" in latex(
        table, "c", "l", ()
    )


def test_chance_does_not_stand_out(tmp_path: Path) -> None:
    attacked(tmp_path, "mine", 100, {"pgd-20": 12})
    attacked(tmp_path, "madry", 100, {"pgd-20": 9})
    evaluate(train_run(tmp_path, "madry", seed=1), "pgd-20", range(8, 16), 100)
    section = section_of(tmp_path)
    found = pair_matrix(section)
    assert found is not None
    assert (pairwise_table(found), leaders(section)) == (None, frozenset())
    said = "No difference is significant at 5% by a t test over seeds and images, 0 of 1 pair"
    assert said in pairwise_legend(found)


def test_one_method_is_not_compared(tmp_path: Path) -> None:
    attacked(tmp_path, "mine", 100, {"pgd-20": 12})
    attacked(tmp_path, "madry", 100, {"clean": 100})
    assert pair_matrix(section_of(tmp_path)) is None


def test_csv_has_every_pair(found: PairMatrix) -> None:
    frame = pairwise_csv([found])
    rows = {(r["first"], r["second"]): r for r in frame.to_dict("records")}
    assert list(rows) == list(combinations(found.labels, 2))
    mine = rows["mine", "madry"]
    assert (mine["first_only"], mine["second_only"], mine["n"]) == (15, 0, 100)
    assert float(mine["difference_low"]) < 0.15 < float(mine["difference_high"])
    assert float(mine["p"]) == pytest.approx(2 / 2**15, rel=1e-5)
    assert float(mine["p"]) < float(mine["p_holm"])
    assert (mine["test"], mine["significant"], mine["attacks"]) == ("mcnemar", 1, "pgd-20 cw")
    none = rows["mine", "other"]
    assert {none[name] for name in ("n", "p", "significant", "run_ids_second")} == {""}
