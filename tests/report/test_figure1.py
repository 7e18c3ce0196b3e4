from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from bench.report.figure1 import Boundary, draw_figure1, figure1_files, training_points
from bench.report.style import KNOWN


def boundary(method: str, eps: float | None, weight: tuple[float, float], bias: float) -> Boundary:
    return Boundary(
        method=method,
        eps=eps,
        weight=np.array(weight),
        bias=bias,
        angle=float(np.degrees(np.arctan2(abs(weight[1]), abs(weight[0])))),
        offset=-bias / weight[0] if weight[0] else None,
        clean_accuracy=0.75,
    )


BOUNDARIES = [
    boundary("cat-ce", 4, (2.0, 0.5), 1.0),
    boundary("madry", 4, (1.0, 1.0), 3.0),
    boundary("madry", 1, (1.0, 0.0), -0.001),
    boundary("natural", None, (1.0, -0.1), 0.0),
    boundary("free", 4, (0.0, 1.0), -500.0),
]


def test_the_training_points_are_the_data_set_s() -> None:
    points, labels = training_points()
    assert points.shape == (500, 2)
    assert (np.sign(points[:, 0]) == 2 * labels - 1).all()


def test_lines_lie_on_their_equation_and_keep_the_method_s_look() -> None:
    (axes,) = draw_figure1(BOUNDARIES).axes
    assert axes.get_aspect() == 1
    assert "units of the points" in axes.get_xlabel()
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    found = {}
    for b in BOUNDARIES[:4]:
        (text,) = (label for label in lines if label.startswith(f"{b.label}:"))
        x, y = np.asarray(lines[text].get_data())
        np.testing.assert_allclose(b.weight[0] * x + b.weight[1] * y + b.bias, 0, atol=1e-9)
        low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
        ends = np.array([[x[0], y[0]], [x[-1], y[-1]]])
        assert (np.isclose(ends, low) | np.isclose(ends, high)).any(1).all()
        assert lines[text].get_color() == KNOWN[b.method].colour
        assert lines[text].get_marker() == KNOWN[b.method].marker
        found[b.label] = lines[text].get_linestyle()
    assert found["madry, eps 1"] != found["madry, eps 4"]


def test_the_legend_has_angle_and_offset_in_the_paper_s_order() -> None:
    figure = draw_figure1(BOUNDARIES)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[4:] == [
        "natural: 5.7\u00b0, at $x_0$ = 0.00",
        "madry, eps 1: 0.0\u00b0, at $x_0$ = 0.00",
        "madry, eps 4: 45.0\u00b0, at $x_0$ = \u22123.00",
        "cat-ce, eps 4: 14.0\u00b0, at $x_0$ = \u22120.50",
        "free, eps 4: 90.0\u00b0 (outside)",
    ]
    figure.draw_without_rendering()
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())


def test_csv_holds_the_numbers_and_the_pictures_repeat() -> None:
    first, second = (figure1_files(BOUNDARIES, "made by a test") for _ in range(2))
    assert first == second
    assert set(first) == {".png", ".svg", ".csv"}
    assert b"made by a test" in first[".svg"]
    text = first[".csv"].decode()
    assert text.startswith("# made by a test\n")
    rows = list(csv.DictReader(io.StringIO(text.split("\n", 1)[1])))
    assert [(row["method"], row["eps"]) for row in rows][:3] == [
        ("natural", ""),
        ("madry", "1"),
        ("madry", "4"),
    ]
    assert float(rows[2]["angle_degrees"]) == pytest.approx(45)
    assert (rows[4]["offset"], rows[4]["weight_1"]) == ("", "1")
