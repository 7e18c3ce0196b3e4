"""Figures 1 and 3, section 3.5, radii and cost, from small made records of the tiny suites."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import AxLine

from bench.papers.cat.complexity import COLUMNS, complexity_text, with_ratios
from bench.papers.cat.drawing import apart
from bench.papers.cat.epochs import VALIDATION_ATTACK
from bench.papers.cat.figure3 import Kind, draw_landscapes, height_norm
from bench.papers.cat.margins import KINDS
from bench.records import QUANTILES
from bench.report.artefact import Output
from bench.report.formatting import ALARM
from bench.report.style import styles
from bench.training.validation import ATTACK
from tests.report.made_measures import checked, measured, scored, study_of, trained
from tests.report.outputs import BY_NAME, drawn, named_lines, numbers_of, output_of, title_of

GRID = np.linspace(-0.4, 0.4, 5)
EPS = 8 / 255


def make(results: Path, name: str) -> Output:
    return output_of(results, name, "full" if name == "figure1" else "tiny")


# Figure 1


def boundaries(results: Path) -> None:
    """Lines at x_0 = 0 (natural), 1 and -1 (madry, eps 1), and outside (madry, eps 4)."""
    slow, fast = (study_of("figure1", number, "full") for number in (0, 1))
    for study, method, seed, line, accuracy in (
        (slow, "natural", 0, (1.0, -0.1, 0.0), (0.5, 1.0)),
        (slow, "madry", 0, (2.0, 0.0, -2.0), (1.0, 0.25, 0.75)),
        (slow, "madry", 1, (2.0, 1.0, 2.0), ()),
        (fast, "madry", 0, (0.0, 0.0, 1.0), (0.5,)),
        (fast, "cat-ce", 0, (1.0, 0.0, 0.5), (0.5, 0.5)),
    ):
        card = {"inner": "none"} if method == "natural" else {}
        run = trained(results, study, method, seed=seed, card=card)
        radius = {"radius_quantiles": [0, 0, 0, 2 / 64, 0, 0, 0]} if method == "cat-ce" else {}
        run.write_history(
            [{"epoch": epoch, "val_clean": value} | radius for epoch, value in enumerate(accuracy)]
        )
        *weight, bias = line
        offset = -bias / weight[0] if weight[0] else None
        values = {"angle": 10.0 * seed, "offset": offset, "clean_accuracy": 0.9 + seed / 100}
        found = {"eps": [64 * study.eps], "robust_accuracy": [0.25]}
        arrays = {"weight": np.array(weight), "bias": np.asarray(bias)}
        measured(run, study, "boundary", {**values, **found}, arrays, n=1000, checkpoint="last")


def test_a_line_has_its_radius_and_what_its_training_went_through(tmp_path: Path) -> None:
    boundaries(tmp_path)
    made = make(tmp_path, "figure1")
    assert "cat-ce, eps 0.0625, seed 1: no training" not in made.lacks  # the only cat-ce
    assert "cat-ce, seed 1: no training" in made.lacks
    rows = numbers_of(made, "figure1")
    columns = ["method", "eps", "seed", "offset", "robust_accuracy", "largest_fall", "radius"]
    assert rows[columns].fillna(-9).to_numpy().tolist() == [
        ["natural", -9, 0, 0, -9, -0.5, -9],
        ["madry", 1, 0, 1, 0.25, 0.75, -9],
        ["madry", 1, 1, -1, 0.25, -9, -9],
        ["madry", 4, 0, -9, 0.25, -9, -9],
        ["cat-ce", 4, 0, -0.5, 0.25, 0, 2],
    ]


def test_each_seed_s_line_lies_on_its_equation_in_the_panel_of_its_radius(tmp_path: Path) -> None:
    boundaries(tmp_path)
    made = make(tmp_path, "figure1")
    figure = drawn(made, "figure1")
    planes, epochs = figure.axes[:4], figure.axes[4:]
    assert [axes.get_title() for axes in planes] == [
        "(a) Natural", "(b) Madry AT, eps 1", "(c) Madry AT, eps 4", "(d) CAT-CE, eps 4",
    ]  # fmt: skip
    assert {axes.get_aspect() for axes in planes} == {1.0}
    assert [len(axes.get_lines()) for axes in planes] == [1, 2, 0, 1]
    for line, (w0, w1, bias) in zip(planes[1].get_lines(), [(2, 0, -2), (2, 1, 2)], strict=True):
        assert isinstance(line, AxLine)
        x, y = np.array([line.get_xy1(), line.get_xy2()]).T
        np.testing.assert_allclose(w0 * x + w1 * y + bias, 0, atol=1e-9)
    assert planes[1].get_xlabel() == ("accuracy 90 [90, 91]%\nat $x_0$ = 0.0 [\u22121.0, 1.0]")
    assert planes[2].get_xlabel().endswith("at $x_0$ = \u2013\n1 of 1 lines outside")
    shown = [
        [np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()] for axes in epochs
    ]
    shown[1].pop()  # of the training without a history
    assert shown == [[[50, 100]], [[100, 25, 75]], [[50]], [[50, 50], [50, 50]]]
    assert "our reconstruction of the paper's data" in title_of(figure)


# Figure 3


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


def plane(method: str, slope: float) -> pd.DataFrame:
    """A plane that rises only with a."""
    grid = np.linspace(-2, 2, 5) * EPS
    rows = pd.DataFrame(product(grid, grid), columns=["a", "b"])
    margin = slope * rows["a"] / EPS
    return rows.assign(label=method, ce=margin + 10, margin=margin)


def landscape(heights: pd.DataFrame, kind: Kind, quantity: Literal["ce", "margin"]) -> Figure:
    return draw_landscapes(heights, EPS, kind, quantity, ("", ""))


PLANES = pd.concat([plane("madry", 2.0), plane("cat-ce", 0.5)])


def test_landscapes_are_means_over_seeds_of_the_images_that_all_have(tmp_path: Path) -> None:
    landscapes(tmp_path)
    made = make(tmp_path, "figure3")
    for quantity, name, heights in (
        ("ce", "figure3", {"natural": 8, f"cat-ce{ALARM}": 2}),
        ("margin", "figure3-margin", {"natural": 4, f"cat-ce{ALARM}": -2}),
    ):
        rows = numbers_of(made, name)
        middle = rows[rows["a"] == 0]
        assert dict(zip(middle["label"], middle[quantity], strict=True)) == heights
    assert made.lacks == (
        "cat-mix: no training",
        "madry: no landscape with n_points = 21",
        "trades: no landscape with n_points = 21",
    )
    names = ("", "-contour", "-margin-contour")
    assert set(made.figures) == {f"figure3{name}" for name in names}
    rows = numbers_of(made, "figure3")[:25]
    np.testing.assert_allclose(rows["a"], np.repeat(GRID, 5))
    np.testing.assert_allclose(rows["ce"], 8 + rows["a"])
    title = title_of(drawn(made, "figure3"))
    assert "soft labels lowers and flattens cross entropy by construction" in title
    assert "mean of 2 test images" in title
    assert "alarm of a masking check" in title
    assert "soft labels" in BY_NAME["figure3"].title


def test_panels_share_one_scale() -> None:
    *panels, bar = landscape(PLANES, "surface", "ce").axes
    assert [axes.get_title() for axes in panels] == ["Madry AT", "CAT-CE"]
    assert [axes.get_zlim() for axes in panels] == [(6, 14)] * 2  # type: ignore[attr-defined]
    assert bar.get_ylim() == pytest.approx((6, 14))
    low, high = landscape(PLANES, "contour", "margin").axes[-1].get_ylim()
    assert (low, high) == pytest.approx((-4, 4))


def test_a_is_the_horizontal_axis_of_the_contours() -> None:
    """Steep in a, level in b: every contour line is upright; the boundary is where it must be."""
    axes = landscape(PLANES[:25], "contour", "margin").axes[0]
    zero = axes.collections[-1].get_paths()[0].vertices
    np.testing.assert_allclose(np.asarray(zero)[:, 0], 0, atol=1e-9)
    assert np.ptp(np.asarray(zero)[:, 1]) == pytest.approx(4)
    assert list(axes.get_xticks()) == [-2, -1, 0, 1, 2]


@pytest.mark.parametrize("kind", ["surface", "contour"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_not_finite_are_left_out(kind: Kind, bad: float) -> None:
    broken = plane("madry", 1.0)
    broken.loc[0, "ce"] = bad
    assert landscape(broken, kind, "ce").axes[-1].get_ylim() == pytest.approx((8, 12))


def test_one_height_has_colours_and_the_boundary_is_their_middle() -> None:
    assert height_norm(pd.Series([2.0, 2.0]), boundary=False)(2.0) >= 0
    norm = height_norm(pd.Series([-9.0, 1.0]), boundary=True)
    assert [float(norm(z)) for z in (-9, 0, 2.25, 9)] == pytest.approx([0, 0.5, 0.75, 1])


# Margins


def margins(results: Path) -> None:
    study = study_of("theory", 4)
    for method, seed, margin in (
        ("madry", 0, [0.0, 0.5, 1.0]),
        ("cat-ce", 0, [0.25, 0.5, 0.5]),
        ("cat-ce", 1, [0.5, 1.0, 1.0]),
    ):
        arrays = {array: np.array(margin) for _, array, _ in KINDS.values()}
        run = trained(results, study, method, seed=seed)
        measured(run, study, "margins", {}, arrays, n=50)
        bilateral = {"margin": np.array(margin) / 2, "bound": np.array(margin)}
        measured(run, study, "bilateral", {}, bilateral, n=50, split="train")
        measured(run, study, "bilateral", {}, {"margin": np.ones(9), "bound": np.ones(9)}, n=60)


def test_the_mean_inverse_is_of_all_seeds_and_stated_to_be_a_bound(tmp_path: Path) -> None:
    margins(tmp_path)
    made = make(tmp_path, "margins")
    assert "Every margin is an upper bound" in made.note
    rows = numbers_of(made, "margins-mean")
    assert "Definition 3.1" in made.note
    own = rows[rows["margin"] == "bilateral"]  # on training images, and next to its bound
    assert list(own["mean_inverse"]) == pytest.approx([3, 4])
    assert list(own["mean_inverse_of_softmax_bound"]) == pytest.approx([1.5, 2])
    madry, cat = rows[rows["margin"] == "both"].to_dict("records")
    assert np.isnan(madry["mean_inverse_of_softmax_bound"])
    counts = ("label", "n", "n_seeds", "n_above_0")
    assert [madry[key] for key in counts] == ["madry", 3, 1, 2]
    assert [cat[key] for key in counts] == ["cat-ce", 6, 2, 6]
    assert [madry["mean_inverse"], cat["mean_inverse"]] == pytest.approx([1.5, 2.0])
    assert np.isnan(madry["mean_inverse_std"])
    assert cat["mean_inverse_std"] == pytest.approx(np.std([8 / 3, 4 / 3], ddof=1), rel=1e-5)
    assert list(numbers_of(made, "margins")["margin"])[:3] == [0, 0.5, 1]
    assert "trades: no training" in made.lacks
    assert set(made.figures) == {"margins"}
    headings = [axes.get_title() for axes in drawn(made, "margins").axes]
    assert len(headings) == 4
    assert headings[0] == "training images:\nDefinition 3.1"


def test_margins_are_drawn_as_quantiles_and_what_nothing_broke_ends_at_the_edge(
    tmp_path: Path,
) -> None:
    study, margin = study_of("theory", 4), np.arange(10) / 10
    for method, found in (
        ("madry", margin),
        ("cat-ce", np.where(margin > 0.55, np.inf, margin)),
        ("cat-mix", np.zeros(10)),
    ):
        arrays = {f"margin_{kind}": found for kind in ("both", "layers", "input")}
        measured(trained(tmp_path, study, method), study, "margins", {}, arrays, n=50)
    figure = drawn(make(tmp_path, "margins"), "margins")
    left, *_ = figure.axes
    ticks = [tick.get_text() for tick in left.get_yticklabels()]
    assert ticks == ["Madry AT", "CAT-CE", "CAT-MIX"]
    drawn_at = [np.atleast_1d(np.asarray(line.get_xdata(), float)) for line in left.get_lines()]
    madry, cat, mix = drawn_at[:3], drawn_at[3:6], drawn_at[6:]
    assert [list(x) for x in madry] == [[0.0, 0.8], [0.2, 0.7], [0.4]]
    assert cat[2] == 0.4
    assert cat[0][1] > left.get_xlim()[1]
    assert not np.any(np.concatenate(mix))
    assert "n = 10 images" in title_of(figure)
    assert KINDS["layers"][-1] in title_of(figure)


# Weight norms


def network(method: str, log10: float | None, label: str = "") -> dict[str, Any]:
    products = {f"log10_product_{name}": log10 for name in COLUMNS}
    return {"label": label or method, "method": method, "n_layers": 5, **products}


def ratios(*networks: dict[str, Any]) -> dict[str, str]:
    text = complexity_text(*with_ratios(pd.DataFrame(networks)))
    return dict(zip(text["Method"], text["Spectral, folded"], strict=True))


def complexities(results: Path, *, with_cat: bool = True) -> None:
    for number, method, log10 in ((0, "madry", 2.3), (1, "madry", 1.7), (3, "cat-ce", 2.0)):
        study = study_of("theory", number)
        if method != "cat-ce" or with_cat:
            run = trained(results, study, method)
            values = {f"log10_product_{name}": log10 for name in COLUMNS}
            measured(run, study, "complexity", {**values, "n_layers": 5})


def test_ratios_are_to_the_paper_s_method_beyond_the_range_of_a_float() -> None:
    methods = {"natural": 20.0, "madry": 400.40483, "trades": 407.5, "mart": None,
               "cat-ce": 400.0, "cat-mix": 400.2}  # fmt: skip
    assert ratios(*(network(method, log10) for method, log10 in methods.items())) == {
        "Natural": "1.0e-380",
        "Madry AT": "2.54",
        "TRADES": "3.2e+07",
        "MART": "\u2013",
        "CAT-CE": "1",
        "CAT-MIX": "1.58",
    }


def test_seeds_are_joined_by_the_geometric_mean() -> None:
    networks = [network("madry", 2.0), network("madry", 3.0), network("cat-ce", 2.0)]
    assert ratios(*networks)["Madry AT"] == "3.16 \u00d7\u00f7 5.09"
    rows, reference = with_ratios(pd.DataFrame(networks))
    text = complexity_text(rows, reference)
    assert (list(text["Seeds"]), list(text["Layers"])) == (["2", "1"], ["5", "5"])
    assert list(rows["ratio_folded_spectral"]) == [1, 10, 1]


def test_the_plain_label_is_the_reference() -> None:
    networks = [network("cat-ce", 1.0, "cat-ce, eps 0.1"), network("cat-ce", 0.0)]
    assert ratios(*networks) == {"CAT-CE": "1", "CAT-CE, eps 0.1": "10"}


def test_without_the_paper_s_method_the_logarithms_stand_and_nothing_is_drawn(
    tmp_path: Path,
) -> None:
    assert ratios(network("madry", -1.5)) == {"Madry AT": "\u22121.50"}
    complexities(tmp_path, with_cat=False)
    made = make(tmp_path, "complexity")
    assert not made.figures
    assert "no network of cat-ce or cat-mix: nothing is relative, so nothing is drawn" in made.lacks
    assert "nothing is relative" in made.below[0]
    assert "2.54, 3.53 and 1.39" in made.below[1]


def test_norms_are_drawn_next_to_the_paper_s(tmp_path: Path) -> None:
    complexities(tmp_path)
    made = make(tmp_path, "complexity")
    assert made.lacks == ("madry, eps 0.1913: no training", "cat-mix: no training")
    assert "neither the network nor the norm" in made.below[1]
    panels = drawn(made, "complexity").axes
    assert [axes.get_title() for axes in panels] == ["spectral", "Frobenius", "max row sum"]
    axes = panels[0]
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert ticks == ["Madry AT, eps 0.06375", "Madry AT, eps 0.1275"]  # relative to CAT-CE
    rows = numbers_of(made, "complexity").set_index("label")
    labels = ["madry, eps 0.06375", "madry, eps 0.1275"]
    own = {label: round(float(rows["ratio_folded_spectral"][label]), 4) for label in labels}
    spectral, paper = axes.collections[0], axes.collections[-1]
    offsets = np.asarray(spectral.get_offsets())
    np.testing.assert_allclose(offsets[:, 0], list(own.values()), atol=1e-4)
    np.testing.assert_allclose(np.asarray(paper.get_offsets()), [[2.54, 0], [3.53, 1]])
    assert own["madry, eps 0.06375"] == pytest.approx(10**0.3, abs=1e-4)


# Histories and costs


def test_labels_are_as_near_to_their_lines_as_they_fit() -> None:
    assert apart([10.0, 40.0], 5.0, 60.0) == [10, 40]
    assert apart([10.0, 11.0, 12.0, 40.0], 4.0, 60.0) == pytest.approx([7, 11, 15, 40])
    assert apart([58.0, 59.0], 5.0, 60.0) == pytest.approx([55, 60])  # none above the highest


def histories(results: Path) -> None:
    study = study_of("table3")
    radii = [[0.2 * q for q in QUANTILES], [0.4 * q for q in QUANTILES]]
    scored(trained(results, study, "madry"), (0.3, 0.5))
    scored(trained(results, study, "cat-ce"), (0.2, 0.4), radii)
    scored(trained(results, study, "cat-ce", seed=1), (0.4, 0.8), radii)
    trained(results, study, "mart", passes=(22.0, 11.0), machine=None)
    serves = {"role": "surrogate"}
    scored(trained(results, study, "natural", provenance=serves), (0.0, 0.0))


def test_validation_by_epoch_is_drawn_as_the_csv_has_it(tmp_path: Path) -> None:
    histories(tmp_path)
    made = make(tmp_path, "convergence")
    rows = numbers_of(made, "convergence")
    assert rows[["method", "epoch", "accuracy", "n", "n_seeds"]].to_numpy().tolist() == [
        ["madry", 1, 0.3, 100, 1],
        ["madry", 2, 0.5, 100, 1],
        ["cat-ce", 1, 0.3, 100, 2],
        ["cat-ce", 2, 0.6, 100, 2],
    ]
    assert list(rows["low"].round(6))[:2] == [0.218949, 0.403832]
    assert list(rows["std"].round(6))[2:] == [0.141421, 0.282843]
    assert made.lacks[:2] == ("natural: no training", "dynamic: no training")
    assert "mart, seed 0: no validation scores" in made.lacks
    figure = drawn(made, "convergence")
    for method, line in named_lines(figure).items():
        own = rows[rows["method"] == method]
        assert list(line.get_xdata()) == list(own["epoch"]) == [1, 2]
        assert line.get_ydata() == pytest.approx(list(100 * own["accuracy"]))
        assert line.get_color() == styles([method])[method].colour
    texts = [text.get_text() for text in figure.axes[0].texts[:2]]
    assert texts == ["Madry AT: 50.0 [40.4, 59.6]", "CAT-CE: 60.0 \u00b1 28.3"]
    assert title_of(figure).startswith(f"100 validation images, {ATTACK.upper()} at")
    assert ATTACK.upper() == VALIDATION_ATTACK


def test_bands_of_radii_are_the_quantiles_in_units_of_eps(tmp_path: Path) -> None:
    histories(tmp_path)
    made = make(tmp_path, "radii")
    rows = numbers_of(made, "radii")
    assert set(rows["method"]) == {"cat-ce"}
    assert rows[["seed", "epoch"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    columns = [f"q{level:g}" for level in QUANTILES]
    assert list(rows.loc[0, columns]) == pytest.approx([0.2 * q for q in QUANTILES])
    assert rows["mean"][1] == pytest.approx(0.4 * QUANTILES[3])
    (axes,) = drawn(made, "radii").axes  # the methods without radii have no panel
    assert axes.get_title() == "CAT-CE: radius"
    first, second, eps = axes.get_lines()
    assert list(np.asarray(first.get_ydata())) == pytest.approx([0.5, 1.0])
    assert second.get_alpha() == 0.5
    assert list(np.asarray(eps.get_ydata())) == [1, 1]
    tops = [np.asarray(band.get_paths()[0].vertices)[:, 1].max() for band in axes.collections]
    assert tops == pytest.approx([2.0, 1.8, 1.5])


def test_costs_are_those_of_the_table(tmp_path: Path) -> None:
    histories(tmp_path)
    made = make(tmp_path, "cost")
    assert not made.numbers  # they are in the cost table's .csv
    assert "mart: no training of madry on an equal machine" in made.lacks
    passes, seconds = drawn(made, "cost").axes
    assert [tick.get_text() for tick in passes.get_yticklabels()] == ["Madry AT", "MART", "CAT-CE"]
    lines = [line for line in passes.get_lines() if line.get_marker() not in ("|", "None")]
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in lines}  # type: ignore[index]
    assert dots == pytest.approx({0: 1.0, 1: 1.5, 2: 1.0})
    assert "\u2013" in [text.get_text() for text in seconds.texts]


def test_without_the_reference_no_cost_is_drawn(tmp_path: Path) -> None:
    trained(tmp_path, study_of("table3"), "trades")
    made = make(tmp_path, "cost")
    assert not made.figures
    assert made.lacks[-1] == "no training of madry: nothing is relative, so nothing is drawn"


@pytest.mark.slow
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
def test_every_figure_says_its_size(tmp_path: Path, name: str, records: Any) -> None:
    records(tmp_path)
    made = make(tmp_path, name)
    for figure in made.figures:
        drawing = drawn(made, figure)
        FigureCanvasAgg(drawing)
        drawing.draw_without_rendering()
        assert "Size tiny (digits, cnn, 4 epochs): not the paper's." in title_of(drawing)


def test_records_of_no_measure_make_nothing(tmp_path: Path) -> None:
    trained(tmp_path, study_of("figure3"), "madry")
    made = make(tmp_path, "figure3")
    assert not (made.figures)
    assert not (made.numbers)
    assert "madry: no landscape with n_points = 21" in made.lacks
