"""The roofline: its record, its table, its picture; speeds are FLOP over seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.progress import Reporter
from bench.speed import roofline as module
from bench.speed.layers import PASSES
from bench.speed.roofline import Kernel, Roofline, copy_bandwidth, matmul_peak, measure_roofline
from bench.speed.roofline_figure import roofline_figure, write_roofline
from bench.speed.tables import markdown_table, significant

CPU = torch.device("cpu")


@pytest.fixture
def roofline(monkeypatch: pytest.MonkeyPatch) -> Roofline:
    """Of two networks, with made times: a layer takes a millisecond, in bf16 half of it."""
    seconds = {"fp32": 1e-3, "bf16": 5e-4}
    monkeypatch.setattr(module, "fastest", lambda layer, which, precision, *_: seconds[precision])
    monkeypatch.setattr(module, "has_fast_bf16", lambda device: True)
    monkeypatch.setattr(module, "matmul_peak", lambda device, precision, budget: 1e11)
    monkeypatch.setattr(module, "copy_bandwidth", lambda device, budget: 1e10)
    with Reporter(quiet=True) as reporter:
        return measure_roofline(["cnn", "resnet-18"], CPU, reporter, batch=2)


def test_every_pass_of_every_distinct_layer_is_there_once(roofline: Roofline) -> None:
    counts = Counter((k.arch, k.layer, k.which, k.precision) for k in roofline.kernels)
    assert set(counts.values()) == {1}
    resnet = [k for k in roofline.kernels if (k.arch, k.precision) == ("resnet-18", "bf16")]
    assert {k.which for k in resnet} == set(PASSES)
    assert sum(k.calls for k in resnet if k.which == "forward") == 21  # 20 convolutions, 1 linear
    (same,) = (k for k in resnet if k.layer.startswith("3x3, 64 to 64,") and k.which == "input")
    assert same.calls == 4
    assert same.flops == 2 * 2 * 64 * 32 * 32 * 64 * 9
    assert same.gflops_per_second == pytest.approx(same.flops / 5e-4 / 1e9)


def test_the_record_is_read_as_it_was_written(roofline: Roofline) -> None:
    assert Roofline.from_json(roofline.to_json()) == roofline
    assert isinstance(Roofline.from_json(roofline.to_json()).kernels[0], Kernel)


def test_the_files_of_a_roofline(roofline: Roofline, tmp_path: Path) -> None:
    page = write_roofline(roofline, tmp_path, "bench speed --roofline x")
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".md", ".png", ".svg"}
    text = page.read_text()
    assert "`bench speed --roofline x`" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## cnn, fp32",
        "## cnn, bf16",
        "## resnet-18, fp32",
        "## resnet-18, bf16",
    ]
    row = next(r for r in text.splitlines() if r.startswith("| 3x3, 64 to 64,"))
    # 2 * 2 * 64 * 32^2 * 64 * 9 FLOP in a millisecond are 151 GFLOP/s, of 100
    assert row.count("151 (151%)") == 3


def test_the_picture_names_its_axes_and_its_label_is_above_the_roof(roofline: Roofline) -> None:
    figure = roofline_figure(roofline)
    left, right = figure.axes
    assert left.get_ylabel() == "speed (GFLOP/s)"
    assert left.get_xlabel() == right.get_xlabel() == "arithmetic intensity (FLOP / byte)"
    (roof,) = (line for line in (np.asarray(x.get_xydata()) for x in left.lines) if len(line) == 3)
    assert roof[1:, 1].tolist() == [100, 100]  # GFLOP/s
    assert roof[1, 0] == 10  # 1e11 FLOP/s over 1e10 bytes/s
    figure.draw_without_rendering()
    (label,) = right.texts
    top = right.transData.transform((1, 100))[1]
    assert label.get_window_extent().y0 > top, "the label hides the roof"


def test_peaks_are_positive_and_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "N_MATMUL", {"cpu": 32})
    monkeypatch.setattr(module, "COPY_BYTES", 1000)
    products: list[torch.Tensor] = []

    def seconds(call: Callable[[], torch.Tensor], device: torch.device, budget: float) -> float:
        products.append(call())
        return 4.0 / len(products)

    monkeypatch.setattr(module, "shortest", seconds)
    assert matmul_peak(CPU, "fp32") == 2 * 32**3 / 2
    matrix, image = products
    assert torch.equal(image.flatten(1), matrix.flatten()[None])  # all ones, so 32 everywhere
    assert bool((matrix == 32).all())
    monkeypatch.setattr(module, "shortest", lambda call, device, budget: float(call() is None) + 2)
    assert copy_bandwidth(CPU) == 2 * 1000 / 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.6, "1,230"),
        (96.04, "96.0"),
        (0.01234, "0.0123"),
        (0.226, "0.226"),
        (5, "5.00"),
        (0, "0"),
    ],
)
def test_three_digits_that_count(value: float, text: str) -> None:
    assert significant(value) == text


def test_a_table_is_aligned() -> None:
    lines = markdown_table([["a", "bb"], ["long", "1"]]).splitlines()
    assert lines == ["| a    |  bb |", "| ---- | --: |", "| long |   1 |"]
