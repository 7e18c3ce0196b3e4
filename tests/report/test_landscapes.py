from __future__ import annotations

import csv
import io
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.errors import ConfigError
from bench.report.landscape_colours import Colours
from bench.report.landscapes import (
    Kind,
    Quantity,
    Surface,
    draw_landscapes,
    landscape_csv,
    landscape_files,
)

EPS = 8 / 255
GRID = np.linspace(-2, 2, 5) * EPS


def surface(method: str, slope: float, n: int = 2) -> Surface:
    """Planes that rise with a alone; the second image is higher by 1."""
    plane = slope * GRID[:, None] / EPS + 0 * GRID[None, :]
    z: NDArray[np.float64] = np.stack([plane + i for i in range(n)])
    return Surface(
        label=method,
        method=method,
        eps=EPS,
        a=GRID,
        b=GRID,
        ce=z + 10,
        margin=z,
        index=np.array([4, 7])[:n],
    )


SURFACES = [surface("cat-ce", 0.5), surface("madry", 2.0), surface("mine", 1.0)]


def test_panels_are_in_the_tables_order_on_one_scale() -> None:
    figure = draw_landscapes(SURFACES, kind="surface", quantity="ce")
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == ["madry", "cat-ce", "mine"]
    for axes in panels:
        assert axes.get_zlim() == pytest.approx((6.5, 14.5))  # type: ignore[attr-defined]
    assert bar.get_ylim() == pytest.approx((6.5, 14.5))
    assert bar.get_ylabel() == "cross entropy (nats); colours: square-root scale"
    assert "mean of 2 test images, \u03b5 = 8/255" in figure.get_suptitle()


def test_a_picked_image_is_that_image() -> None:
    figure = draw_landscapes(SURFACES[:1], kind="surface", quantity="ce", image=1)
    assert figure.axes[0].get_zlim() == pytest.approx((10, 12))  # type: ignore[attr-defined]
    assert "test image 7," in figure.get_suptitle()
    with pytest.raises(ConfigError, match="cat-ce has 2 images"):
        draw_landscapes(SURFACES[:1], kind="surface", quantity="ce", image=2)
    with pytest.raises(ConfigError, match="measure one"):
        draw_landscapes([], kind="surface", quantity="ce")


def test_a_is_the_horizontal_axis_of_the_contours() -> None:
    """Steep in a, level in b: every contour line is upright; the boundary is where it must be."""
    figure = draw_landscapes(SURFACES[1:2], kind="contour", quantity="margin", image=0)
    axes = figure.axes[0]
    zero = axes.collections[-1].get_paths()[0].vertices
    np.testing.assert_allclose(np.asarray(zero)[:, 0], 0, atol=1e-9)
    assert np.ptp(np.asarray(zero)[:, 1]) == pytest.approx(4)
    assert list(axes.get_xticks()) == [-2, -1, 0, 1, 2]
    assert "orange side of 0: misclassified" in figure.get_suptitle()
    assert figure.get_supxlabel() == r"$a / \epsilon$, along the gradient's sign"


def test_the_margin_s_colours_are_centred_on_the_boundary() -> None:
    figure = draw_landscapes(SURFACES, kind="contour", quantity="margin")
    low, high = figure.axes[-1].get_ylim()
    assert low == -high


def test_points_that_are_not_finite_are_left_out() -> None:
    broken = surface("madry", 1.0)
    broken.ce[:, 0, 0] = np.nan
    figure = draw_landscapes([broken], kind="surface", quantity="ce")
    assert figure.axes[0].get_zlim() == pytest.approx((8.5, 12.5))  # type: ignore[attr-defined]
    landscape_files([broken], "note", kind="contour", quantity="ce")


@pytest.mark.parametrize("boundary", [False, True])
def test_levels_take_in_every_height_and_the_boundary(boundary: bool) -> None:
    heights = [np.array([[-3.0, 1.0]]), np.array([[12.0, np.nan]])]
    colours = Colours(heights, boundary=boundary)
    levels = colours.levels()
    assert (np.diff(levels) > 0).all()
    assert levels[0] < -3
    assert levels[-1] > 12
    assert np.isclose(levels, 0, atol=1e-12).any() == boundary
    shades = np.asarray(colours.norm(levels[1:-1]))
    np.testing.assert_allclose(np.diff(shades), np.diff(shades)[0])


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("quantity", get_args(Quantity))
def test_pictures_repeat_byte_for_byte(kind: Kind, quantity: Quantity) -> None:
    first, second = (
        landscape_files(SURFACES[:2], "a note", kind=kind, quantity=quantity) for _ in range(2)
    )
    assert first == second
    assert b"a note" in first[".svg"]
    assert first[".png"].startswith(b"\x89PNG")


def test_csv_holds_every_point() -> None:
    text = landscape_csv(SURFACES, "note", quantity="margin", image=1)
    assert text.startswith("# note\n")
    rows = list(csv.DictReader(io.StringIO(text.split("\n", 1)[1])))
    assert len(rows) == 3 * 25
    for row in rows[:25]:
        assert row["label"] == "madry"
        assert float(row["margin"]) == pytest.approx(2 * float(row["a"]) / EPS + 1, abs=1e-4)
