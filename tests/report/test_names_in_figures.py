"""Names from outside in figures: never read as formulas, and never left out of a legend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.records import load_records
from bench.report import figure as robust_figure
from bench.report.aggregate import sections
from bench.report.curves import curves
from bench.report.figure import figure_files
from bench.report.picture import legend_label, picture_files
from tests.report.made import evaluate, train_run

HOSTILE = (
    *("$x$", "a$b$c", r"$\frac$", r"\frac", r"a\$b", "$"),
    *("_hidden", "__init__", "x^2_i", "100%"),
)


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


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

    files = picture_files(draw, f"note on {name}", "test")
    assert files[".png"].startswith(b"\x89PNG")
    shown = [text for text in texts(drawn[0]) if name in text.get_text()]
    assert len(shown) >= 3
    legend = drawn[0].axes[0].get_legend()
    assert legend is not None
    assert [text.get_text().strip("\u200b") for text in legend.get_texts()] == [name]
    assert not any(text.get_parse_math() for text in shown)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_curves_of_such_a_method_are_in_the_legend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = train_run(tmp_path, name)
    evaluate(run, "clean", range(90), 100)
    evaluate(run, "pgd-20", range(50), 100)
    (section,) = sections(load_records(tmp_path))
    drawn: list[Figure] = []
    original = robust_figure.draw

    def draw(*arguments: Any) -> Figure:
        drawn.append(original(*arguments))
        return drawn[-1]

    monkeypatch.setattr(robust_figure, "draw", draw)
    figure_files(curves(section), section.setting, "note")
    (legend,) = drawn[0].legends
    (text,) = legend.get_texts()
    assert text.get_text().strip("\u200b") == name


def test_our_own_formulas_are_still_formulas(tmp_path: Path) -> None:
    run = train_run(tmp_path, "madry")
    evaluate(run, "pgd-20", range(50), 100)
    (section,) = sections(load_records(tmp_path))
    with rc_context({"text.parse_math": False}):
        figure = robust_figure.draw(curves(section), section.setting)
    formulas = [text for text in texts(figure) if "$" in text.get_text()]
    assert [text.get_text() for text in formulas] == [
        r"$L_\infty$ radius $\epsilon$ (pixel range [0, 1])"
    ]
    assert all(text.get_parse_math() for text in formulas)


def test_only_a_leading_underscore_needs_the_mark() -> None:
    assert [legend_label(name) for name in ("madry", "a_b", "_a")] == ["madry", "a_b", "\u200b_a"]
