"""Figures 2, 4a, 4b and Tables 1, 2, 4 from made records: what is drawn is what the .csv holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bench.experiments.study import AttackConfig
from bench.papers.cat.parts import parts
from bench.records.run_folder import RunFolder
from bench.report.artefact import Output
from bench.report.export import Bold
from bench.report.published import published
from bench.report.style import styles
from tests.report.made import evaluate
from tests.report.made_suite import falling, make_suite, nothing
from tests.report.outputs import (
    BY_NAME,
    chosen_of,
    drawn,
    named_lines,
    numbers_of,
    output_of,
    title_of,
)

METHODS = {
    "figure2": ("natural", "madry", "cat-ce"),
    "figure4a": ("madry", "cat-ce"),
    "figure4b": ("madry", "adv-ls", "cat-ce"),
}
FIGURES = tuple(METHODS)
TABLES = ("table1", "table2", "table4")
PAPER = published("cat").more
ALARM = "\u2020: alarm of a masking check."


def steps(method: str, asked: AttackConfig, eps: float, seed: int) -> float | None:
    """More steps break more images of cat-ce, and no more of the others."""
    share = falling(method, asked, eps, seed)
    if share is None or not asked.name.startswith("pgd-") or method != "cat-ce":
        return share
    return share - 0.02 * math.log2(int(asked.name.removeprefix("pgd-")) / 10)


def second_seed_lacks_train(
    method: str, asked: AttackConfig, eps: float, seed: int
) -> float | None:
    return None if seed == 1 and asked.split == "train" else falling(method, asked, eps, seed)


def masked(method: str, asked: AttackConfig, eps: float, seed: int) -> float | None:
    """cat-ce falls to images from elsewhere, and one transfer on cat-mix was not made."""
    transferred = asked.name.startswith("transfer")
    if method == "cat-mix" and asked.name == "transfer:madry":
        return None
    if method == "cat-ce":
        return 0.3 if transferred else 0.6
    return 0.7 if transferred else falling(method, asked, eps, seed)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Output]:
    """Each in its smallest size: Table 1 of two seeds with gaps, Table 4 with a masked model."""
    folder = tmp_path_factory.mktemp("artefacts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        for name, methods in METHODS.items():
            make_suite(folder / name, name, methods=methods, survives=steps)
        make_suite(folder / "table1", "table1", seeds=(0, 1), survives=second_seed_lacks_train)
        trained = ("natural", "trades", "cat-mix")
        make_suite(folder / "table2", "table3", methods=trained, survives=nothing)
        attacked = ("madry", "cat-ce", "cat-mix")
        make_suite(folder / "table4", "table4", methods=attacked, survives=masked)
    return {name: output_of(folder / name, name) for name in (*FIGURES, *TABLES)}


def band_of(axes: Axes, place: int) -> set[tuple[float, float]]:
    """The corners of one band."""
    (path,) = axes.collections[place].get_paths()
    return {(round(float(x), 6), round(float(y), 3)) for x, y in np.asarray(path.vertices)}


def dots_of(axes: Axes) -> dict[str, list[tuple[float, float, float]]]:
    """Label -> (value, low, high) of its dots, from left to right."""
    found = {}
    for container in axes.containers:
        line, (bars,) = container[0], container[2]
        ends = np.array(bars.get_segments())[:, :, 1]
        dots = np.column_stack([line.get_ydata(), ends])
        found[str(container.get_label())] = dots[np.argsort(line.get_xdata())].tolist()
    return found


def look(line: Any) -> tuple[str, str]:
    return line.get_color(), line.get_marker()


def look_of(method: str) -> tuple[str, str]:
    style = styles([method])[method]
    return style.colour, style.marker


def cells(output: Output, name: str) -> list[dict[str, Any]]:
    """The rows of a table by its headings."""
    return [dict(row) for _, row in output.tables[name].text.iterrows()]


def reading(output: Output, name: str) -> str:
    """What stands under a table."""
    return "\n".join([*output.tables[name].notes, *output.below])


# Figures


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_lines_and_bands_are_the_numbers_of_the_csv(made: Mapping[str, Output], name: str) -> None:
    x = "steps" if name == "figure4a" else "eps"
    rows = made[name].numbers[name].astype({x: float})
    figure = drawn(made[name], name)
    lines = named_lines(figure)
    assert list(lines) == list(METHODS[name])
    for place, (label, line) in enumerate(lines.items()):
        own = rows[(rows["label"] == label) & rows["attack"].isin(["pgd-20", "pgd"])]
        np.testing.assert_allclose(line.get_xdata(), own[x])
        np.testing.assert_allclose(line.get_ydata(), 100 * own["accuracy"], atol=1e-4)
        assert look(line) == look_of(label)
        edges = band_of(figure.axes[0], place)
        for edge in ("low", "high"):
            assert set(zip(own[x].round(6), (100 * own[edge]).round(3), strict=True)) <= edges
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    assert "(%)" in figure.axes[0].get_ylabel()
    assert ("steps" if name == "figure4a" else "training radius") in figure.axes[0].get_xlabel()
    legend = figure.legends[0] if figure.legends else figure.axes[-1].get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    for axes in (one for one in figure.axes if one.axison):
        panel = axes.get_tightbbox()
        assert panel is not None
        assert not box.overlaps(panel)
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert "not the paper's." in title_of(figure)
    assert "n = 100 test images" in title_of(figure)


def test_a_line_is_broken_where_a_radius_is_not_on_record(tmp_path: Path) -> None:
    def but_one(method: str, asked: AttackConfig, eps: float, seed: int) -> float | None:
        absent = method == "madry" and 0.1 < eps < 0.15
        return None if absent else falling(method, asked, eps, seed)

    make_suite(tmp_path, "figure2", methods=("natural", "madry"), survives=but_one)
    lines = named_lines(drawn(output_of(tmp_path, "figure2"), "figure2"))
    gaps = {name: np.flatnonzero(np.isnan(line.get_ydata())) for name, line in lines.items()}
    assert {name: gap.tolist() for name, gap in gaps.items()} == {"natural": [], "madry": [2]}


@pytest.mark.parametrize(("name", "attacks"), [
    ("figure2", ("autoattack",)), ("figure4b", ("pgd-20", "cw", "autoattack")),
])  # fmt: skip
def test_dots_and_bars_are_the_numbers_of_the_csv(
    made: Mapping[str, Output], name: str, attacks: tuple[str, ...]
) -> None:
    axes = drawn(made[name], name).axes[2 if name == "figure2" else 1]
    dots = dots_of(axes)
    assert set(dots) == set(METHODS[name])
    places = np.concatenate([box[0].get_xdata() for box in axes.containers]).astype(float)
    assert len(set(places.round(6))) == len(places), "dots on each other"
    rows = numbers_of(made[name], name)
    if name == "figure4b":
        rows = rows[np.isclose(rows["eps"], 0.2)]
    for label, found in dots.items():
        own = [rows[(rows["label"] == label) & (rows["attack"] == a)] for a in attacks]
        wanted = np.concatenate([100 * part[["accuracy", "low", "high"]] for part in own])
        np.testing.assert_allclose(found, wanted, atol=1e-3)
    for container in axes.containers:
        assert look(container[0]) == look_of(str(container.get_label()))


def test_figure2_starts_at_clean_accuracy_and_marks_autoattack(made: Mapping[str, Output]) -> None:
    rows = numbers_of(made["figure2"], "figure2")
    own = dict(iter(rows[rows["method"] == "madry"].groupby("attack")))
    assert len(own["pgd-20"]) == len(own["cw"]) == 9
    assert own["pgd-20"]["eps"].iloc[0] == own["cw"]["eps"].iloc[0] == 0
    assert list(own["autoattack"]["eps"]) == [0.095625, 0.2]
    assert own["pgd-20"]["accuracy"].iloc[0] == 0.95
    for eps, accuracy in own["pgd-20"][["eps", "accuracy"]].to_numpy()[1:]:
        share = steps("madry", AttackConfig(name="pgd-20"), eps, 0)
        assert accuracy == pytest.approx(share, abs=0.02)


def test_figure2_draws_differences_to_madry_on_the_same_images(made: Mapping[str, Output]) -> None:
    rows = numbers_of(made["figure2"], "figure2")
    own = rows[(rows["attack"] == "pgd-20") & (rows["method"] == "cat-ce")]
    theirs = rows[(rows["attack"] == "pgd-20") & (rows["method"] == "madry")]
    apart = own["accuracy"].to_numpy() - theirs["accuracy"].to_numpy()
    np.testing.assert_allclose(own["difference"], apart, atol=1e-6)
    assert theirs["difference"].isna().all()
    figure = drawn(made["figure2"], "figure2")
    line = named_lines(figure, 3)["cat-ce"]
    np.testing.assert_allclose(line.get_ydata(), 100 * apart, atol=1e-3)
    assert "Madry AT" in figure.axes[3].get_ylabel()


def test_a_network_without_records_has_no_row_in_figure2(tmp_path: Path) -> None:
    """Only Table 3, of one of the two networks."""
    make_suite(tmp_path, "table3", size="full", methods=("madry",))
    made = output_of(tmp_path, "figure2")
    assert set(numbers_of(made, "figure2")["arch"]) == {"wrn-34-10"}
    assert {axes.get_title().split(",")[0] for axes in drawn(made, "figure2").axes} == {"wrn-34-10"}
    assert "madry, vgg-16: no training" in made.lacks


def test_each_network_has_a_row_of_its_own_unless_two_are_one(tmp_path: Path) -> None:
    make_suite(tmp_path / "tiny", "figure2", methods=("madry",), survives=nothing)
    tiny = chosen_of(tmp_path / "tiny", "figure2")
    assert len(tiny.studies) == 2
    (part,) = parts(tiny)
    assert [original.arch for original in part.originals] == ["vgg-16", "wrn-34-10"]
    make_suite(tmp_path / "full", "figure2", size="full", methods=("madry",), images=20)
    figure = drawn(output_of(tmp_path / "full", "figure2"), "figure2")
    assert [axes.get_title() for axes in figure.axes] == [
        f"{arch}, {attack}"
        for arch in ("vgg-16", "wrn-34-10")
        for attack in ("PGD-20", "C&W", "AutoAttack")
    ]
    assert "the paper's size" in title_of(figure)
    assert "not the paper's" not in title_of(figure)


def test_the_change_over_the_steps_is_paired(made: Mapping[str, Output]) -> None:
    rows = numbers_of(made["figure4a"], "figure4a").set_index(["method", "steps"])
    first, last = rows.loc["cat-ce", 10], rows.loc["cat-ce", 500]
    assert math.isnan(first["change"])
    assert last["change"] == pytest.approx(last["accuracy"] - first["accuracy"])
    # on the same images, so narrower than the interval of either accuracy
    assert last["change_high"] - last["change_low"] < last["high"] - last["low"]
    assert rows.loc["madry", 500]["change"] == 0
    figure = drawn(made["figure4a"], "figure4a")
    drawn_last = dots_of(figure.axes[1])["cat-ce"][-1]
    wanted = [100 * last[name] for name in ("change", "change_low", "change_high")]
    np.testing.assert_allclose(drawn_last, wanted, atol=1e-3)
    assert figure.axes[0].get_xscale() == "log"


def test_seeds_are_averaged_in_a_band_of_their_deviation(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4a", methods=("madry",), seeds=(0, 1, 2))
    made = output_of(tmp_path, "figure4a")
    rows, figure = numbers_of(made, "figure4a"), drawn(made, "figure4a")
    assert set(rows["n_seeds"]) == {3}
    assert rows["low"].isna().all()
    value, spread = 100 * rows["accuracy"][0], 100 * rows["std"][0]
    assert 0.5 < spread < 5
    edges = sorted(y for x, y in band_of(figure.axes[0], 0) if x == rows["steps"][0])
    assert [edges[0], edges[-1]] == pytest.approx([value - spread, value + spread], abs=1e-3)
    assert "standard deviation over seeds" in title_of(figure)


# What is missing


def test_what_lacks_is_named(made: Mapping[str, Output], tmp_path: Path) -> None:
    def gaps(method: str, asked: AttackConfig, eps: float, seed: int) -> float | None:
        lacking = asked.name == "cw" and eps > 0.3 and method == "madry"
        return None if lacking else falling(method, asked, eps, seed)

    make_suite(tmp_path, "figure2", methods=("natural", "madry"), survives=gaps)
    lacks = output_of(tmp_path, "figure2").lacks
    assert "cat-mix: no training" in lacks
    assert "madry: no cw at eps 0.3188, 0.3825, 0.4463 (best)" in lacks
    assert len(lacks) == 9
    assert [text for text in lacks if text.startswith("natural")] == []
    assert made["table1"].lacks == tuple(
        f"madry, eps {train}, seed 1: no pgd-20 at eps 0.06375 ({checkpoint}, train)"
        for train in ("0.06375", "0.1275", "0.1913")
        for checkpoint in ("best", "last")
    )
    found = [text for text in made["table2"].lacks if text.startswith("cat")]
    assert found == ["cat-ce: no training"]
    expected = ("trades: no training", "cat-mix: no transfer:madry at eps 0.1913 (best)")
    assert made["table4"].lacks == expected


def test_images_that_are_missing_are_counted(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4a", methods=("madry",), survives=nothing)
    (run,) = chosen_of(tmp_path, "figure4a").studies[0].runs["madry"]
    evaluate(RunFolder(tmp_path, run.run_id), "pgd-50", 0.5, 60, eps=0.2)
    made = output_of(tmp_path, "figure4a")
    assert "madry: pgd-50 at eps 51/255 (best): 40 images are missing" in made.lacks
    assert "madry: no pgd-500 at eps 51/255 (best)" in made.lacks
    assert list(numbers_of(made, "figure4a")["n"]) == [60]


def test_images_beyond_those_of_the_study_do_not_count(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", FIGURES)
def test_trainings_without_attacks_make_no_figure(tmp_path: Path, name: str) -> None:
    make_suite(tmp_path, name, methods=("madry",), survives=nothing)
    made = output_of(tmp_path, name)
    assert not made.figures
    assert not made.numbers
    assert "madry: not evaluated" in made.lacks


@pytest.mark.parametrize("name", ["figure4b", "table1", "table4"])
def test_an_alarm_is_marked_and_explained(tmp_path: Path, name: str) -> None:
    suite = BY_NAME[name].suite
    make_suite(tmp_path, suite, methods=("madry",), images=10)
    run = chosen_of(tmp_path, suite).studies[0].runs["madry"][0]
    check = {"name": "AA repeated calls", "value": 0.1, "threshold": 0.02, "alarm": True}
    folder = RunFolder(tmp_path, run.run_id)
    evaluate(folder, "autoattack", 0.1, 10, eps=0.4, package_checks=(check,))
    made = output_of(tmp_path, name)
    if name in TABLES:
        assert cells(made, name)[0]["Method"].startswith("Madry AT \u2020")
        assert ALARM in reading(made, name)
        return
    figure = drawn(made, name)
    (line,) = named_lines(figure).items()
    assert (line[0], look(line[1])) == ("madry \u2020", look_of("madry"))
    assert set(numbers_of(made, name)["label"]) == {"madry \u2020"}
    assert ALARM in title_of(figure)
    assert ALARM in made.note


# Tables


def test_only_the_full_size_on_the_paper_s_data_is_comparable(tmp_path: Path) -> None:
    for folder, dataset, splits, end in (
        ("a", None, ("test", "train"), "200 epochs, recipe paper): the paper's size."),
        ("b", "cifar10-q75", (), "not the paper's."),
    ):
        make_suite(tmp_path / folder, "table1", size="full", dataset=dataset, images=10)
        headings = cells(output_of(tmp_path / folder, "table1"), "table1")[0]
        paper = [heading for heading in headings if heading.startswith("Paper")]
        assert paper == [f"Paper, {split}" for split in splits]
        assert chosen_of(tmp_path / folder, "table1").caption.endswith(end)


def test_table1_has_the_real_radius_and_the_paper_s_values(made: Mapping[str, Output]) -> None:
    rows = cells(made["table1"], "table1")
    assert [row["Method"] for row in rows[::2]] == [
        f"Madry AT, eps {eps}" for eps in ("0.06375", "0.1275", "0.1913")
    ]
    assert "Trained at 0.06375 (the paper's 0.01), 0.1275 (the paper's 0.02)" in reading(
        made["table1"], "table1"
    )
    numbers = numbers_of(made["table1"], "table1").dropna(subset="paper_accuracy")
    train = numbers[numbers["split"] == "train"]
    stated = {row["eps"]: row["train"] for row in PAPER["table1"]["rows"]}
    assert dict(zip(train["paper_train_eps"], train["paper_accuracy"], strict=True)) == stated


def test_table1_over_seeds(made: Mapping[str, Output]) -> None:
    rows = numbers_of(made["table1"], "table1")
    own = rows[(rows["paper_train_eps"] == 0.01) & (rows["checkpoint"] == "best")]
    found = own.set_index(["split", "attack"])
    robust, train = found.loc["test", "pgd-20"], found.loc["train", "pgd-20"]
    assert (robust["n"], robust["n_seeds"], robust.isna()["low"]) == (100, 2, True)
    assert 0 < robust["std"] < 0.05
    assert (train["n_seeds"], train.isna()["std"]) == (1, True)
    row = cells(made["table1"], "table1")[0]
    mean, std = (f"{100 * robust[name]:.1f}" for name in ("accuracy", "std"))
    assert row["Robust, test"] == f"{mean} \u00b1 {std}"
    assert row["Robust, train"].endswith("(1 of 2 seeds)")


def test_table2_quotes_the_cards(made: Mapping[str, Output]) -> None:
    rows = {row["Method"]: row for row in cells(made["table2"], "table2")}
    assert len(rows) == 10
    assert rows["TRADES"]["Outer: minimised"].startswith("CE(Z(x'), y) + beta |trades|")
    assert rows["TRADES"]["With"] == "beta = 6"
    notes = made["table2"].tables["table2"].notes
    assert rows["Madry AT"]["Outer: minimised"] == "\u2013 \u00b9"
    assert notes[0] == "No training."
    assert "swaps the arguments" in "".join(notes)
    assert set(numbers_of(made["table2"], "table2")["method"]) == {"natural", "trades", "cat-mix"}


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


def test_table4_marks_what_falls_below_the_white_box(made: Mapping[str, Output]) -> None:
    rows = {row["Method"].split()[0]: row for row in cells(made["table4"], "table4")}
    assert list(rows) == ["Madry", "TRADES", "CAT-CE", "CAT-MIX"]
    bold = {(m, heading) for m, row in rows.items() for heading, cell in row.items()
            if isinstance(cell, Bold)}  # fmt: skip
    sources = ("Natural", "Madry AT", "Natural and Madry AT")
    assert bold == {("CAT-CE", f"From {source}") for source in sources}
    assert "the difference is \u221231.0 points [\u2212" in reading(made["table4"], "table4")
    numbers = numbers_of(made["table4"], "table4")
    gaps = numbers.dropna(subset="minus_white_box").set_index(["method", "source"])
    assert gaps["minus_white_box"]["cat-ce", "madry"] == pytest.approx(-0.31)
    assert (gaps["minus_white_box"][["madry", "cat-mix"]] >= 0).all()
    found = numbers[numbers["method"] == "madry"].set_index(["attack", "scoring"])
    assert found["accuracy"]["transfer", "robust"] == 0.7
    assert found["accuracy"]["transfer", "all images"] == 0.71
    assert found["low"]["transfer", "all images"] < 0.71
    assert (set(found["eps"]), set(found["paper_eps"])) == ({0.19125}, {0.03})


def test_table4_shows_two_networks_that_are_one_once(
    made: Mapping[str, Output], tmp_path: Path
) -> None:
    rows = cells(made["table4"], "table4")
    assert [row["Network"] for row in rows] == ["cnn", "", "", ""]
    make_suite(tmp_path, "table4", size="full", images=20)
    rows = cells(output_of(tmp_path, "table4"), "table4")
    assert [row["Network"] for row in rows] == ["vgg-16", "", "", "", "wrn-34-10", "", "", ""]
    assert [row["Paper, all images"].split()[0] for row in rows] == [
        f"{100 * PAPER['table4'][arch][name]:.2f}"
        for arch in ("vgg-16", "wrn-34-10")
        for name in ("madry", "trades", "cat", "cat")
    ]
