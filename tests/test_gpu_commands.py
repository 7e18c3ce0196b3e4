"""The two commands that test a GPU, on the CPU and on the pretended device."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.progress import Reporter
from bench.verify import verify
from benchmarks import gpu, launches
from benchmarks.pages import NOT_MEASURED
from tests.commands import bench, refused
from tests.pretended_cuda import CUDA, Log, fault

PINS = Path(__file__).parents[1] / "results" / "pinned"
TINY = ("--arch", "cnn", "--batch-size", "2", "--image-size", "8", "--seconds", "0")


def rows_of(tmp_path: Path, device: str, *more: str) -> tuple[str, list[dict[str, object]]]:
    out = tmp_path / "gpu.json"
    done = CliRunner().invoke(gpu.main, [*TINY, *more, "--device", device, "--out", str(out)])
    assert done.exit_code == 0, done.output
    return done.output, json.loads(out.read_bytes())["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_row_is_measured_but_what_only_a_gpu_shows(
    device: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if device == "cuda":
        request.getfixturevalue("cuda")
    text, rows = rows_of(tmp_path, device)
    assert len(rows) == 2 * (3 + 2)
    for row in rows:
        assert row.get("error") == (NOT_MEASURED if row["side"] == "graphs" else None)
        assert ("images_per_second" in row) == (row["side"] != "graphs")
        assert row.get("peak_bytes") is None
    (line,) = [line for line in text.splitlines() if "step-madry" in line and "plain loop" in line]
    assert [cell.strip() for cell in line.split("|")[-3:-1]] == [NOT_MEASURED] * 2


def test_a_row_that_fails_is_one_line_and_a_cut_run_leaves_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object) -> None:
        raise RuntimeError("no such kernel\nat a place")

    def cut(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "WORK", {"step-madry": failing, "pgd-20": cut})
    out = tmp_path / "gpu.json"
    done = CliRunner().invoke(gpu.main, [*TINY, "--device", "cpu", "--out", str(out)])
    assert "step-madry cnn fp32 eager: RuntimeError: no such kernel\n" in done.output
    rows = json.loads(out.read_bytes())["rows"]
    assert [row["error"][:12] for row in rows if row["side"] == "eager"] == ["RuntimeError"] * 2
    assert "fails" in done.output


@pytest.mark.parametrize("name", ["trades", "cat-ce", "pgd-20", "transfer", "apgd-t"])
def test_a_device_is_verified_by_the_pins(name: str, cuda: Log) -> None:
    found = verify(PINS, (name,), Reporter(quiet=True), device=CUDA)
    assert not found.moved, found.lines


def test_a_device_that_computes_something_else_is_named(
    cuda: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.nn.functional.softplus
    monkeypatch.setattr(
        torch.nn.functional,
        "softplus",
        lambda x, **others: whole(x * (1 + 1e-6 * x.is_cuda), **others),
    )
    found = verify(PINS, ("natural",), Reporter(quiet=True), device=CUDA)
    assert found.moved == ("natural",)
    assert "loss at step 0 is" in found.lines[0]


def test_pins_are_written_on_a_cpu_only(cuda: Log) -> None:
    refused(bench("verify", "--pin", "--only", "natural", "--device", "cuda"), "--pin", "--device")


@pytest.mark.slow
def test_our_searches_launch_less_than_half_of_the_packages_kernels_and_wait_less() -> None:
    if fault():
        pytest.skip(fault())
    found = {(row["what"], row["side"]): row for row in launches.rows((), ())}
    for what in {what for what, _ in found}:
        ours, package = found[what, "ours"], found[what, "package"]
        assert ours["launches"] < package["launches"] / 2
        assert ours["waits"] < package["waits"] / 2
