"""Where the time of a step goes: which operation is of which kind, the record, table and figure."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from bench.cli import main
from bench.errors import BenchError
from bench.progress import Reporter
from bench.speed import pages, profiling, reference
from bench.speed.profile_figure import (
    profile_figure,
    profile_section,
    profile_tables,
    write_profiles,
)
from bench.speed.profiling import (
    OURS,
    Kind,
    Profile,
    Profiles,
    by_kind,
    measure_profiles,
    profiled,
)
from bench.speed.rounds import timed
from bench.speed.setting import settings
from bench.speed.steps import PLAIN_LOOP
from docs.generate import SPEED, generated

CPU = torch.device("cpu")


def profiles(*steps: Profile) -> Profiles:
    machine = {"device": "cpu", "processor": "Made CPU", "threads": 2}
    return Profiles(machine=machine, command="bench speed --profile x", steps=steps)


def made_parts(**seconds: float) -> dict[str, float]:
    given = {str(Kind[kind.upper()]): s for kind, s in seconds.items()}
    return {str(kind): given.get(kind, 0.0) for kind in Kind}


def step(**changed: Any) -> Profile:
    given: dict[str, Any] = {
        "method": "madry",
        "arch": "cnn",
        "side": OURS,
        "precision": "fp32",
        "n_images": 8,
        "image_size": 32,
        "n_rounds": 3,
        "seconds": 0.9,
        "parts": made_parts(forward=0.25, backward=0.5, between=0.25),
    }
    return Profile(**(given | changed))


def kinds_of(work: Callable[[], object]) -> set[str]:
    """Those that take any time, beside the Python between them."""
    return {kind for kind, seconds in profiled(work, CPU).items() if seconds > 0} - {Kind.BETWEEN}


def test_each_operation_is_of_its_kind() -> None:
    x = torch.rand(4, 3, 8, 8, requires_grad=True)
    weight = torch.rand(5, 3, 3, 3)
    assert kinds_of(lambda: F.conv2d(x.detach(), weight)) == {Kind.FORWARD, Kind.OTHER}  # detach
    out = F.conv2d(x, weight).sum()
    found = kinds_of(lambda: torch.autograd.grad(out, x, retain_graph=True))
    assert Kind.BACKWARD in found
    assert Kind.FORWARD not in found
    norm = nn.BatchNorm2d(3)
    assert Kind.NORMALISATION in kinds_of(lambda: torch.autograd.grad(norm(x).sum(), x))
    assert kinds_of(lambda: torch.relu(weight)) == {Kind.RELU}
    assert Kind.RELU in kinds_of(lambda: torch.autograd.grad(torch.relu(x).sum(), x))
    assert Kind.POOLING in kinds_of(lambda: torch.autograd.grad(F.max_pool2d(x, 2).sum(), x))
    linear = nn.Linear(8, 2)
    assert Kind.LINEAR in kinds_of(lambda: linear(x))
    assert kinds_of(weight.bfloat16) == {Kind.COPIES}
    assert Kind.OTHER in kinds_of(lambda: weight + weight)
    sgd = torch.optim.SGD(linear.parameters(), lr=0.1)
    assert kinds_of(sgd.step) == {Kind.OPTIMISER}


def test_the_kinds_are_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which Python is a part; what an operation calls is not counted as its own time too."""
    noted: list[float] = []

    def noting(*args: Any) -> float:
        noted.append(timed(*args))
        return noted[-1]

    monkeypatch.setattr(profiling, "timed", noting)
    norm, x = nn.BatchNorm2d(64), torch.rand(16, 64, 32, 32)

    def work() -> None:
        time.sleep(0.2)
        for _ in range(5):
            norm(x)  # by way of four operations, each of which calls the next

    parts = profiled(work, CPU)
    assert set(parts) == set(Kind)
    assert sum(parts.values()) == pytest.approx(noted[0])
    assert parts[Kind.BETWEEN] >= 0.2
    assert 0 < parts[Kind.NORMALISATION] <= noted[0] - 0.2


def test_the_profilers_library_is_not_heard_and_standard_error_is_as_before(
    capfd: pytest.CaptureFixture[str],
) -> None:
    profiled(lambda: torch.ones(3), CPU)
    assert capfd.readouterr().err == ""
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_closed_standard_error_is_no_obstacle(capfd: pytest.CaptureFixture[str]) -> None:
    kept = os.dup(2)
    os.close(2)
    try:
        parts = profiled(lambda: torch.ones(3), CPU)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert parts[Kind.OTHER] > 0


def event(name: str, cpu: float, kernels: float, place: str = "CPU") -> Any:
    """As the profiler gives it, in microseconds."""
    return SimpleNamespace(
        name=name,
        cpu_parent=None,
        device_type=SimpleNamespace(name=place),
        self_cpu_time_total=cpu,
        self_device_time_total=kernels,
    )


LAUNCHED = (
    event("aten::convolution", 10, 2000),
    event("sm90_xmma_fprop", 0, 2000, "CUDA"),  # the same again, as the kernel's own
    event("aten::relu", 10, 500),
)


def test_on_cuda_the_time_is_the_kernels() -> None:
    assert by_kind(LAUNCHED, on_cuda=True) == made_parts(forward=2e-3, relu=5e-4)
    assert by_kind(LAUNCHED, on_cuda=False) == made_parts(forward=1e-5, relu=1e-5)


def profiled_as(
    events: Sequence[Any], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    """What is made of these events of a step on CUDA."""

    class Made:
        def __init__(self, activities: object) -> None:
            pass

        def start(self) -> None:
            os.write(2, b"no rights to\ncounters")

        def stop(self) -> None:
            pass

        def events(self) -> Sequence[Any]:
            return events

    monkeypatch.setattr(profiling, "profile", Made)
    monkeypatch.setattr(profiling, "timed", lambda *_: seconds)
    return profiled(lambda: None, torch.device("cuda"))


def test_on_cuda_the_rest_is_between(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = profiled_as(LAUNCHED, 4e-3, monkeypatch)
    assert parts == pytest.approx(made_parts(forward=2e-3, relu=5e-4, between=1.5e-3))


def test_a_profile_without_kernels_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match=r"no kernel of cuda: .* said: no rights to counters"):
        profiled_as([event("aten::relu", 10, 0)], 4e-3, monkeypatch)


def test_a_profile_of_more_than_the_step_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert profiled_as(LAUNCHED, 2.45e-3, monkeypatch)[Kind.BETWEEN] == 0  # within 5%
    with pytest.raises(BenchError, match="some of them twice"):
        profiled_as(LAUNCHED, 2.3e-3, monkeypatch)


def test_ours_and_the_plain_loop_take_turns() -> None:
    chosen = settings(
        *(("cnn",), ("fp32", "bf16"), CPU), rounds=2, image_size=8, batch_size=4, memory=False
    )
    with Reporter(quiet=True) as reporter:
        found = measure_profiles(("madry", "adv-ls"), chosen, reporter, "bench speed")
    # adv-ls has no plain loop
    assert [(s.method, s.side, s.precision) for s in found.steps] == [
        *(("madry", PLAIN_LOOP, "fp32"), ("madry", OURS, "fp32"), ("madry", OURS, "bf16")),
        *(("adv-ls", OURS, "fp32"), ("adv-ls", OURS, "bf16")),
    ]
    for one in found.steps:
        assert (one.arch, one.n_images, one.image_size, one.n_rounds) == ("cnn", 4, 8, 2)
        assert one.parts[Kind.FORWARD] > 0
        assert one.parts[Kind.BACKWARD] > 0
        assert one.parts[Kind.OPTIMISER] > 0
        assert one.seconds > 0
        assert sum(one.share(kind) for kind in Kind) == pytest.approx(1)
    plain, ours, _, _, _ = found.steps
    # of our eleven passes one alone is not through a copy whose BatchNorm is folded
    assert plain.parts[Kind.NORMALISATION] > ours.parts[Kind.NORMALISATION]
    assert [one.note for one in found.steps] == [None] * 3 + [reference.NO_LOOP] * 2
    assert Profiles.from_json(found.to_json()) == found


def test_the_parts_are_of_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of that with the median step: medians of each part by itself would be of none."""
    rounds = [
        made_parts(forward=3.0, relu=1.0),
        made_parts(forward=1.0, relu=2.0),
        made_parts(forward=2.0, relu=9.0),
    ]
    found = iter(rounds)
    monkeypatch.setattr(profiling, "profiled", lambda *_: next(found))
    chosen = settings(
        *(("cnn",), ("fp32",), CPU), rounds=3, image_size=8, batch_size=4, memory=False
    )
    with Reporter(quiet=True) as reporter:
        (one,) = measure_profiles(("adv-ls",), chosen, reporter, "bench speed").steps
    assert one.parts == rounds[0]


def test_without_the_plain_loops_it_is_said_why_ours_stand_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "FILE", tmp_path / "none.py")
    chosen = settings(
        *(("cnn",), ("fp32",), CPU), rounds=1, image_size=8, batch_size=4, memory=False
    )
    with Reporter(quiet=True) as reporter:
        found = measure_profiles(("madry",), chosen, reporter, "bench speed")
    assert [s.side for s in found.steps] == [OURS]
    assert profile_tables(found).endswith(f"\n\nAlone: {reference.NO_CHECKOUT}.")


def test_the_table_has_each_side_beside_the_other() -> None:
    plain = step(side=PLAIN_LOOP, parts=dict.fromkeys(Kind, 1.0))
    text = profile_tables(profiles(plain, step(), step(arch="vgg-16")))
    assert text.count("madry, cnn, 8 images of 32x32 pixels:") == 1
    assert text.count("madry, vgg-16, 8 images of 32x32 pixels:") == 1
    rows = [[c.strip() for c in r.split("|")[1:-1]] for r in text.splitlines() if r[:1] == "|"]
    assert rows[0] == ["", "plain loop", "ours, fp32"]
    assert rows[2] == ["convolutions, forward", "1.00 (10%)", "0.250 (25%)"]
    assert len(rows) == 2 + len(Kind) + 3 + 2 + 3 + 3  # of vgg-16 three kinds take any time
    assert rows[2 + len(Kind)] == ["together", "10.0", "1.00"]
    assert rows[3 + len(Kind)] == ["without the profiler", "0.900", "0.900"]


def test_the_figure_has_a_panel_for_each_network_and_a_bar_for_each_side() -> None:
    made = profiles(step(side=PLAIN_LOOP), step(), step(arch="vgg-16"))
    figure = profile_figure(made)
    cnn, vgg = figure.axes
    assert [label.get_text() for label in cnn.get_yticklabels()] == ["plain loop", "ours, fp32"]
    assert len(cnn.containers) == len(Kind)
    assert vgg.get_xlabel() == "seconds of a step, under the profiler"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(Kind)
    figure.draw_without_rendering()
    total = cnn.texts[0]
    assert total.get_text() == "1.00"
    bars = max(bar.get_window_extent().x1 for bars in cnn.containers for bar in bars)
    assert bars < total.get_window_extent().x0
    assert total.get_window_extent().x1 < figure.bbox.x1


def test_the_section_is_made_of_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.generate.methods_page", lambda: "")
    made = profiles(step())
    record = write_profiles(made, tmp_path / SPEED)
    assert Profiles.from_json(record.read_text()) == made
    assert {p.suffix for p in record.parent.iterdir()} == {".json", ".png", ".svg"}
    page = tmp_path / "docs" / "speed.md"
    assert page not in generated(tmp_path)  # without rows there is no page
    rows = Path(__file__).parents[2] / SPEED / "steps-cnn.json"
    (tmp_path / SPEED / "steps.json").write_text(json.dumps(json.loads(rows.read_text())[:1]))
    text = generated(tmp_path)[page]
    section = profile_section(made, "../results/speed/profile.png")
    assert f"## Where the time goes\n\n{section}\n\n## Memory" in text


def test_the_option_of_bench_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def measured(methods: Any, settings: Any, *_: object) -> Profiles:
        asked.append((*methods, *(f"{s.arch} {s.precision}" for s in settings)))
        return profiles(step())

    monkeypatch.setattr(pages, "measure_profiles", measured)
    folder = str(tmp_path / "made")
    small = ("--arch", "cnn", "--precision", "fp32,bf16", "--device", "cpu")
    found = CliRunner().invoke(main, ["speed", "--profile", folder, *small])
    assert found.exit_code == 0, found.output
    assert asked == [("madry", "cnn fp32", "cnn bf16")]
    assert "| convolutions, forward" in found.output
    assert f"The profile is in {tmp_path / 'made' / 'profile.json'}" in found.output
    asked_again = ["speed", "--profile", folder, "--only", "step-mart", *small, "--quiet"]
    found = CliRunner().invoke(main, asked_again)
    assert (found.exit_code, found.output) == (0, "")
    assert asked[1] == ("mart", "cnn fp32", "cnn bf16")


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("pgd-20", "'pgd-20' is no step, and a profile is of steps: step-madry"),
        ("step-tradse", "unknown method 'tradse'. Did you mean 'trades'"),
    ],
)
def test_a_mistake_is_one_line(only: str, message: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["speed", "--profile", str(tmp_path), "--only", only])
    assert found.exit_code == 2
    assert message in found.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--profile", "--roofline", "--scaling", "--out"])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(
    option: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "x"
    found = CliRunner().invoke(main, ["speed", "--arch", "resnet-50", option, str(place)])
    assert found.exit_code != 0
    assert f"cannot write {place}" in found.output


@pytest.mark.parametrize("page", ["--profile", "--roofline", "--scaling"])
@pytest.mark.parametrize("option", [("--compile",), ("--out", "rows.json")])
def test_an_option_of_rows_goes_with_no_page(
    option: tuple[str, ...], page: str, tmp_path: Path
) -> None:
    found = CliRunner().invoke(main, ["speed", page, str(tmp_path), *option])
    assert found.exit_code == 2
    assert f"{option[0]} goes with none of --profile, --roofline and --scaling" in found.output
    assert list(tmp_path.iterdir()) == []


def test_a_share_is_of_the_profiled_step() -> None:
    one = step()
    assert one.profiled == 1
    assert one.share(Kind.BACKWARD) == 0.5
    assert replace(one, seconds=7.0).share(Kind.BACKWARD) == 0.5
