"""Methods can be told apart in every figure, by colour-blind readers and in grey print too."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from bench.experiments.suite import load_suite
from bench.registry import list_methods
from bench.report.style import ALIKE, COLOURS, Style, styles

READERS = {
    "normal": np.eye(3),
    # of linear RGB, G. M. Machado et al. (2009), doi 10.1109/TVCG.2009.113, at severity 1
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
"""Of linear sRGB."""
WHITE = np.array([0.95047, 1.0, 1.08883])
DISTANCE = 15.0
"""Least distance of two colours in CIELAB (1976), for each of READERS."""
LIGHTNESS = 10.0
"""Least difference of their L*, which is what grey print keeps."""
SHAPES = [group for group in ALIKE if not group & set(COLOURS)]


def lab(colour: str, reader: str) -> np.ndarray:
    """CIELAB of a colour as a reader sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = XYZ @ np.clip(READERS[reader] @ linear, 0, 1) / WHITE
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def apart(a: str, b: str) -> bool:
    distances = [np.linalg.norm(lab(a, reader) - lab(b, reader)) for reader in READERS]
    grey = abs(lab(a, "normal")[0] - lab(b, "normal")[0])
    return bool(min(distances) >= DISTANCE and grey >= LIGHTNESS)


def similar(a: Style, b: Style) -> bool:
    """Whether the markers are."""
    return a.marker == b.marker or any({a.marker, b.marker} <= group for group in SHAPES)


def confused(found: dict[str, Style]) -> list[tuple[str, str]]:
    """Pairs with the same marker and dash, or with similar markers in colours that are alike."""
    return [
        (a, b)
        for (a, x), (b, y) in combinations(found.items(), 2)
        if (x.marker, x.dash) == (y.marker, y.dash)
        or (similar(x, y) and not apart(x.colour, y.colour))
    ]


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ("#ffffff", (100.0, 0.0, 0.0)),
        ("#ff0000", (53.24, 80.09, 67.20)),
        ("#0000ff", (32.30, 79.19, -107.86)),
    ],
)
def test_the_conversion_gives_known_values(colour: str, expected: tuple[float, ...]) -> None:
    np.testing.assert_allclose(lab(colour, "normal"), expected, atol=0.02)


def test_colours_count_as_alike_where_a_reader_may_confuse_them() -> None:
    for a, b in combinations(COLOURS, 2):
        alike = any({a, b} <= group for group in ALIKE)
        assert alike is not apart(COLOURS[a], COLOURS[b]), (a, b)


def test_no_two_registered_methods_are_confused() -> None:
    names = list_methods()
    assert len(names) >= 20
    assert confused(styles(names)) == []


@pytest.mark.parametrize("suite", ["table3", "table4", "figure2", "figure4a", "figure4b"])
def test_lines_of_a_figure_differ_in_colour_or_else_in_marker_and_dash(suite: str) -> None:
    names = {method for study in load_suite(suite).studies for method in study.methods}
    for (a, x), (b, y) in combinations(styles(names).items(), 2):
        both = x.dash != y.dash and not similar(x, y)
        assert both or apart(x.colour, y.colour), (a, b)


def test_natural_is_lighter_than_cat_ce() -> None:
    natural, cat = (lab(styles([name])[name].colour, "normal") for name in ("natural", "cat-ce"))
    assert natural[0] - cat[0] >= LIGHTNESS


def test_a_method_of_one_s_own_is_not_confused_with_those_of_papers() -> None:
    known, own = list_methods(), [f"mine-{i}" for i in range(40)]
    for name in own:
        assert confused(styles([*known, name])) == []
    assert confused(styles([*known, *own[:4]])) == []
    together = styles([*known, *own])
    assert len(set(together.values())) == len(together)  # of very many none look the same


def test_a_label_looks_the_same_in_every_figure() -> None:
    names = [*list_methods(), "mine"]
    together = styles(names)
    assert [name for name in names if styles([name])[name] != together[name]] == []
