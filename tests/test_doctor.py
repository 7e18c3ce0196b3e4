"""`bench doctor`: its sections, what it finds missing, and estimates that follow the numbers."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from click.testing import CliRunner

from bench.archs import build
from bench.cli import main
from bench.doctor import floors as floors_module
from bench.doctor import software, speeds
from bench.doctor.floors import Floor, Floors
from bench.doctor.recorded import recorded_steps
from bench.doctor.software import missing
from bench.doctor.standin import stand_in
from bench.doctor.suite import at_a_record, at_the_floor, cells_of, needed
from bench.estimate import Speed
from bench.progress import Reporter
from bench.report.published import REFERENCE
from bench.speed.layers import Layer, layers_of
from bench.suite import Suite, load_suite
from bench.training.passes import Passes

CPU = torch.device("cpu")
GFLOP = 1e9


@pytest.fixture
def floors(monkeypatch: pytest.MonkeyPatch) -> Floors:
    """Of a machine that does one GFLOP a second, whatever the layer."""

    def fastest(layer: Layer, *_: object, **__: object) -> float:
        return layer.flops / GFLOP

    monkeypatch.setattr(floors_module, "fastest", fastest)
    return Floors(CPU, time.monotonic() + 600)


def doctor(*options: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, ["doctor", "--seconds", "0", *options])
    return found.exit_code, found.output


def small(suite: str = "digits", **training: Any) -> Suite:
    """One method and one attack of a suite of one study."""
    loaded = load_suite(suite)
    attacks = tuple(a for a in loaded.only().attacks if a.name == "pgd-20")
    study = replace(loaded.only(), methods=("madry",), attacks=attacks, checks=None)
    return replace(loaded, studies=(replace(study, training={**study.training, **training}),))


def test_its_sections(tmp_path: Path) -> None:
    code, text = doctor("--suite", "table3", "--size", "tiny", "--results", str(tmp_path))
    assert code == 0
    titles = [line for line in text.splitlines() if line and line[0] != " "]
    assert titles == [
        *("This machine", "Builds", "Missing"),
        *("Speed to expect on cpu", "Suite table3, size tiny"),
    ]
    assert f"no other machine is on record in {tmp_path / 'speed'}" in text
    assert "no time was left for cnn" in text
    assert torch.__version__ in text


def test_mistakes_are_one_line() -> None:
    for options in (
        ("--size", "tiny"),
        ("--suite", "nosuch"),
        ("--suite", "table3", "--size", "x"),
    ):
        code, text = doctor(*options)
        assert code == 2
        assert text.startswith("error: ")
        assert text.count("\n") == 1


def test_the_most_is_that_of_the_convolutions(floors: Floors) -> None:
    layers = layers_of(build("cnn"), torch.rand(1, 3, 32, 32))
    total, first = sum(layer.flops for layer in layers) / GFLOP, layers[0].flops / GFLOP
    floor = floors.of("cnn", 32, 3, "fp32")
    assert floor is not None
    assert (floor.forward, floor.gradient) == pytest.approx((total, total))
    assert floor.update == pytest.approx(2 * total - first)
    passes = Passes(forward=11, backward=11, first_layer=11)
    assert floor.step(passes) == pytest.approx(11 * total + 10 * total + 2 * total - first)


def test_nothing_is_measured_once_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> float:
        raise AssertionError

    monkeypatch.setattr(floors_module, "fastest", never)
    assert Floors(CPU, time.monotonic() - 1).of("cnn", 32, 3, "fp32") is None


def test_a_step_is_shown_beside_the_most(floors: Floors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_step", lambda arch, device: (4, 0.25 if arch == "cnn" else 0.001))
    monkeypatch.setattr(speeds, "has_fast_bf16", lambda device: False)
    with Reporter(quiet=True) as reporter:
        found = speeds.speeds(floors, reporter)
    by_arch = {speed.arch: speed for speed in found}
    assert set(by_arch) >= {"cnn", "resnet-18", "wrn-34-10", "vgg-16"}
    assert "linear" not in by_arch  # has no convolution
    most = by_arch["cnn"].at_most["fp32"]
    assert most is not None
    assert by_arch["cnn"].share == pytest.approx(0.25 / most)
    assert by_arch["vgg-16"].share is None
    assert by_arch["resnet-50"].image_size == 224
    largest = speeds.largest_share(found)
    assert largest is not None
    assert largest[0] == "resnet-18"
    text = speeds.table(found)
    assert f"0.25 ({0.25 / most:.0%}), batch 4" in text
    assert "11 forward and 11 backward passes" in text


def test_a_step_is_really_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "STEP_FLOPS", {"cpu": 7e8})
    n, rate = speeds._step("cnn", CPU)
    assert n == 2  # 33e7 FLOP an image: 2 fit, 4 do not
    assert rate > 0


def test_an_estimate_is_linear_in_epochs_and_images(floors: Floors) -> None:
    once = needed(cells_of(small(epochs=1)), at_the_floor(floors))
    thrice = needed(cells_of(small(epochs=3)), at_the_floor(floors))
    assert once.unknown == ()
    assert once.training > 0
    assert thrice.training == pytest.approx(3 * once.training)
    assert thrice.attacks == pytest.approx(once.attacks)
    assert thrice.total == pytest.approx(thrice.training + thrice.attacks)


def test_an_estimate_counts_passes_over_images(floors: Floors) -> None:
    (cell,) = cells_of(small(epochs=2))
    speed = at_the_floor(floors)(cell)
    floor = floors.of(cell.spec.arch, cell.spec.image_size, cell.spec.in_channels, "fp32")
    assert speed is not None
    assert floor is not None
    step = 11 * floor.forward + 10 * floor.gradient + floor.update
    assert speed.train_step == pytest.approx(step)
    assert speed == Speed(speed.train_step, floor.forward + floor.gradient, floor.forward)
    assert needed([cell], lambda _: speed).training == pytest.approx(speed.training(cell))


def test_networks_without_a_figure_are_named(floors: Floors) -> None:
    found = needed(cells_of(small()), lambda _: None)
    assert found.unknown == ("cnn",)
    assert found.total == 0
    assert "without cnn" in str(found)


def test_cifar10_is_estimated_without_it(tmp_path: Path) -> None:
    cells = cells_of(small("table3"), str(tmp_path / "nothing"))
    spec = cells[-1].spec
    assert (spec.n_train, spec.n_val, spec.image_size) == (49_000, 1_000, 32)
    assert {e.n_examples for c in cells for e in c.evaluations} == {10_000}
    fewer = stand_in("cifar10", None, 100, 50)
    assert (len(fewer.train), len(fewer.val), len(fewer.test)) == (90, 10, 50)
    assert stand_in("restricted-imagenet@64", None, 90, 90).image_size == 64


def test_every_suite_can_be_estimated() -> None:
    assert cells_of(load_suite("figure1"))
    assert cells_of(load_suite("restricted-imagenet"))


def test_an_estimate_is_of_the_precision_that_is_asked_for(floors: Floors) -> None:
    (cell,) = cells_of(small(), precision="bf16")
    assert cell.spec.precision == "bf16"
    floors._found[cell.spec.arch, 8, 1, "bf16"] = Floor(forward=0.0, gradient=0.0, update=7.0)
    speed = at_the_floor(floors)(cell)
    assert speed is not None
    assert speed.train_step == 7.0
    assert speed.gradient > 0  # attacks are made in fp32


def record(path: Path, **changes: Any) -> None:
    row: dict[str, Any] = {
        "what": f"step-{REFERENCE}",
        "arch": "cnn",
        "precision": "fp32",
        "image_size": 8,
        "ours_images_per_second": 1000.0,
        "passes": {"forward": 11.0, "backward": 11.0, "first_layer": 11.0},
        "machine": {"device": "Fast GPU", "processor": "P", "threads": 2},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row | changes, row | {"what": "pgd-20", "passes": None}]))


def test_another_machine_is_quoted_from_its_record(tmp_path: Path) -> None:
    record(tmp_path / "speed" / "gpu.json")
    (tmp_path / "speed" / "roofline.json").write_text("{}")  # another kind of record
    steps = recorded_steps(tmp_path, REFERENCE)
    assert [step.device for step in steps] == ["Fast GPU"]
    (cell,) = cells_of(small(epochs=2))
    speed = at_a_record(steps, "Fast GPU")(cell)
    assert speed is not None
    assert speed.train_step == pytest.approx(1 / 1000)  # its own passes: 22 of 22
    assert speed.gradient == pytest.approx(2 * speed.forward) == pytest.approx(2 / 22_000)
    assert at_a_record(steps, "Another")(cell) is None
    other = replace(cell, spec=replace(cell.spec, arch="resnet-18"))
    assert at_a_record(steps, "Fast GPU")(other) is None
    code, text = doctor("--suite", "digits", "--results", str(tmp_path))
    assert code == 0
    assert "on record, Fast GPU" in text
    assert "no other machine is on record" not in text


def test_missing_extras_are_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["torch>=2.6", 'nosuchpackage>=1; extra == "more"', "pytest>=8; extra == 'test'"]
    monkeypatch.setattr(software, "requires", lambda name: lines)
    found = dict(missing(tmp_path))
    assert found["extra 'more': nosuchpackage"] == "run: pip install 'atbench[more]'"
    assert not any("'test'" in what for what in found)


def test_cifar10_on_disk_is_not_missing(tmp_path: Path) -> None:
    assert any("CIFAR-10" in what for what, _ in missing(tmp_path))
    (tmp_path / software.FOLDER).mkdir()
    assert not any("CIFAR-10" in what for what, _ in missing(tmp_path))


def test_builds_that_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(software.software())["torchvision"].endswith("matches torch")
    monkeypatch.setattr(torchvision, "__version__", "0.1.0+cpux")
    found = dict(missing(tmp_path))
    (what,) = (w for w in found if "torchvision" in w)
    assert "for cpux" in what
    assert found[what] == f"run: {software.TOGETHER}"


@pytest.mark.parametrize(
    ("cuda", "driver", "says"),
    [
        (None, False, ""),
        (None, True, "torch is a CPU build"),
        ("13.0", False, "there is no GPU"),
        ("13.0", True, "cannot use the GPU"),
    ],
)
def test_a_build_for_a_gpu_and_the_gpu(
    cuda: str | None, driver: bool, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(software, "NVIDIA", tmp_path if driver else tmp_path / "absent")
    found = [what for what, _ in missing(tmp_path) if "torch is a" in what]
    assert len(found) == bool(says)
    assert says in "".join(found)
