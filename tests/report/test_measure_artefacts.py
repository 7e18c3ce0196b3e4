"""Figures 1 and 3, section 3.5, radii and cost, from small made records of the tiny suites."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.records import QUANTILES, load_records
from bench.report.artefacts import ARTEFACTS, Made
from bench.report.artefacts.convergence import VALIDATION_ATTACK
from bench.report.complexity_table import COLUMNS
from bench.report.style import KNOWN
from bench.report.suite_runs import choose
from bench.report.units import ALARM
from bench.training.validation import ATTACK
from tests.report.made_measures import checked, measured, scored, study_of, trained

NOTE = "Made by a test."
GOLDEN = Path(__file__).parent / "golden"
BLANK = {".png": b"", ".svg": b""}
GRID = np.linspace(-0.4, 0.4, 5)


MODULES = (
    *("figure1", "landscapes", "margin_figure", "complexity_figure"),
    *("artefacts.convergence", "artefacts.radii", "artefacts.cost"),
)
"""Of bench.report, that draw."""


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are most of a test's time."""
    for module in MODULES:
        monkeypatch.setattr(f"bench.report.{module}.picture_files", lambda *_: dict(BLANK))


def make(results: Path, name: str) -> Made:
    (artefact,) = (artefact for artefact in ARTEFACTS if artefact.name == name)
    chosen = choose(load_records(results), artefact.suite, "full" if name == "figure1" else "tiny")
    assert chosen is not None
    return artefact.make(chosen, NOTE)


def rows(made: Made, name: str) -> list[dict[str, str]]:
    text = made.files[name].decode()
    return list(csv.DictReader(io.StringIO(text.split("\n", 1)[1])))


def golden(made: Made, name: str) -> None:
    """Compare with text that a person has read; REGENERATE_GOLDEN=1 writes it."""
    path = GOLDEN / name
    if os.environ.get("REGENERATE_GOLDEN"):
        path.write_bytes(made.files[name])
    assert made.files[name].decode() == path.read_text()


def drawn(monkeypatch: pytest.MonkeyPatch, module: str, results: Path, name: str) -> Any:
    """The figure behind an artefact's pictures."""
    figures: list[Any] = []

    def keep(draw: Any, note: str, salt: str) -> dict[str, bytes]:
        figures.append(draw())
        return dict(BLANK)

    monkeypatch.setattr(f"bench.report.{module}.picture_files", keep)
    make(results, name)
    return figures[0]


def boundaries(results: Path) -> None:
    slow, fast = (study_of("figure1", number, "full") for number in (0, 1))
    for study, method, seed, weight in (
        (slow, "natural", 0, (1.0, 0.0)),
        (slow, "madry", 0, (2.0, 0.0)),
        (fast, "madry", 0, (1.0, 1.0)),
        (fast, "madry", 1, (1.0, 2.0)),
    ):
        card = {"inner": "none"} if method == "natural" else {}
        run = trained(results, study, method, seed=seed, card=card)
        values = {"angle": 10.0 * seed, "offset": -0.5, "clean_accuracy": 0.9, "n": 1000}
        found = {"eps": [64 * study.eps], "robust_accuracy": [0.25]}
        arrays = {"weight": np.array(weight), "bias": np.asarray(0.5)}
        measured(run, study, "boundary", {**values, **found}, arrays, n=1000, checkpoint="last")


def landscapes(results: Path) -> None:
    study = study_of("figure3")
    for method, seed, height, n in (
        ("natural", 0, 8.0, 3),
        ("cat-ce", 0, 1.0, 2),
        ("cat-ce", 1, 3.0, 3),
    ):
        run = trained(results, study, method, seed=seed)
        surface = height * np.ones((n, 5, 5)) + GRID[:, None]
        arrays = {"a": GRID, "b": GRID, "ce": surface, "margin": surface - 4}
        arrays["ce"][2:] = 1000.0  # of an image that not every record has
        measured(run, study, "landscape", {}, {**arrays, "index": np.arange(n)}, n=n)
        if method == "cat-ce":
            checked(run, study, alarm=seed == 1)
    madry = trained(results, study, "madry")
    arrays = {"a": GRID, "b": GRID, "ce": np.ones((1, 5, 5)), "margin": np.ones((1, 5, 5))}
    measured(madry, study, "landscape", {}, arrays, params={"n_points": 5})
    trades = measured(trained(results, study, "trades"), study, "landscape", {}, arrays)
    trades.with_suffix(".npz").write_bytes(b"cut")


@pytest.mark.usefixtures("undrawn")
def test_a_network_without_an_adversary_has_no_radius(tmp_path: Path) -> None:
    boundaries(tmp_path)
    made = make(tmp_path, "figure1")
    assert set(made.files) == {"figure1.png", "figure1.svg", "figure1.csv"}
    assert made.lacks == ("cat-ce: no training",)
    found = [(r["method"], r["eps"], r["seed"], r["weight_1"]) for r in rows(made, "figure1.csv")]
    assert found == [
        ("natural", "", "0", "0"),
        ("madry", "1", "0", "0"),
        ("madry", "4", "0", "1"),
        ("madry", "4", "1", "2"),
    ]


def test_lines_of_further_seeds_are_faint_and_not_in_the_legend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boundaries(tmp_path)
    figure = drawn(monkeypatch, "figure1", tmp_path, "figure1")
    texts = [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()]
    assert texts[4:] == ["natural", "madry, eps 1", "madry, eps 4"]
    own = [line for line in figure.axes[0].get_lines() if line.get_color() == "#000000"]
    first, second = (line for line in own if line.get_linestyle() == "--")
    assert (first.get_alpha(), second.get_alpha()) == (1.0, 0.3)


@pytest.mark.usefixtures("undrawn")
def test_landscapes_are_means_over_seeds_of_the_images_that_all_have(tmp_path: Path) -> None:
    landscapes(tmp_path)
    made = make(tmp_path, "figure3")
    heights = {
        (row["label"], quantity): float(row[quantity])
        for quantity, name in (("ce", "figure3.csv"), ("margin", "figure3-margin.csv"))
        for row in rows(made, name)
        if float(row["a"]) == 0
    }
    assert heights == {
        ("natural", "ce"): 8,
        (f"cat-ce{ALARM}", "ce"): 2,
        ("natural", "margin"): 4,
        (f"cat-ce{ALARM}", "margin"): -2,
    }
    assert made.lacks == (
        "cat-mix: no training",
        "madry: no landscape with n_points = 21",
        "trades: its landscape is damaged",
    )
    pictures = {name for name in made.files if name.endswith(".png")}
    names = ("", "-contour", "-margin", "-margin-contour")
    assert pictures == {f"figure3{name}.png" for name in names}


def test_figure_3_says_what_soft_labels_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    landscapes(tmp_path)
    title = drawn(monkeypatch, "landscapes", tmp_path, "figure3").get_suptitle()
    assert "soft labels lowers and flattens cross entropy by construction" in title
    assert "mean of 2 test images" in title
    assert "alarm of a masking check" in title.replace("\n", " ")
    (artefact,) = (artefact for artefact in ARTEFACTS if artefact.name == "figure3")
    assert "soft labels" in artefact.title


def margins(results: Path) -> None:
    study = study_of("theory", 4)
    for method, seed, margin in (
        ("madry", 0, [0.0, 0.5, 1.0]),
        ("cat-ce", 0, [0.25, 0.5, 0.5]),
        ("cat-ce", 1, [0.5, 1.0, 1.0]),
    ):
        arrays = {f"margin_{kind}": np.array(margin) for kind in ("both", "layers", "input")}
        positive = [1 / m for m in margin if m > 0]
        inverse = sum(positive) / len(positive)
        values = {f"mean_inverse_{kind}": inverse for kind in ("both", "layers", "input")}
        run = trained(results, study, method, seed=seed)
        measured(run, study, "margins", values, arrays, n=50)


@pytest.mark.usefixtures("undrawn")
def test_the_mean_inverse_is_of_all_seeds_and_stated_to_be_a_bound(tmp_path: Path) -> None:
    margins(tmp_path)
    made = make(tmp_path, "margins")
    text = made.files["margins-mean.csv"].decode()
    assert "Every margin is an upper bound" in text.splitlines()[0]
    both = [row for row in rows(made, "margins-mean.csv") if row["margin"] == "both"]
    assert [(r["label"], r["n"], r["n_seeds"], r["n_above_0"]) for r in both] == [
        ("madry", "3", "1", "2"),
        ("cat-ce", "6", "2", "6"),
    ]
    assert [float(row["mean_inverse"]) for row in both] == pytest.approx([1.5, 2.0])
    assert both[0]["mean_inverse_std"] == ""
    assert float(both[1]["mean_inverse_std"]) == pytest.approx(np.std([8 / 3, 4 / 3], ddof=1))
    assert [float(r["margin"]) for r in rows(made, "margins.csv")][:3] == [0, 0.5, 1]
    assert "trades: no training" in made.lacks
    assert {"margins.png", "margins-layers.svg", "margins-input.csv"} <= set(made.files)


def complexities(results: Path, *, with_cat: bool = True) -> None:
    for number, method, log10 in ((0, "madry", 2.3), (1, "madry", 1.7), (3, "cat-ce", 2.0)):
        study = study_of("theory", number)
        if method != "cat-ce" or with_cat:
            run = trained(results, study, method)
            values = {f"log10_product_{name}": log10 for name in COLUMNS}
            measured(run, study, "complexity", {**values, "n_layers": 5})


@pytest.mark.usefixtures("undrawn")
def test_norms_are_relative_to_cat_and_beside_the_paper_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complexities(tmp_path)
    made = make(tmp_path, "complexity")
    for suffix in (".md", ".csv", ".tex"):
        golden(made, f"complexity{suffix}")
    assert made.files["complexity.tex"].isascii()
    assert made.lacks == ("madry, eps 0.1913: no training", "cat-mix: no training")
    (axes,) = drawn(monkeypatch, "complexity_figure", tmp_path, "complexity").axes
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert ticks == ["madry, eps 0.06375", "madry, eps 0.1275", "cat-ce"]
    ratios = {
        row["label"]: float(row["ratio_folded_spectral"]) for row in rows(made, "complexity.csv")
    }
    points = {
        (round(float(line.get_ydata()[0])), line.get_marker(), round(line.get_xdata()[0], 4))
        for line in axes.get_lines()
        if line.get_marker() in ("o", "x")
    }
    assert points == {
        *((row, "o", round(ratios[label], 4)) for row, label in enumerate(ticks)),
        (0, "x", 2.54),
        (1, "x", 3.53),
    }
    assert ratios["madry, eps 0.06375"] == pytest.approx(10**0.3, rel=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_without_cat_nothing_is_drawn_and_that_is_said(tmp_path: Path) -> None:
    complexities(tmp_path, with_cat=False)
    made = make(tmp_path, "complexity")
    assert set(made.files) == {"complexity.md", "complexity.tex", "complexity.csv"}
    assert "no network of cat-ce or cat-mix: nothing is relative, so nothing is drawn" in made.lacks


def histories(results: Path) -> None:
    study = study_of("table3")
    radii = [np.array(QUANTILES) * 0.2, np.array(QUANTILES) * 0.4]
    scored(trained(results, study, "madry"), (0.3, 0.5))
    scored(trained(results, study, "cat-ce"), (0.2, 0.4), [list(row) for row in radii])
    scored(trained(results, study, "cat-ce", seed=1), (0.4, 0.8), [list(row) for row in radii])
    trained(results, study, "mart", passes=(22.0, 11.0), machine=None)
    serves = {"role": "surrogate"}
    scored(trained(results, study, "natural", provenance=serves), (0.0, 0.0))


@pytest.mark.usefixtures("undrawn")
def test_validation_by_epoch_is_drawn_as_the_csv_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories(tmp_path)
    made = make(tmp_path, "convergence")
    golden(made, "convergence.csv")
    assert made.lacks[:2] == ("natural: no training", "dynamic: no training")
    assert "mart, seed 0: no validation scores" in made.lacks
    figure = drawn(monkeypatch, "artefacts.convergence", tmp_path, "convergence")
    (axes,) = figure.axes
    for line in axes.get_lines():
        own = [r for r in rows(made, "convergence.csv") if line.get_label().startswith(r["method"])]
        assert list(line.get_xdata()) == [int(row["epoch"]) for row in own] == [1, 2]
        assert line.get_ydata() == pytest.approx([100 * float(row["accuracy"]) for row in own])
        assert line.get_color() == KNOWN[own[0]["method"]].colour
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["madry: 50.0 [40.4, 59.6]", "cat-ce: 60.0 \u00b1 28.3"]
    assert figure.get_suptitle().startswith(f"100 validation images, {ATTACK.upper()} at")
    assert ATTACK.upper() == VALIDATION_ATTACK


@pytest.mark.usefixtures("undrawn")
def test_bands_of_radii_are_the_quantiles_in_units_of_eps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories(tmp_path)
    made = make(tmp_path, "radii")
    golden(made, "radii.csv")
    figure = drawn(monkeypatch, "artefacts.radii", tmp_path, "radii")
    (axes,) = figure.axes  # the methods without radii have no panel
    assert axes.get_title() == "cat-ce: radius"
    first, second, eps = axes.get_lines()
    assert list(first.get_ydata()) == pytest.approx([0.5, 1.0])
    assert second.get_alpha() == 0.5
    assert list(eps.get_ydata()) == [1, 1]
    tops = [band.get_paths()[0].vertices[:, 1].max() for band in axes.collections]
    assert tops == pytest.approx([2.0, 1.8, 1.5])


@pytest.mark.usefixtures("undrawn")
def test_costs_are_those_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories(tmp_path)
    made = make(tmp_path, "cost")
    assert set(made.files) == {"cost.png", "cost.svg"}  # the numbers are in the cost table's .csv
    assert "mart: no training of madry on an equal machine" in made.lacks
    passes, seconds = drawn(monkeypatch, "artefacts.cost", tmp_path, "cost").axes
    assert [tick.get_text() for tick in passes.get_yticklabels()] == ["madry", "mart", "cat-ce"]
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in passes.get_lines()[:3]}
    assert dots == pytest.approx({0: 1.0, 1: 1.5, 2: 1.0})
    assert "\u2013" in [text.get_text() for text in seconds.texts]


def test_without_the_reference_no_cost_is_drawn(tmp_path: Path) -> None:
    trained(tmp_path, study_of("table3"), "trades")
    made = make(tmp_path, "cost")
    assert not made.files
    assert made.lacks[-1] == "no training of madry: nothing is relative, so nothing is drawn"


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("figure3", landscapes),
        ("margins", margins),
        ("complexity", complexities),
        ("convergence", histories),
        ("radii", histories),
        ("cost", histories),
    ],
)
def test_every_file_repeats_and_says_its_origin_and_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, records: Any
) -> None:
    monkeypatch.setattr("bench.report.picture.DPI", 40)
    records(tmp_path)
    made = make(tmp_path, name)
    if name not in ("figure3", "margins"):  # those are repeated where they are drawn
        assert made == make(tmp_path, name)
    assert made.files
    for file, content in made.files.items():
        assert file.startswith(name)
        assert NOTE.encode() in content, file
        assert b"Size tiny (digits, cnn, 4 epochs): not the paper's." in content, file
        assert content.count(b": the paper's") == 0, file


def test_records_of_no_measure_make_no_file(tmp_path: Path) -> None:
    trained(tmp_path, study_of("figure3"), "madry")
    made = make(tmp_path, "figure3")
    assert not made.files
    assert "madry: no landscape with n_points = 21" in made.lacks
