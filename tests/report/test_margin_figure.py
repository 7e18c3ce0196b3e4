from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from bench.report.margin_figure import KINDS, Margins, draw_margins, margin_files
from bench.report.style import KNOWN

FOUND = [
    Margins(label="cat-ce", method="cat-ce", margin=np.array([0.5, 0.0, 0.25, 1.0])),
    Margins(label="madry", method="madry", margin=np.array([0.1, 0.2, np.inf, 0.0])),
    Margins(label="mine", method="mine", margin=np.zeros(4)),
]


def test_curves_are_the_share_of_images_up_to_each_margin() -> None:
    (axes,) = draw_margins(FOUND, "both").axes
    lines = {str(line.get_label()).split(":")[0]: line for line in axes.get_lines()}
    assert list(lines) == ["madry", "cat-ce", "mine"]
    x, y = np.asarray(lines["cat-ce"].get_data())
    np.testing.assert_allclose(x, [0, 0, 0.25, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(y, [0, 25, 50, 75, 100, 100])
    assert lines["cat-ce"].get_drawstyle() == "steps-post"
    assert lines["cat-ce"].get_color() == KNOWN["cat-ce"].colour
    _, y = np.asarray(lines["madry"].get_data())
    assert y[-1] == 75  # one image that nothing broke


def test_the_legend_has_the_mean_inverse_of_margins_above_zero() -> None:
    figure = draw_margins(FOUND, "layers")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["madry: 5", "cat-ce: 2.33", "mine: \u2013"]
    assert FOUND[0].mean_inverse == pytest.approx((2 + 4 + 1) / 3)
    assert KINDS["layers"] in figure.axes[0].get_xlabel()
    assert "n = 4 images" in figure.get_suptitle()


def test_files_repeat_and_the_csv_has_every_image() -> None:
    first, second = (margin_files(FOUND, "input", "note") for _ in range(2))
    assert first == second
    text = first[".csv"].decode()
    rows = list(csv.DictReader(io.StringIO(text.split("\n", 1)[1])))
    assert len(rows) == 12
    assert [row["margin"] for row in rows[:4]] == ["0.1", "0.2", "inf", "0"]


def test_misclassified_images_alone_still_make_a_figure() -> None:
    files = margin_files([FOUND[2]], "both", "note")
    assert files[".png"].startswith(b"\x89PNG")
