from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.report.accuracy_vs_eps import curve_csv, curves, draw_curves
from bench.report.export import figure_files, legend_label
from bench.report.formatting import eps_both, eps_text, percent
from bench.report.rows import Section
from bench.report.style import MUTED, figure_styles, styles
from tests.report.made import attacked, evaluate, section_of, train_run


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """Two methods over four radii; C&W for one of them; the other's attacks on `last` alone."""
    madry = attacked(tmp_path, "madry", 100, {"clean": 90, "cw": 45})
    for grey_levels, n_correct in ((2, 80), (8, 50), (16, 20)):
        evaluate(madry, "pgd-20", range(n_correct), 100, eps=grey_levels / 255)
    trades = train_run(tmp_path, "trades")
    evaluate(trades, "pgd-20", range(55), 100, checkpoint="last")
    train_run(tmp_path, "mart")
    return section_of(tmp_path)


def files(section: Section) -> dict[str, bytes]:
    found = curves(section)
    return figure_files(lambda: draw_curves(found, section.setting), "note", "test")


def test_csv_holds_the_plotted_numbers(section: Section) -> None:
    rows = curve_csv(curves(section)).to_numpy().tolist()
    # Where clean images were evaluated with the attack alone, its own clean flags are used.
    assert [(r[0], r[1], r[2], float(r[3]), float(r[4])) for r in rows] == [
        ("madry", "best", "pgd-20", 0.0, 1.0),
        ("madry", "best", "pgd-20", pytest.approx(2 / 255), 0.8),
        ("madry", "best", "pgd-20", pytest.approx(8 / 255), 0.5),
        ("madry", "best", "pgd-20", pytest.approx(16 / 255), 0.2),
        ("trades", "last", "pgd-20", 0.0, 1.0),
        ("trades", "last", "pgd-20", pytest.approx(8 / 255), 0.55),
        ("madry", "best", "cw", 0.0, 1.0),
        ("madry", "best", "cw", pytest.approx(8 / 255), 0.45),
    ]
    assert {(r[8], r[9]) for r in rows} == {(100, 1)}


@pytest.mark.slow
def test_the_picture_opens_and_is_not_blank(section: Section, tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(files(section)[".png"])
    pixels: Any = matplotlib.image.imread(path)
    assert pixels.shape[0] >= 500
    assert pixels.shape[1] >= 1200
    for name in ("madry", "trades"):
        colour = [int(styles([name])[name].colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        near = np.abs(pixels[..., :3] - np.array(colour)).max(axis=-1) < 0.02
        assert near.sum() > 200, name


@pytest.mark.slow
def test_the_user_s_style_does_not_come_in(
    section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = files(section)[".svg"]
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    assert files(section)[".svg"] == plain
    assert matplotlib.rcParams["font.size"] == 30.0


def test_a_line_is_broken_where_a_radius_was_not_attacked(section: Section) -> None:
    madry, trades = draw_curves(curves(section), section.setting).axes[0].containers
    grid = [eps / 255 for eps in (0, 2, 8, 16)]
    for container, accuracies in ((madry, [100, 80, 50, 20]), (trades, [100, np.nan, 55, np.nan])):
        line = container[0]
        np.testing.assert_allclose(np.asarray(line.get_xdata(), float), grid, atol=1e-9)
        np.testing.assert_allclose(line.get_ydata(), accuracies)


def test_labels_and_scales(section: Section) -> None:
    figure = draw_curves(curves(section), section.setting)
    left, right, below, empty = figure.axes
    assert (left.get_title(), right.get_title()) == ("PGD-20", "C&W")
    assert left.get_ylabel() == "accuracy on test images (%)"
    assert "pixel range [0, 1]" in below.get_xlabel() == right.get_xlabel()
    assert below.get_ylabel() == "difference to\nMadry AT (points)"
    assert not empty.axison  # TRADES has no C&W
    assert left.get_xlim() == right.get_xlim()
    ticks = [tick.get_text() for tick in below.get_xticklabels()]
    assert ticks == ["0", "0.0314", "0.0627"]  # 2/255 has no room for a label
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["TRADES (last)", "Madry AT"]
    title = str(figure.get_label())
    assert "digits, cnn, recipe common" in title
    assert "n = 100 images" in title
    assert "training radius 8/255" in title


def test_differences_to_madry_are_those_on_the_same_images(tmp_path: Path) -> None:
    for method, n_left, inner in (
        ("madry", 60, "PGD"),
        ("trades", 45, "PGD"),
        ("natural", 0, "none"),
    ):
        attacked(tmp_path, method, 100, {"pgd-20": n_left}, card={"inner": inner})
    section = section_of(tmp_path)
    found = curves(section)
    rows = curve_csv(found).set_index(["method", "eps"])["difference"]
    rows = rows[[float(eps) > 0 for eps in rows.index.get_level_values("eps")]].droplevel("eps")
    assert rows["trades"] == pytest.approx(-0.15)
    assert rows["natural"] == pytest.approx(-0.6)
    assert np.isnan(rows["madry"])
    (below,) = draw_curves(found, section.setting).axes[1:]
    (trades,) = below.containers  # training without an attack would hide the other differences
    assert list(trades[0].get_ydata()) == pytest.approx([0, -15])
    (low, high) = trades[2][0].get_segments()[1][:, 1]
    assert low < -15 < high < 0


def test_the_legend_covers_no_panel(section: Section) -> None:
    figure = draw_curves(curves(section), section.setting)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    for axes in figure.axes:
        assert not legend.overlaps(axes.get_window_extent())


def test_bars_are_the_interval_or_the_deviation(tmp_path: Path) -> None:
    for seed, n_left in ((0, 40), (1, 60)):
        attacked(tmp_path, "madry", 100, {"pgd-20": n_left}, seed=seed)
    attacked(tmp_path, "trades", 100, {"pgd-20": 50})
    section = section_of(tmp_path)
    axes = draw_curves(curves(section), section.setting).axes[0]
    heights = []
    for container in axes.containers:
        segments = container[2][0].get_segments()
        heights.append([float(segments[1][0][1]), float(segments[1][1][1])])
    spread = 100 * 0.02**0.5
    assert heights[0] == pytest.approx([50 - spread, 50 + spread])
    assert heights[1] == pytest.approx([40.383, 59.617], abs=1e-3)


@pytest.mark.parametrize(
    ("eps", "short", "both"),
    [
        (8 / 255, "8/255", "8/255 (0.0314)"),
        (0.031, "0.031", "0.031"),
        (0.3, "0.3", "0.3"),
        (51 / 255, "51/255", "51/255 (0.2)"),
        (0.0, "0", "0"),
    ],
)
def test_eps_text(eps: float, short: str, both: str) -> None:
    assert (eps_text(eps), eps_both(eps)) == (short, both)


def test_percent() -> None:
    assert percent(0.52345) == "52.3"
    assert percent(-0.0004) == "0.0"
    assert percent(-0.012) == "\u22121.2"
    assert percent(1.0) == "100.0"
    assert percent(0.9348, 2) == "93.48"


HOSTILE = (
    *("$x$", "a$b$c", r"$\frac$", r"\frac", r"a\$b", "$"),
    *("_hidden", "__init__", "x^2_i", "100%"),
)


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_title_a_tick_and_a_legend_show_the_name(name: str) -> None:
    drawn: list[Figure] = []

    def draw() -> Figure:
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], label=legend_label(name))
        axes.set_title(name)
        axes.set_yticks([0, 1], [name, "other"])
        axes.legend()
        drawn.append(figure)
        return figure

    files = figure_files(draw, f"note on {name}", "test")
    assert files[".png"].startswith(b"\x89PNG")
    shown = [text for text in texts(drawn[0]) if name in text.get_text()]
    assert len(shown) >= 3
    legend = drawn[0].axes[0].get_legend()
    assert legend is not None
    assert [text.get_text().strip("\u200b") for text in legend.get_texts()] == [name]
    assert not any(text.get_parse_math() for text in shown)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_curves_of_such_a_method_are_in_the_legend(tmp_path: Path, name: str) -> None:
    attacked(tmp_path, name, 100, {"clean": 90, "pgd-20": 50})
    section = section_of(tmp_path)
    (legend,) = draw_curves(curves(section), section.setting).legends
    (text,) = legend.get_texts()
    assert text.get_text().strip("\u200b") == name


def test_our_own_formulas_are_still_formulas(tmp_path: Path) -> None:
    attacked(tmp_path, "madry", 100, {"pgd-20": 50})
    section = section_of(tmp_path)
    with rc_context({"text.parse_math": False}):
        figure = draw_curves(curves(section), section.setting)
    formulas = [text for text in texts(figure) if "$" in text.get_text()]
    assert [text.get_text() for text in formulas] == [
        r"$L_\infty$ radius $\epsilon$ (pixel range [0, 1])"
    ]
    assert all(text.get_parse_math() for text in formulas)


def test_a_figure_has_a_caption_of_its_own_and_a_picture_that_describes_itself(
    section: Section,
) -> None:
    made = files(section)
    caption = made["-caption.tex"].decode()
    assert caption.startswith("% note\n\\caption{Robust accuracy against eps. digits, cnn")
    assert caption.endswith("\\label{fig:test}\n")
    svg = made[".svg"].decode()
    assert "<title>Robust accuracy against eps</title>" in svg
    assert re.search(r"<desc>Robust accuracy against eps\. .*n = 100 images", svg)
    assert ">PGD-20</text>" in svg  # text, not its outlines
    assert files(section) == made


def test_of_many_methods_only_the_papers_choice_is_in_colour() -> None:
    names = ["natural", "madry", "trades", "cat-ce", "cat-mix", "mart", "iaat"]
    look = figure_styles(names)
    assert [name for name in names if look[name].muted] == ["mart", "iaat"]
    assert {look[name].colour for name in ("mart", "iaat")} == {MUTED}
    few = names[:3] + names[5:]
    assert figure_styles(few) == styles(few)
