"""Figures 2, 4a and 4b of the paper from made records: what is drawn is what the .csv holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bench.folder import RunFolder
from bench.papers.cat.parts import parts
from bench.report.artefact import Output
from bench.report.style import styles
from bench.study import AskedAttack
from tests.report.made import evaluate
from tests.report.made_suite import falling, make_suite, nothing
from tests.report.outputs import chosen_of, drawn, named_lines, numbers_of, output_of, title_of

KNOWN = styles(("natural", "madry", "adv-ls", "cat-ce"))
FIGURES = ("figure2", "figure4a", "figure4b")
METHODS = {
    "figure2": ("natural", "madry", "cat-ce"),
    "figure4a": ("madry", "cat-ce"),
    "figure4b": ("madry", "adv-ls", "cat-ce"),
}


def steps(method: str, asked: AskedAttack, eps: float, seed: int) -> float | None:
    """More steps break more images of cat-ce, and no more of the others."""
    share = falling(method, asked, eps, seed)
    if share is None or not asked.name.startswith("pgd-") or method != "cat-ce":
        return share
    return share - 0.02 * math.log2(int(asked.name.removeprefix("pgd-")) / 10)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Output]:
    """Each figure in its smallest size."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        for name, methods in METHODS.items():
            make_suite(folder / name, name, methods=methods, survives=steps)
    return {name: output_of(folder / name, name) for name in METHODS}


def band_of(axes: Axes, place: int) -> set[tuple[float, float]]:
    """The corners of one band."""
    (path,) = axes.collections[place].get_paths()
    return {(round(float(x), 6), round(float(y), 3)) for x, y in np.asarray(path.vertices)}


def dots_of(axes: Axes) -> dict[str, list[tuple[float, float, float]]]:
    """Label -> (value, low, high) of its dots, from left to right."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for container in axes.containers:
        line, (bar,) = container[0], container[2]
        ((_, low), (_, high)) = bar.get_segments()[0]
        value = float(line.get_ydata()[0])
        found.setdefault(str(container.get_label()), []).append((value, float(low), float(high)))
    return found


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
        assert (line.get_color(), line.get_marker()) == (
            styles([label])[label].colour,
            styles([label])[label].marker,
        )
        edges = band_of(figure.axes[0], place)
        for edge in ("low", "high"):
            corners = zip(own[x].round(6), (100 * own[edge]).round(3), strict=True)
            assert set(corners) <= edges


@pytest.mark.parametrize(("name", "attacks"), [
    ("figure2", ("autoattack",)), ("figure4b", ("pgd-20", "cw", "autoattack")),
])  # fmt: skip
def test_dots_and_bars_are_the_numbers_of_the_csv(
    made: Mapping[str, Output], name: str, attacks: tuple[str, ...]
) -> None:
    axes = drawn(made[name], name).axes[-1]
    dots = dots_of(axes)
    assert set(dots) == set(METHODS[name])
    places = [round(float(container[0].get_xdata()[0]), 6) for container in axes.containers]
    assert len(set(places)) == len(places), "dots on each other"
    rows = numbers_of(made[name], name)
    if name == "figure4b":
        rows = rows[np.isclose(rows["eps"], 0.2)]
    for label, found in dots.items():
        own = [rows[(rows["label"] == label) & (rows["attack"] == a)] for a in attacks]
        wanted = np.concatenate([100 * part[["accuracy", "low", "high"]] for part in own])
        np.testing.assert_allclose(found, wanted, atol=1e-3)
    for container in axes.containers:
        label = str(container.get_label())
        style = styles([label])[label]
        assert (container[0].get_color(), container[0].get_marker()) == (style.colour, style.marker)


def test_figure2_starts_at_clean_accuracy_and_marks_autoattack(
    made: Mapping[str, Output],
) -> None:
    rows = numbers_of(made["figure2"], "figure2")
    own = dict(iter(rows[rows["method"] == "madry"].groupby("attack")))
    assert len(own["pgd-20"]) == len(own["cw"]) == 9
    assert own["pgd-20"]["eps"].iloc[0] == own["cw"]["eps"].iloc[0] == 0
    assert list(own["autoattack"]["eps"]) == [0.095625, 0.2]
    assert own["pgd-20"]["accuracy"].iloc[0] == 0.95
    for eps, accuracy in own["pgd-20"][["eps", "accuracy"]].to_numpy()[1:]:
        share = steps("madry", AskedAttack(name="pgd-20"), eps, 0)
        assert accuracy == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("name", FIGURES)
def test_axes_have_units_and_the_legend_covers_none(made: Mapping[str, Output], name: str) -> None:
    figure = drawn(made[name], name)
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    assert "(%)" in figure.axes[0].get_ylabel()
    assert ("steps" if name == "figure4a" else "pixels") in figure.axes[0].get_xlabel()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    for axes in figure.axes:
        panel = axes.get_tightbbox()
        assert panel is not None
        assert not box.overlaps(panel)
    assert box.x0 >= figure.bbox.x0
    assert box.x1 <= figure.bbox.x1
    assert "not the paper's." in title_of(figure)
    assert "n = 100 test images" in title_of(figure)


def test_what_lacks_is_named(tmp_path: Path) -> None:
    def gaps(method: str, asked: AskedAttack, eps: float, seed: int) -> float | None:
        lacking = asked.name == "cw" and eps > 0.3 and method == "madry"
        return None if lacking else falling(method, asked, eps, seed)

    make_suite(tmp_path, "figure2", methods=("natural", "madry"), survives=gaps)
    lacks = output_of(tmp_path, "figure2").lacks
    assert "cat-mix: no training" in lacks
    assert "madry: no cw at eps 0.3188, 0.3825, 0.4463 (best)" in lacks
    assert len(lacks) == 9
    assert [text for text in lacks if text.startswith("natural")] == []


def test_a_network_without_records_has_no_row_in_figure2(tmp_path: Path) -> None:
    """Only Table 3, of one of the two networks."""
    make_suite(tmp_path, "table3", size="full", methods=("madry",))
    made = output_of(tmp_path, "figure2")
    assert set(numbers_of(made, "figure2")["arch"]) == {"wrn-34-10"}
    assert {axes.get_title().split(",")[0] for axes in drawn(made, "figure2").axes} == {"wrn-34-10"}
    assert "madry, vgg-16: no training" in made.lacks


def test_images_that_are_missing_are_counted(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4a", methods=("madry",), survives=nothing)
    (run,) = chosen_of(tmp_path, "figure4a").studies[0].runs["madry"]
    evaluate(RunFolder(tmp_path, run.run_id), "pgd-50", 0.5, 60, eps=0.2)
    made = output_of(tmp_path, "figure4a")
    assert "madry: pgd-50 at eps 51/255 (best): 40 images are missing" in made.lacks
    assert "madry: no pgd-500 at eps 51/255 (best)" in made.lacks
    assert list(numbers_of(made, "figure4a")["n"]) == [60]


@pytest.mark.parametrize("name", FIGURES)
def test_trainings_without_attacks_make_no_figure(tmp_path: Path, name: str) -> None:
    make_suite(tmp_path, name, methods=("madry",), survives=nothing)
    made = output_of(tmp_path, name)
    assert not (made.figures)
    assert not (made.numbers)
    assert "madry: not evaluated" in made.lacks


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


def test_bars_of_several_seeds_are_their_deviation(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4b", methods=("madry",), seeds=(0, 1))
    made = output_of(tmp_path, "figure4b")
    rows = numbers_of(made, "figure4b")
    (spread,) = 100 * rows[rows["attack"] == "cw"]["std"]
    value, low, high = dots_of(drawn(made, "figure4b").axes[-1])["madry"][1]
    assert spread > 0.5
    assert [low, high] == pytest.approx([value - spread, value + spread], abs=1e-3)


def test_a_surrogate_is_no_seed(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4a", methods=("madry",))
    surrogate = {"role": "surrogate"}
    make_suite(
        tmp_path, "figure4a", methods=("madry",), seeds=(1,), survives=nothing, provenance=surrogate
    )
    made = output_of(tmp_path, "figure4a")
    assert set(numbers_of(made, "figure4a")["n_seeds"]) == {1}
    assert not [text for text in made.lacks if "madry" in text]


def test_an_alarm_is_marked_and_explained(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4b", methods=("madry", "cat-ce"))
    runs = chosen_of(tmp_path, "figure4b").studies[0].runs
    check = {"name": "AA square", "value": 0.1, "threshold": 0.02, "alarm": True}
    folder = RunFolder(tmp_path, runs["cat-ce"][0].run_id)
    evaluate(folder, "autoattack", 0.1, 10, eps=0.4, package_checks=(check,))
    made = output_of(tmp_path, "figure4b")
    figure = drawn(made, "figure4b")
    lines = named_lines(figure)
    assert list(lines) == ["madry", "cat-ce \u2020"]
    assert lines["cat-ce \u2020"].get_color() == styles(["cat-ce"])["cat-ce"].colour
    assert "\u2020: alarm of a masking check." in title_of(figure)
    assert "\u2020: alarm of a masking check." in made.note
    rows = numbers_of(made, "figure4b")
    assert set(rows[rows["method"] == "cat-ce"]["label"]) == {"cat-ce \u2020"}


def test_the_change_over_the_steps_is_paired(made: Mapping[str, Output]) -> None:
    rows = numbers_of(made["figure4a"], "figure4a").set_index(["method", "steps"])
    first, last = rows.loc["cat-ce", 10], rows.loc["cat-ce", 500]
    assert math.isnan(first["change"])
    assert last["change"] == pytest.approx(last["accuracy"] - first["accuracy"])
    # on the same images, so narrower than the interval of either accuracy
    assert last["change_high"] - last["change_low"] < last["high"] - last["low"]
    assert rows.loc["madry", 500]["change"] == 0
    figure = drawn(made["figure4a"], "figure4a")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[1].startswith(f"cat-ce: \u2212{100 * abs(last['change']):.1f} [\u2212")
    assert figure.axes[0].get_xscale() == "log"


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


def test_more_images_than_asked_change_no_point(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4a", size="full", methods=("madry",), images=1000)
    before = numbers_of(output_of(tmp_path, "figure4a"), "figure4a")
    (run,) = chosen_of(tmp_path, "figure4a").studies[0].runs["madry"]
    kept = next(e for e in run.evaluations if e.spec.attack == "pgd-20")
    survives = [*kept.index[kept.survived].tolist(), *range(1000, 2000)]
    evaluate(RunFolder(tmp_path, run.run_id), "pgd-20", survives, 2000, clean=1.0)
    after = numbers_of(output_of(tmp_path, "figure4a"), "figure4a")
    assert after.equals(before)
