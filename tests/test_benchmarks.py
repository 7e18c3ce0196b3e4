"""The benchmarks in their smallest sizes, and their pages; never how fast anything is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click import Command
from click.testing import CliRunner, Result
from torch import Tensor, nn

from bench.attacks import AutoAttack, get_attack
from bench.cli import main as bench
from benchmarks import attacks, layers, pages, profile, scaling, steps, turns, workloads

CPU = torch.device("cpu")
SMALL = ("--arch", "cnn", "--image-size", "8", "--rounds", "1", "--device", "cpu")
PAGE_KEYS = {
    *("what", "arch", "precision", "n_images", "n_rounds", "note", "machine", "command"),
    *("ours_images_per_second", "reference", "reference_images_per_second", "ratio", "ratios"),
    *("share_of_peak", "robust_share", "n_apart"),
}


def run(command: Command, *arguments: str) -> Result:
    done = CliRunner().invoke(command, [*arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_bench_speed_says_where_it_went() -> None:
    done = CliRunner().invoke(bench, ["speed", "--only", "step-madry"])
    assert done.exit_code == 2
    assert "'bench speed' is now python -m benchmarks.steps" in done.stderr


def test_sides_take_turns_and_the_first_alternates() -> None:
    calls: list[str] = []
    sides = [lambda: calls.append("a"), lambda: calls.append("b")]
    found = turns.in_turns(sides, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [len(side) for side in found] == [3, 3]
    assert len(turns.in_turns(sides[:1], 2, warm_up=False)[0]) == 2


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    row = turns.compared("x", [1.0, 2.0, 1.0], [3.0, 4.0, 1.0], 10)
    assert row["ratios"] == [3.0, 2.0, 1.0]
    assert (row["ratio"], row["ours_images_per_second"]) == (2.0, 10.0)
    single = turns.compared("x", [1.0], [], 10)
    assert single["ratio"] is None
    assert single["ratios"] == []


@pytest.mark.slow
def test_steps_are_written_as_rows_that_the_page_shows(tmp_path: Path) -> None:
    out = tmp_path / "steps.json"
    options = ("--methods", "natural,ikl", "--precision", "fp32", "--batch-size", "8", "--no-peak")
    done = run(steps.main, *SMALL, *options, "--out", str(out))
    rows = json.loads(out.read_text())
    assert all(set(row) >= PAGE_KEYS for row in rows)
    assert [row["what"] for row in rows] == ["step-natural", "step-ikl"]
    assert [row["reference"] for row in rows] == ["plain loop", None]
    assert rows[0]["ratio"] > 0
    assert rows[0]["passes"] == {"forward": 1, "backward": 1, "first_layer": 1}
    assert "| step-natural" in done.output
    assert "no plain loop is written for it" in done.output


def test_the_layers_of_a_step_are_counted_and_timed_alone() -> None:
    conv = nn.Conv2d(2, 4, 3, padding=1)
    linear = nn.Linear(4, 3)

    def step() -> None:
        x = torch.ones(5, 2, 6, 6)
        loss = linear(conv(x).mean((2, 3))).sum() + linear(conv(x).mean((2, 3))).sum()
        torch.autograd.backward(loss)

    calls = {layers.NAMES[call[0]]: (call, n) for call, n in layers.calls_of(step).items()}
    assert calls["convolution"][1] == calls["convolution, backward"][1] == 2
    forward = calls["convolution"][0]
    assert layers.flops_of(forward) == 2 * 5 * 4 * 36 * 2 * 9
    assert layers.least_seconds(forward, CPU, budget=0.001) > 0


@pytest.mark.slow
def test_the_roofline_is_drawn(tmp_path: Path) -> None:
    out = tmp_path / "roofline.png"
    options = ("--methods", "natural", "--precision", "fp32", "--batch-size", "2")
    done = run(layers.main, *SMALL, *options, "--figure", str(out))
    assert "convolution, backward" in done.output
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_peak_memory_grows_with_the_batch() -> None:
    options = ("--methods", "madry", "--arch", "cnn", "--precision", "fp32", "--side", "ours")
    command = [sys.executable, "-m", "benchmarks.memory", *options, "--batch-size"]
    small, large = (int(subprocess.check_output([*command, n])) for n in ("2", "64"))
    assert 0 <= small < large


@pytest.mark.slow
def test_autoattack_finds_the_same_images_as_its_package() -> None:
    model = workloads.partly_robust("cnn", 12, 8, CPU).first(6)
    ours = attacks.our_autoattack(model, "autoattack", 0.02)
    row = attacks.attack_row("autoattack", model, ours, attacks.package_autoattack(model, 0.02), 1)
    assert row["n_apart"] == 0
    assert row["robust_share"] == row["reference_robust_share"]


def test_a_shortened_autoattack_has_fewer_iterations() -> None:
    class Part:
        n_iter, n_queries = 100, 5000

    part = attacks.shorten(Part(), 0.1)
    assert (part.n_iter, part.n_queries) == (10, 500)
    assert isinstance(get_attack("autoattack"), AutoAttack)


@pytest.mark.slow
def test_pgd_is_measured_next_to_each_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> attacks.Side:
        raise ImportError("no such package")

    def same(model: workloads.AttackedModel, pgd: object) -> attacks.Side:
        return attacks.evaluated(model, "pgd-20")

    peers = {"gone": ("gone", absent), "numpy": ("numpy", same)}
    monkeypatch.setattr(attacks, "PEERS", peers)
    out = tmp_path / "pgd.json"
    options = ("--only", "pgd-20", "--images", "24", "--autoattack-images", "4", "--out", str(out))
    done = run(attacks.main, *SMALL, *options)
    assert "gone is left out: no such package" in done.stderr
    (row,) = json.loads(out.read_text())
    assert row["reference"].startswith("numpy ")
    assert row["n_apart"] == 0
    assert set(row) >= PAGE_KEYS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", attacks.PEERS)
def test_a_peers_pgd_attacks(name: str) -> None:
    model = workloads.partly_robust("cnn", 24, 8, CPU)
    pgd: Any = get_attack("pgd-20")
    try:
        side = attacks.PEERS[name][1](model, pgd)
    except ImportError as error:
        pytest.skip(str(error))
    before = model.survivors(model.x)
    assert int(side().sum()) < int(before.sum())


def kinds_of(work: turns.Work) -> set[str]:
    return {kind for kind, value in profile.profiled(work, CPU).items() if value > 0}


def test_operations_have_kinds() -> None:
    conv, x = nn.Conv2d(3, 8, 3), torch.rand(4, 3, 8, 8, requires_grad=True)

    def backward(y: Tensor) -> turns.Work:
        return lambda: torch.autograd.grad(y.sum(), x)

    assert "convolutions, forward" in kinds_of(lambda: conv(x))
    assert "convolutions, backward" in kinds_of(backward(conv(x)))
    assert "BatchNorm" in kinds_of(lambda: nn.BatchNorm2d(3)(x))
    assert "ReLU" in kinds_of(backward(torch.relu(x)))
    assert "pooling" in kinds_of(lambda: nn.functional.max_pool2d(x, 2))
    assert "linear layers" in kinds_of(lambda: nn.Linear(8, 2)(x))
    assert "optimiser" in kinds_of(torch.optim.SGD(conv.parameters(), lr=0.1).step)


def test_a_profile_is_written_drawn_and_tabled(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    options = (
        "--methods",
        "natural",
        "--precision",
        "fp32",
        "--batch-size",
        "4",
        "--out",
        str(out),
    )
    done = run(profile.main, *SMALL, *options)
    record = json.loads(out.read_text())
    assert [step["side"] for step in record["steps"]] == ["plain loop", "ours"]
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".png", ".svg"}
    assert "natural, cnn, 4 images of 8x8 pixels" in done.output
    assert "| together" in done.output


@pytest.mark.slow
def test_scaling_is_written_and_drawn(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    done = run(scaling.main, "--rounds", "1", "--most", "2", "--device", "cpu", "--out", str(out))
    record = json.loads(out.read_text())
    assert [curve["name"] for curve in record["curves"]] == list(scaling.AXES)
    batch = record["curves"][0]["points"]
    assert batch[1]["flops"] == pytest.approx(2 * batch[0]["flops"], rel=0.01)
    assert out.with_suffix(".png").exists()
    assert "## Batch size (images)" in done.output


@pytest.mark.parametrize(
    ("flops_and_seconds", "calls", "words"),
    [
        ([(1e9, 1.0), (2e9, 2.0)], 0.0, "Linear throughout"),
        ([(1e9, 1.0), (2e9, 1.2)], 0.5, "less than linear (0.26). The calls alone are 50%"),
        ([(1e9, 1.0), (2e9, 1.2)], 0.0, "gets faster with size, from 1.00 to 1.67 GFLOP/s"),
        ([(1e9, 1.0), (2e9, 3.0), (4e9, 6.0)], 0.0, "0 to 1: more than linear (1.58)"),
        ([(1e9, 1.0), (2e9, 3.0), (4e9, 6.0)], 0.0, "Elsewhere it is linear"),
    ],
)
def test_the_page_says_where_time_is_not_linear_and_why(
    flops_and_seconds: list[tuple[float, float]], calls: float, words: str
) -> None:
    points = [
        {"value": i, "flops": flops, "seconds": seconds, "empty_seconds": calls * seconds}
        for i, (flops, seconds) in enumerate(flops_and_seconds)
    ]
    assert words in pages.linearity(points)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (12.34, "12.3"), (0.01234, "0.0123"), (99.99, "100"), (None, "-")],
)
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert pages.significant(value) == text
