"""Cards of single models, from made records of the tiny Table 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.papers.cat.cards import FIRST_SEEDS, make_cards
from bench.records import load_records
from bench.report import write_report
from bench.report.artefact import Output
from bench.report.model_card import ModelCard, draw_card, model_card
from bench.report.suite_runs import choose
from tests.report.made import evaluate
from tests.report.made_measures import autoattacked, checked, study_of, trained

STUDY = study_of("table3")
ATTACKS = ("pgd-20", "cw", "autoattack")
SIZE = "Size tiny (digits): not the paper's."


def model(results: Path, *, n_autoattack: int = 20) -> None:
    """100 images, all right; PGD-20 leaves 50, C&W 40, an attack beyond the suite 30."""
    card = {"title": "CAT-CE", "paper": "arXiv 2002.06789"}
    run = trained(results, STUDY, "cat-ce", card=card)
    for attack, left in (("clean", 100), ("pgd-20", 50), ("cw", 40), ("pgd-500", 30)):
        evaluate(run, attack, range(left), 100, eps=STUDY.eps)
    autoattacked(run, STUDY, n_autoattack, (5, 3, 0, 1))
    checked(run, STUDY, alarm=True)


def card_of(results: Path, worst_over: tuple[str, ...] | None = None) -> ModelCard:
    (run,) = (run for run in load_records(results) if run.method == "cat-ce")
    card = model_card(run, ATTACKS, SIZE, worst_over)
    assert card is not None
    return card


def counts(card: ModelCard) -> list[tuple[str, str, int, int, int | None]]:
    """Of each stage the images that are left, and of how many."""
    return [(s.block, s.name, round(s.value * s.n), s.n, s.n_broken) for s in card.accuracies]


def made(results: Path) -> Output:
    chosen = choose(load_records(results), "table3", "tiny")
    assert chosen is not None
    return make_cards(chosen)


PARTS_LEFT = [
    ("AutoAttack", "apgd-ce", 15, 20, 5),
    ("AutoAttack", "apgd-t", 12, 20, 3),
    ("AutoAttack", "fab-t", 12, 20, 0),
    ("AutoAttack", "square", 11, 20, 1),
]


def test_every_stage_is_of_the_same_images_and_autoattack_s_parts_are_cumulative(
    tmp_path: Path,
) -> None:
    model(tmp_path)
    assert counts(card_of(tmp_path)) == [
        ("", "clean", 20, 20, None),
        ("", "PGD-20", 20, 20, None),
        ("", "C&W", 20, 20, None),
        *PARTS_LEFT,
        ("", "worst case", 11, 20, None),
        ("", "lowest seen", 11, 20, None),
    ]


def test_where_the_table_leaves_autoattack_out_it_has_images_of_its_own(tmp_path: Path) -> None:
    model(tmp_path)
    assert counts(card_of(tmp_path, ("pgd-20", "cw"))) == [
        ("", "clean", 100, 100, None),
        ("", "PGD-20", 50, 100, None),
        ("", "C&W", 40, 100, None),
        ("AutoAttack", "clean", 20, 20, None),
        *PARTS_LEFT,
        ("", "worst case", 40, 100, None),
        ("", "lowest seen", 21, 100, None),  # PGD-500 leaves 30, AutoAttack not the first 9
    ]


def test_autoattack_on_more_images_counts_on_those_of_the_card(tmp_path: Path) -> None:
    run = trained(tmp_path, STUDY, "cat-ce")
    evaluate(run, "pgd-20", range(15), 20, eps=STUDY.eps)
    autoattacked(run, STUDY, 100, (5, 3, 0, 1))
    assert counts(card_of(tmp_path))[1:-2] == [("", "PGD-20", 15, 20, None), *PARTS_LEFT]


def test_without_an_attack_of_the_table_s_worst_case_there_is_none(tmp_path: Path) -> None:
    run = trained(tmp_path, STUDY, "cat-ce")
    evaluate(run, "pgd-20", range(15), 20, eps=STUDY.eps)
    for method in ("madry", "trades"):
        autoattacked(trained(tmp_path, STUDY, method), STUDY, 20, (5, 3, 0, 1))
    text = made(tmp_path).latex[f"cards/card-{card_of(tmp_path).run.run_id}"]
    assert "worst case" not in text
    assert r"lowest seen over pgd-20 75.0\%" in text


def test_the_lowest_seen_is_over_attacks_without_a_stage_too(tmp_path: Path) -> None:
    model(tmp_path, n_autoattack=100)
    stages = card_of(tmp_path).accuracies
    assert "pgd-500" not in [stage.name for stage in stages]
    worst, lowest = stages[-2:]
    assert (worst.name, worst.n, lowest.name, lowest.n) == ("worst case", 100, "lowest seen", 100)
    assert worst.value == pytest.approx(0.31)  # C&W leaves the first 40, AutoAttack not 0 to 8
    assert lowest.value == pytest.approx(0.21)  # PGD-500 leaves the first 30
    assert [s.name for s in stages if s.block] == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_the_picture_has_every_stage_and_every_doubt(tmp_path: Path) -> None:
    model(tmp_path)
    card = card_of(tmp_path)
    figure = draw_card(card)
    (axes,) = figure.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == [
        *("clean", "PGD-20", "C&W", "AutoAttack: apgd-ce", "\u2026 apgd-t"),
        *("\u2026 fab-t", "\u2026 square", "worst of 3 attacks", "lowest of 4 attacks"),
    ]
    widths = [patch.get_width() for patch in axes.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([100 * stage.value for stage in card.accuracies])
    numbers = [text.get_text() for text in axes.texts]
    assert numbers[1] == "100.0 [83.9, 100.0], n = 20"
    assert numbers[3] == "75.0 [53.1, 88.8], n = 20 (\u22125)"
    assert "cat-ce \u2020 (CAT-CE, arXiv 2002.06789) on digits, cnn" in figure.get_suptitle()
    below = figure.get_supxlabel().replace("\n", " ")
    assert "Worst: over pgd-20, cw and autoattack; lowest: over these and pgd-500." in below
    for text in (
        "Masking checks: alarm black box beats white box of 1",
        SIZE,
        card.run.run_id,
        "eps 51/255 (0.2)",
    ):
        assert text in below


def test_a_model_without_checks_or_attacks_says_so(tmp_path: Path) -> None:
    run = trained(tmp_path, STUDY, "cat-ce")
    evaluate(run, "pgd-20", 0.5, 100, eps=STUDY.eps, checkpoint="last")
    trained(tmp_path, STUDY, "madry")
    found = made(tmp_path)
    assert not found.latex
    asked = "clean, pgd-20, cw, transfer, multitargeted, md, autoattack"
    assert f"cat-ce: no {asked}" in found.lacks
    assert "madry: no masking checks" in found.lacks
    assert "trades: no training" in found.lacks
    evaluate(run, "pgd-20", 0.5, 100, eps=STUDY.eps)
    assert card_of(tmp_path).masking == "Masking checks: none made"


@pytest.mark.slow
def test_a_whole_report_draws_each_method_s_first_seed(tmp_path: Path) -> None:
    ids: dict[str, list[str]] = {"madry": [], "cat-ce": []}
    for method, own in ids.items():
        for seed in (0, 1, 2):
            run = trained(tmp_path, STUDY, method, seed=seed)
            own.append(run.run_id)
            if (method, seed) != ("cat-ce", 0):  # not attacked: no card
                evaluate(run, "pgd-20", 0.5, 100, eps=STUDY.eps)
    found = made(tmp_path)
    cards = [*ids["madry"], *ids["cat-ce"][1:]]
    pictured = [ids["madry"][0], ids["cat-ce"][1]]
    assert set(found.latex) == {f"cards/card-{i}" for i in cards}
    assert set(found.figures) == {f"cards/card-{i}" for i in pictured}
    for suite, n_pictures, said in ((None, 2, True), ("cards", 5, False)):
        reports = tmp_path / f"reports-{suite}"
        write_report(load_records(tmp_path), reports, command="bench report", suite=suite)
        assert len(list(reports.glob("cards/*.png"))) == n_pictures
        index = reports / "index.md"
        assert (index.exists() and FIRST_SEEDS in index.read_text()) == said


def test_the_sentence_of_a_card(tmp_path: Path) -> None:
    model(tmp_path)
    card = card_of(tmp_path)
    text = card.sentence()
    assert text.isascii()
    assert text.startswith(
        r"cat-ce $^\dagger$ (CAT-CE, arXiv 2002.06789) on digits, cnn, eps 51/255 (0.2), recipe "
        "common, 4 epochs, seed 0; best checkpoint: clean accuracy "
        r"100.0\% [83.9, 100.0] on 20 images; PGD-20 100.0\%"
    )
    parts = "apgd-ce 75.0, apgd-t 60.0, fab-t 60.0, square 55.0"
    assert rf"AutoAttack 55.0\% [34.2, 74.2] on 20 images (after {parts});" in text
    assert r"lowest seen over pgd-20, cw, autoattack, pgd-500 55.0\%" in text
    assert text.endswith(rf"Run \texttt{{{card.run.run_id}}}.")
