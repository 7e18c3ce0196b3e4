"""Scaling of a step: what is varied, the exponents, and words that follow the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.cli import main
from bench.errors import ConfigError
from bench.progress import Reporter
from bench.registry import get_method
from bench.speed import pages
from bench.speed import scaling as module
from bench.speed.layers import layers_of
from bench.speed.made import made_step
from bench.speed.scaling import Axis, Curve, Made, Point, Scaling, axes, measure_scaling
from bench.speed.scaling_figure import scaling_figure, write_scaling
from bench.speed.scaling_page import scaling_page, verdict
from docs.generate import SPEED, generated

CPU = torch.device("cpu")
EMPTY = 0.001


def curve(seconds: Sequence[float], empty: float = EMPTY, flops: int = 1000) -> Curve:
    """Each point with twice the FLOP of the one before."""
    points = (
        Point(value=2**i, flops=flops * 2**i, seconds=s, empty_seconds=empty)
        for i, s in enumerate(seconds)
    )
    return Curve(name="batch size (images)", fixed="cnn", points=tuple(points))


def scaling(*curves: Curve) -> Scaling:
    machine = {"device": "cpu", "processor": "Made CPU", "threads": 2}
    return Scaling(machine=machine, method="Madry AT", precision="fp32", curves=curves)


def test_exponents_are_of_the_time_against_the_work() -> None:
    assert curve([1, 2, 4]).exponents() == pytest.approx([1, 1])
    assert curve([1, 1, 4]).exponents() == pytest.approx([0, 2])


def test_words_follow_the_figures() -> None:
    assert verdict(curve([1, 2, 4])).startswith("Linear throughout")
    calls = verdict(curve([1, 1.2, 2.4], empty=0.5))
    assert calls.splitlines() == [
        "- 1 to 2: less than linear (0.26). The calls alone are 50% of the time at 1.",
        "- Elsewhere it is linear: between 0.9 and 1.1.",
    ]
    faster = verdict(curve([1, 1.2], flops=10**9))
    assert "gets faster with size, from 1.00 to 1.67 GFLOP/s" in faster
    slower = verdict(curve([1, 4], flops=10**9))
    assert "more than linear (2.00)" in slower
    assert "gets slower with size, from 1.00 to 0.500 GFLOP/s" in slower
    assert "Elsewhere" not in slower


def test_the_page_has_a_row_for_each_point() -> None:
    page = scaling_page(scaling(curve([1, 2, 4], flops=10**9)), "bench speed --scaling x", "s.png")
    assert "on Made CPU, 2 threads" in page
    assert "`bench speed --scaling x`" in page
    assert "![seconds of a step against what varies](s.png)" in page
    rows = [[c.strip() for c in r.split("|")[1:-1]] for r in page.splitlines() if r[:1] == "|"]
    assert rows[2] == ["1", "1.00", "1.00", "", "0%", "1.00"]
    assert rows[4] == ["4", "4.00", "4.00", "1.00", "0%", "1.00"]


def test_the_files_of_a_record(tmp_path: Path) -> None:
    made = scaling(*(curve([1, 2, 4]) for _ in range(5)))
    record = write_scaling(made, tmp_path, "bench speed --scaling x")
    assert Scaling.from_json(record.read_text()) == made
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".png", ".svg"}


def test_the_page_is_made_of_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.generate.methods_page", lambda: "")
    page = tmp_path / "docs" / "scaling.md"
    assert page not in generated(tmp_path)
    made = scaling(curve([1, 2, 4]))
    write_scaling(made, tmp_path / SPEED, "bench speed --scaling x")
    text = generated(tmp_path)[page]
    assert text == scaling_page(
        made, "bench speed --scaling results/speed", "../results/speed/scaling.png"
    )


def test_the_options_of_bench_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scaling(curve([1, 2, 4]))
    monkeypatch.setattr(pages, "measure_scaling", lambda *_, **__: made)
    found = CliRunner().invoke(main, ["speed", "--scaling", str(tmp_path), "--device", "cpu"])
    assert found.exit_code == 0, found.output
    assert f"The measurements are in {tmp_path / 'scaling.json'}" in found.output
    found = CliRunner().invoke(main, ["speed", "--scaling", "x", "--precision", "fp8"])
    assert found.exit_code == 2
    assert found.output.startswith("error: unknown precision 'fp8'")
    archs: list[Sequence[str]] = []

    def measured(names: Sequence[str], *_: object, **sizes: object) -> None:
        archs.append(names)
        assert sizes == {"batch": 2, "image_size": 16}
        raise ConfigError("enough")

    monkeypatch.setattr(pages, "measure_roofline", measured)
    options = ["--roofline", str(tmp_path), "--batch-size", "2", "--image-size", "16"]
    found = CliRunner().invoke(main, ["speed", "--arch", "cnn", *options])
    assert found.exit_code == 2
    assert archs == [("cnn",)]


@pytest.mark.parametrize("n_curves", [1, 3, 5])
def test_a_panel_for_each_curve_and_a_place_for_the_legend(n_curves: int) -> None:
    figure = scaling_figure(scaling(*(curve([1, 2, 4]) for _ in range(n_curves))))
    drawn = [panel for panel in figure.axes if panel.lines]
    assert len(drawn) == n_curves
    assert {panel.get_xlabel() for panel in drawn} == {"batch size (images)"}
    assert drawn[0].get_ylabel() == "seconds of a step"
    (legend,) = (panel.get_legend() for panel in figure.axes if panel.get_legend())
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["linear in FLOP", "measured", "calls alone"]


def test_points_take_turns_and_the_first_round_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[tuple[int, int]] = []

    def step(made: Made, device: torch.device, precision: str) -> Callable[[], tuple[int, int]]:
        return lambda: (made.n_images, made.image_size)

    def timed(call: Callable[[], tuple[int, int]], n: int, device: torch.device) -> float:
        order.append(call())
        warm = len(order) <= 4
        return 100.0 if warm else EMPTY if call()[1] == 1 else float(call()[0])

    monkeypatch.setattr(module, "_step", step)
    monkeypatch.setattr(module, "seconds_of", timed)
    base = Made(image_size=8)
    made = (replace(base, n_images=3), replace(base, n_images=6))
    axis = Axis(name="batch size (images)", values=(3, 6), made=made)
    with Reporter(quiet=True) as reporter:
        (found,) = measure_scaling(CPU, reporter, chosen=[axis], n_rounds=2).curves
    assert order == [(3, 8), (6, 8), (2, 1), (2, 1)] * 3
    assert [(p.seconds, p.empty_seconds) for p in found.points] == [(3.0, EMPTY), (6.0, EMPTY)]
    assert found.points[1].flops == 2 * found.points[0].flops
    assert found.fixed == "cnn, images of 8x8 pixels, 10 attack steps"
    # 22 passes, and the gradient of the weights beside that of the input
    once = sum(layer.flops for layer in layers_of(module._network("cnn"), torch.rand(3, 3, 8, 8)))
    assert found.points[0].flops == 23 * once


def test_every_point_of_every_axis_can_be_made() -> None:
    found = axes()
    assert [len(axis.values) for axis in found] == [len(axis.made) for axis in found]
    assert len({axis.name for axis in found}) == 5
    for axis in found:
        work = [module._flops(made) for made in axis.made]
        assert work == sorted(set(work)), axis.name
        assert len({made.arch for made in axis.made}) in (1, len(axis.values))
    deep, wide = ([module._flops(made) for made in axis.made] for axis in found[3:])
    assert deep[3] - deep[2] == deep[2] - deep[1]  # twelve layers more each time
    assert wide[3] / wide[2] == pytest.approx(4, rel=0.1)


def test_a_made_step_trains() -> None:
    network = module._network("cnn")
    before = [p.detach().clone() for p in network.parameters()]
    step = made_step(network, get_method("madry", steps=1), 4, 8, CPU)
    first, second = step(), step()
    assert first > 0
    assert first != second
    assert all(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_step_on_next_to_nothing_works_for_every_network() -> None:
    for arch in ("cnn", "wrn-10-1"):
        assert made_step(module._network(arch), get_method("madry", steps=1), 2, 1, CPU)() > 0
