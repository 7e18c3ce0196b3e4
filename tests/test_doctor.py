"""`bench doctor`: its sections, what is missing with the fix, and the time of a suite."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from click.testing import Result

from bench import doctor
from bench.doctor import jobs_of, missing, suite_time
from bench.estimate import Estimator
from bench.experiments.stand_in import stand_in
from bench.experiments.suite import load_suite
from tests.commands import bench, refused

CPU = torch.device("cpu")


def run_doctor(*options: str) -> Result:
    return bench("doctor", "--seconds", "0", "--device", "cpu", *options)


@pytest.mark.slow
def test_its_sections() -> None:
    result = run_doctor("--suite", "table3", "--size", "tiny")
    text = result.output
    assert result.exit_code == 0, text
    titles = [line for line in text.splitlines() if line and line[0] != " "]
    assert titles == [
        *("This machine", "Software", "Missing", "Training speed on cpu"),
        "Suite table3, size tiny",
    ]
    assert torch.__version__ in text
    assert "GiB available" in text
    assert "not measured: no time was left for cnn" in text


@pytest.mark.parametrize(
    "options", [("--size", "tiny"), ("--suite", "nosuch"), ("--suite", "table3", "--size", "x")]
)
def test_a_mistake_is_one_line(options: tuple[str, ...]) -> None:
    refused(run_doctor(*options))


@pytest.mark.slow
def test_networks_are_measured_while_there_is_time() -> None:
    estimator = Estimator(CPU)
    small = load_suite("digits").only()
    attacks = tuple(a for a in small.attacks if a.name == "pgd-20")
    study = replace(small, methods=("madry", "trades"), seeds=(0,), attacks=attacks, checks=None)
    suite = replace(load_suite("digits"), studies=(study,))
    jobs = jobs_of(suite, None)
    text = suite_time(jobs, estimator)
    assert text.startswith("about ")
    assert "not measured" not in text
    late = Estimator(CPU, deadline=time.monotonic() - 1)
    assert suite_time(jobs, late) == "not measured: no time was left for cnn (--seconds)"


def test_a_suite_is_estimated_without_its_data(tmp_path: Path) -> None:
    jobs = jobs_of(load_suite("table3"), str(tmp_path / "nothing"), "bf16")
    spec = jobs[-1].train_spec
    assert (spec.n_train, spec.n_val, spec.image_size) == (49_000, 1_000, 32)
    assert {job.train_spec.precision for job in jobs} == {"bf16"}
    fewer = stand_in("cifar10", None, 100, 50)
    assert (len(fewer.train), len(fewer.val), len(fewer.test)) == (90, 10, 50)
    assert stand_in("restricted-imagenet@64", None, 90, 90).image_size == 64
    assert jobs_of(load_suite("restricted-imagenet"), None)


def test_missing_extras_are_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["torch>=2.6", 'nosuchpackage>=1; extra == "more"', "pytest>=8; extra == 'test'"]
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    found = dict(missing(tmp_path))
    assert found["extra 'more': nosuchpackage"] == "run: pip install 'atbench[more]'"
    assert not any("'test'" in what for what in found)


def test_cifar10_on_disk_is_not_missing(tmp_path: Path) -> None:
    assert any("CIFAR-10" in what for what, _ in missing(tmp_path))
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert not any("CIFAR-10" in what for what, _ in missing(tmp_path))


def test_builds_that_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(doctor.software())["torchvision"].endswith("matches torch")
    monkeypatch.setattr(torchvision, "__version__", "0.1.0+cpux")
    found = dict(missing(tmp_path))
    (what,) = (w for w in found if "torchvision" in w)
    assert "for cpux" in what
    assert found[what] == f"run: {doctor.TOGETHER}"


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
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path if driver else tmp_path / "absent")
    found = [what for what, _ in missing(tmp_path) if "torch is a" in what]
    assert len(found) == bool(says)
    assert says in "".join(found)
