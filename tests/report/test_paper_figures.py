"""Figures 2, 4a and 4b of the paper from made records: what is drawn is what the .csv holds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.folder import RunFolder
from bench.records import load_records
from bench.report.artefacts import ARTEFACTS, Made
from bench.report.artefacts.parts import parts
from bench.report.picture import picture_files
from bench.report.style import KNOWN
from bench.report.suite_runs import SuiteRuns, choose
from bench.study import AskedAttack
from tests.report.made import evaluate
from tests.report.made_suite import falling, make_suite, nothing

NOTE = "Made by `bench report` from made records."
BY_NAME = {artefact.name: artefact for artefact in ARTEFACTS}
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


def chosen_of(results: Path, suite: str) -> SuiteRuns:
    chosen = choose(load_records(results), suite)
    assert chosen is not None
    return chosen


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Records of each figure in its smallest size."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        for name, methods in METHODS.items():
            make_suite(folder / name, name, methods=methods, survives=steps)
    return {name: folder / name for name in METHODS}


@pytest.fixture(scope="module")
def made(results: Mapping[str, Path]) -> Mapping[str, Made]:
    return {name: BY_NAME[name].make(chosen_of(results[name], name), NOTE) for name in FIGURES}


def rows_of(made: Made, name: str) -> list[dict[str, str]]:
    text = made.files[f"{name}.csv"].decode()
    return list(csv.DictReader(io.StringIO(text.split("\n", 1)[1])))


def draw(chosen: SuiteRuns, name: str) -> Figure:
    """The figure that the artefact makes its files of."""
    kept: list[Figure] = []

    def keep(drawing: Callable[[], Figure], note: str, salt: str) -> dict[str, bytes]:
        kept.append(drawing())
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"bench.report.artefacts.{name}.picture_files", keep)
        BY_NAME[name].make(chosen, NOTE)
    (figure,) = kept
    return figure


def lines_of(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (floats(line.get_xdata()), floats(line.get_ydata()))
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def floats(values: object) -> list[float]:
    return [float(value) for value in np.asarray(values).ravel()]


def band_of(axes: Axes, place: int) -> list[tuple[float, float]]:
    """The corners of one band."""
    (path,) = axes.collections[place].get_paths()
    return [(float(x), float(y)) for x, y in np.asarray(path.vertices)]


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
def test_lines_and_bands_are_the_numbers_of_the_csv(
    results: Mapping[str, Path], made: Mapping[str, Made], name: str
) -> None:
    rows = [row for row in rows_of(made[name], name) if row["attack"] in ("pgd-20", "pgd")]
    x = "steps" if name == "figure4a" else "eps"
    axes = draw(chosen_of(results[name], name), name).axes[0]
    lines = lines_of(axes)
    assert list(lines) == list(METHODS[name])
    for place, (label, (xs, ys)) in enumerate(lines.items()):
        own = [row for row in rows if row["label"] == label]
        np.testing.assert_allclose(xs, [float(row[x]) for row in own])
        np.testing.assert_allclose(ys, [100 * float(row["accuracy"]) for row in own], atol=1e-4)
        edges = {(round(a, 6), round(b, 3)) for a, b in band_of(axes, place)}
        for row in own:
            for edge in ("low", "high"):
                assert (round(float(row[x]), 6), round(100 * float(row[edge]), 3)) in edges


@pytest.mark.parametrize(("name", "attacks"), [
    ("figure2", ("autoattack",)), ("figure4b", ("pgd-20", "cw", "autoattack")),
])  # fmt: skip
def test_dots_and_bars_are_the_numbers_of_the_csv(
    results: Mapping[str, Path], made: Mapping[str, Made], name: str, attacks: tuple[str, ...]
) -> None:
    chosen = chosen_of(results[name], name)
    axes = draw(chosen, name).axes[-1]
    dots = dots_of(axes)
    assert set(dots) == set(METHODS[name])
    places = [floats(container[0].get_xdata())[0] for container in axes.containers]
    assert len({round(place, 6) for place in places}) == len(places), "dots on each other"
    for label, found in dots.items():
        rows = [
            row
            for attack in attacks
            for row in rows_of(made[name], name)
            if (row["label"], row["attack"]) == (label, attack)
            and (name == "figure2" or float(row["eps"]) == pytest.approx(0.2))
        ]
        wanted = [[100 * float(row[key]) for key in ("accuracy", "low", "high")] for row in rows]
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_figure2_starts_at_clean_accuracy_and_marks_autoattack(made: Mapping[str, Made]) -> None:
    rows = [row for row in rows_of(made["figure2"], "figure2") if row["method"] == "madry"]
    by_attack: dict[str, list[float]] = {}
    for row in rows:
        by_attack.setdefault(row["attack"], []).append(float(row["eps"]))
    assert len(by_attack["pgd-20"]) == len(by_attack["cw"]) == 9
    assert by_attack["pgd-20"][0] == by_attack["cw"][0] == 0
    assert by_attack["autoattack"] == [0.095625, 0.2]
    assert float(rows[0]["accuracy"]) == 0.95
    for row in rows[1:9]:  # each radius has its own outcomes
        share = steps("madry", AskedAttack(name="pgd-20"), float(row["eps"]), 0)
        assert float(row["accuracy"]) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("name", FIGURES)
def test_a_method_looks_the_same_everywhere(results: Mapping[str, Path], name: str) -> None:
    for axes in draw(chosen_of(results[name], name), name).axes:
        named = [(str(line.get_label()), line) for line in axes.get_lines()]
        named = [(label, line) for label, line in named if label in KNOWN]
        named += [(str(container.get_label()), container[0]) for container in axes.containers]
        assert named
        for label, line in named:
            assert (line.get_color(), line.get_marker()) == (
                KNOWN[label].colour,
                KNOWN[label].marker,
            )


@pytest.mark.parametrize("name", FIGURES)
def test_axes_have_units_and_the_legend_covers_none(results: Mapping[str, Path], name: str) -> None:
    chosen, kept = chosen_of(results[name], name), list[Figure]()

    def keep() -> Figure:
        kept.append(draw(chosen, name))
        return kept[-1]

    picture_files(keep, NOTE, name)
    (figure,) = kept
    assert "(%)" in figure.axes[0].get_ylabel()
    assert ("steps" if name == "figure4a" else "pixels") in figure.axes[0].get_xlabel()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    for axes in figure.axes:
        panel = axes.get_tightbbox()
        assert panel is not None
        assert not box.overlaps(panel)
    whole = figure.bbox
    assert box.x0 >= whole.x0
    assert box.x1 <= whole.x1
    title = figure.get_suptitle()
    assert "not the paper's." in title.replace("\n", " ")
    assert "n = 100 test images" in title.replace("\n", " ")


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_records_give_the_same_bytes_with_their_origin(
    results: Mapping[str, Path], made: Mapping[str, Made], name: str
) -> None:
    again = BY_NAME[name].make(chosen_of(results[name], name), NOTE)
    assert again == made[name]
    assert sorted(again.files) == [f"{name}.{kind}" for kind in ("csv", "png", "svg")]
    assert matplotlib.image.imread(io.BytesIO(again.files[f"{name}.png"])).std() > 0.05
    for content in again.files.values():
        assert NOTE.encode() in content
        assert b"not the paper's." in content or b"not the paper&apos;s." in content


def test_what_lacks_is_named(tmp_path: Path) -> None:
    def gaps(method: str, asked: AskedAttack, eps: float, seed: int) -> float | None:
        lacking = asked.name == "cw" and eps > 0.3 and method == "madry"
        return None if lacking else falling(method, asked, eps, seed)

    make_suite(tmp_path, "figure2", methods=("natural", "madry"), survives=gaps)
    made = BY_NAME["figure2"].make(chosen_of(tmp_path, "figure2"), NOTE)
    assert "cat-mix: no training" in made.lacks
    assert "madry: no cw at eps 0.3188, 0.3825, 0.4463 (best)" in made.lacks
    assert len(made.lacks) == 9
    assert [text for text in made.lacks if text.startswith("natural")] == []


def test_a_network_without_records_has_no_row_in_figure2(tmp_path: Path) -> None:
    """Table 3 alone, of one of the two networks."""
    make_suite(tmp_path, "table3", size="full", methods=("madry",))
    made = BY_NAME["figure2"].make(chosen_of(tmp_path, "figure2"), NOTE)
    assert {row["arch"] for row in rows_of(made, "figure2")} == {"wrn-34-10"}
    assert "figure2.svg" in made.files
    assert "madry, vgg-16: no training" in made.lacks


def test_images_that_are_missing_are_counted(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4a", methods=("madry",), survives=nothing)
    (run,) = chosen_of(tmp_path, "figure4a").studies[0].runs["madry"]
    evaluate(RunFolder(tmp_path, run.run_id), "pgd-50", 0.5, 60, eps=0.2)
    made = BY_NAME["figure4a"].make(chosen_of(tmp_path, "figure4a"), NOTE)
    assert "madry: pgd-50 at eps 51/255 (best): 40 images are missing" in made.lacks
    assert "madry: no pgd-500 at eps 51/255 (best)" in made.lacks
    assert [row["n"] for row in rows_of(made, "figure4a")] == ["60"]


@pytest.mark.parametrize("name", FIGURES)
def test_trainings_alone_make_no_figure(tmp_path: Path, name: str) -> None:
    make_suite(tmp_path, name, methods=("madry",), survives=nothing)
    made = BY_NAME[name].make(chosen_of(tmp_path, name), NOTE)
    assert made.files == {}
    assert "madry: not evaluated" in made.lacks


def test_seeds_are_averaged_in_a_band_of_their_deviation(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4a", methods=("madry",), seeds=(0, 1, 2))
    chosen = chosen_of(tmp_path, "figure4a")
    rows = rows_of(BY_NAME["figure4a"].make(chosen, NOTE), "figure4a")
    assert {(row["n_seeds"], row["low"]) for row in rows} == {("3", "")}
    axes = draw(chosen, "figure4a").axes[0]
    (xs, ys) = lines_of(axes)["madry"]
    first = sorted(b for a, b in band_of(axes, 0) if a == xs[0])
    spread = 100 * float(rows[0]["std"])
    assert 0.5 < spread < 5
    assert [first[0], first[-1]] == pytest.approx([ys[0] - spread, ys[0] + spread], abs=1e-3)
    assert "standard deviation over seeds" in draw(chosen, "figure4a").get_suptitle().replace(
        "\n", " "
    )


def test_bars_of_several_seeds_are_their_deviation(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4b", methods=("madry",), seeds=(0, 1))
    chosen = chosen_of(tmp_path, "figure4b")
    rows = rows_of(BY_NAME["figure4b"].make(chosen, NOTE), "figure4b")
    (row,) = (row for row in rows if row["attack"] == "cw")
    value, low, high = dots_of(draw(chosen, "figure4b").axes[-1])["madry"][1]
    spread = 100 * float(row["std"])
    assert spread > 0.5
    assert [low, high] == pytest.approx([value - spread, value + spread], abs=1e-3)


def test_a_surrogate_is_no_seed(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4a", methods=("madry",))
    make_suite(tmp_path / "other", "figure4a", methods=("madry",), seeds=(1,), survives=nothing)
    (twin,) = (tmp_path / "other").iterdir()
    twin.rename(tmp_path / twin.name)
    head = tmp_path / twin.name / "spec.json"
    head.write_text(
        head.read_text().replace('"provenance": {', '"provenance": {"role": "surrogate",')
    )
    chosen = chosen_of(tmp_path, "figure4a")
    made = BY_NAME["figure4a"].make(chosen, NOTE)
    assert {row["n_seeds"] for row in rows_of(made, "figure4a")} == {"1"}
    assert not [text for text in made.lacks if "madry" in text]


def test_an_alarm_is_marked_and_explained(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4b", methods=("madry", "cat-ce"))
    runs = chosen_of(tmp_path, "figure4b").studies[0].runs
    check = {"name": "AA square", "value": 0.1, "threshold": 0.02, "alarm": True}
    folder = RunFolder(tmp_path, runs["cat-ce"][0].run_id)
    evaluate(folder, "autoattack", 0.1, 10, eps=0.4, package_checks=(check,))
    chosen = chosen_of(tmp_path, "figure4b")
    figure = draw(chosen, "figure4b")
    assert list(lines_of(figure.axes[0])) == ["madry", "cat-ce \u2020"]
    assert "\u2020: alarm of a masking check." in figure.get_suptitle()
    (line,) = (x for x in figure.axes[0].get_lines() if x.get_label() == "cat-ce \u2020")
    assert line.get_color() == KNOWN["cat-ce"].colour
    rows = rows_of(BY_NAME["figure4b"].make(chosen, NOTE), "figure4b")
    assert {row["label"] for row in rows if row["method"] == "cat-ce"} == {"cat-ce \u2020"}


def test_the_change_over_the_steps_is_paired(
    results: Mapping[str, Path], made: Mapping[str, Made]
) -> None:
    rows = rows_of(made["figure4a"], "figure4a")
    last = {row["method"]: row for row in rows if row["steps"] == "500"}
    first = {row["method"]: row for row in rows if row["steps"] == "10"}
    assert first["cat-ce"]["change"] == ""
    change = float(last["cat-ce"]["change"])
    fall = float(last["cat-ce"]["accuracy"]) - float(first["cat-ce"]["accuracy"])
    assert change == pytest.approx(fall)
    # on the same images, so narrower than two intervals that know nothing of each other
    width = float(last["cat-ce"]["change_high"]) - float(last["cat-ce"]["change_low"])
    assert width < float(last["cat-ce"]["high"]) - float(last["cat-ce"]["low"])
    assert float(last["madry"]["change"]) == 0
    figure = draw(chosen_of(results["figure4a"], "figure4a"), "figure4a")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[1].startswith(f"cat-ce: \u2212{100 * abs(change):.1f} [\u2212")
    assert figure.axes[0].get_xscale() == "log"


def test_each_network_has_a_row_of_its_own_unless_two_are_one(
    results: Mapping[str, Path], tmp_path: Path
) -> None:
    chosen = chosen_of(results["figure2"], "figure2")
    assert len(chosen.studies) == 2
    (part,) = parts(chosen)
    assert [original.arch for original in part.originals] == ["vgg-16", "wrn-34-10"]
    make_suite(tmp_path, "figure2", size="full", methods=("madry",), images=20)
    full = chosen_of(tmp_path, "figure2")
    figure = draw(full, "figure2")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        f"{arch}, {attack}"
        for arch in ("vgg-16", "wrn-34-10")
        for attack in ("PGD-20", "C&W", "AutoAttack")
    ]
    assert "the paper's size" in figure.get_suptitle()
    assert "not the paper's" not in figure.get_suptitle()


def test_more_images_than_asked_change_no_point(tmp_path: Path) -> None:
    make_suite(tmp_path, "figure4a", size="full", methods=("madry",), images=1000)
    before = rows_of(BY_NAME["figure4a"].make(chosen_of(tmp_path, "figure4a"), NOTE), "figure4a")
    (run,) = chosen_of(tmp_path, "figure4a").studies[0].runs["madry"]
    survives = [i for i in range(2000) if i >= 1000]
    kept = next(e for e in run.evaluations if e.spec.attack == "pgd-20")
    evaluate(
        RunFolder(tmp_path, run.run_id),
        "pgd-20",
        [*kept.index[kept.survived].tolist(), *survives],
        2000,
        clean=1.0,
    )
    after = rows_of(BY_NAME["figure4a"].make(chosen_of(tmp_path, "figure4a"), NOTE), "figure4a")
    assert after == before
