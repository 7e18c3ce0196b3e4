"""Where the time of a step goes: which operation is of which kind, the record, table and figure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from bench.cli import main
from bench.progress import Reporter
from bench.speed import pages
from bench.speed.profile_figure import (
    profile_figure,
    profile_section,
    profile_tables,
    write_profiles,
)
from bench.speed.profiling import (
    BACKWARD,
    BETWEEN,
    COPIES,
    FORWARD,
    KINDS,
    LINEAR,
    NORMALISATION,
    OPTIMISER,
    OTHER,
    OURS,
    POOLING,
    RELU,
    Profile,
    Profiles,
    measure_profiles,
    profiled,
)
from bench.speed.setting import settings
from bench.speed.steps import PLAIN_LOOP
from docs.generate import SPEED, generated

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def profiles(*steps: Profile) -> Profiles:
    machine = {"device": "cpu", "processor": "Made CPU", "threads": 2}
    return Profiles(machine=machine, command="bench speed --profile x", steps=steps)


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
        "parts": dict.fromkeys(KINDS, 0.0) | {FORWARD: 0.25, BACKWARD: 0.5, BETWEEN: 0.25},
    }
    return Profile(**(given | changed))


def kinds_of(work: Any) -> set[str]:
    """Those that take any time, beside the Python between them."""
    return {kind for kind, seconds in profiled(work, CPU).items() if seconds > 0} - {BETWEEN}


def test_each_operation_is_of_its_kind() -> None:
    x = torch.rand(4, 3, 8, 8, requires_grad=True)
    weight = torch.rand(5, 3, 3, 3)
    assert kinds_of(lambda: F.conv2d(x.detach(), weight)) == {FORWARD, OTHER}  # detach
    out = F.conv2d(x, weight).sum()
    found = kinds_of(lambda: torch.autograd.grad(out, x, retain_graph=True))
    assert BACKWARD in found
    assert FORWARD not in found
    norm = nn.BatchNorm2d(3)
    assert NORMALISATION in kinds_of(lambda: torch.autograd.grad(norm(x).sum(), x))
    assert kinds_of(lambda: torch.relu(weight)) == {RELU}
    assert RELU in kinds_of(lambda: torch.autograd.grad(torch.relu(x).sum(), x))
    assert POOLING in kinds_of(lambda: torch.autograd.grad(F.max_pool2d(x, 2).sum(), x))
    linear = nn.Linear(8, 2)
    assert LINEAR in kinds_of(lambda: linear(x))
    assert kinds_of(weight.bfloat16) == {COPIES}
    assert OTHER in kinds_of(lambda: weight + weight)
    sgd = torch.optim.SGD(linear.parameters(), lr=0.1)
    assert kinds_of(sgd.step) == {OPTIMISER}


def test_the_kinds_are_the_whole_step(capfd: pytest.CaptureFixture[str]) -> None:
    x = torch.rand(64, 64)
    parts = profiled(lambda: [x @ x for _ in range(20)], CPU)
    assert set(parts) == set(KINDS)
    assert parts[LINEAR] > 0
    assert sum(parts.values()) >= parts[LINEAR] + parts[BETWEEN]
    assert capfd.readouterr().err == ""  # the profiler's library is loud


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
        assert one.parts[FORWARD] > 0
        assert one.parts[BACKWARD] > 0
        assert one.parts[OPTIMISER] > 0
        assert one.seconds > 0
        assert sum(one.share(kind) for kind in KINDS) == pytest.approx(1)
    plain, ours, _, _, _ = found.steps
    # of our eleven passes one alone is not through a copy whose BatchNorm is folded
    assert plain.parts[NORMALISATION] > ours.parts[NORMALISATION]
    assert Profiles.from_json(found.to_json()) == found


def test_the_table_has_each_side_beside_the_other() -> None:
    plain = step(side=PLAIN_LOOP, parts=dict.fromkeys(KINDS, 1.0))
    text = profile_tables(profiles(plain, step(), step(arch="vgg-16")))
    assert text.count("madry, cnn, 8 images of 32x32 pixels:") == 1
    assert text.count("madry, vgg-16, 8 images of 32x32 pixels:") == 1
    rows = [[c.strip() for c in r.split("|")[1:-1]] for r in text.splitlines() if r[:1] == "|"]
    assert rows[0] == ["", "plain loop", "ours, fp32"]
    assert rows[2] == ["convolutions, forward", "1.00 (10%)", "0.250 (25%)"]
    assert len(rows) == 2 + len(KINDS) + 3 + 2 + 3 + 3  # of vgg-16 three kinds take any time
    assert rows[2 + len(KINDS)] == ["together", "10.0", "1.00"]
    assert rows[3 + len(KINDS)] == ["without the profiler", "0.900", "0.900"]


def test_the_figure_has_a_panel_for_each_network_and_a_bar_for_each_side() -> None:
    made = profiles(step(side=PLAIN_LOOP), step(), step(arch="vgg-16"))
    figure = profile_figure(made)
    cnn, vgg = figure.axes
    assert [label.get_text() for label in cnn.get_yticklabels()] == ["plain loop", "ours, fp32"]
    assert len(cnn.containers) == len(KINDS)
    assert vgg.get_xlabel() == "seconds of a step, under the profiler"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(KINDS)
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
    assert asked[1][0] == "mart"


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


def test_a_compiled_step_has_no_profile(tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["speed", "--profile", str(tmp_path), "--compile"])
    assert found.exit_code == 2
    assert "--compile goes with none of --profile" in found.output


def test_a_share_is_of_the_profiled_step() -> None:
    one = step()
    assert one.profiled == 1
    assert one.share(BACKWARD) == 0.5
    assert replace(one, seconds=7.0).share(BACKWARD) == 0.5
