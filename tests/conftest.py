"""Two test processes on two cores: one thread each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pretended_cuda import Log

# read when torch is loaded, which no import above does
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one naturally trained network: some images withstand an attack."""
    from tests.commands import done

    results = tmp_path_factory.mktemp("trained") / "results"
    done(
        *("run", "--results", results, "--quiet", "--methods", "natural", "--seeds", "0"),
        *("--attacks", "clean", "--train-size", "600", "--epochs", "3"),
    )
    return results


@pytest.fixture
def results(trained_digits: Path, tmp_path: Path) -> Path:
    """A copy of the trained network's folder to work on."""
    return Path(shutil.copytree(trained_digits, tmp_path / "results"))


@pytest.fixture
def _registry_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Method files that commands in this process register are gone after the test."""
    from bench import registry

    registry.discover()
    for name in ("_METHODS", "_BROKEN", "_FILES"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


@pytest.fixture
def short_autoattack(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack with few iterations."""
    import pyautoattack

    from tests.short import ShortAutoAttack

    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)


@pytest.fixture
def cuda() -> Iterator[Log]:
    """A pretended CUDA device, with what it sees."""
    from tests.pretended_cuda import fault, pretended

    if fault():
        pytest.skip(f"the pretended CUDA device does not fit this torch: {fault()}")
    with pretended() as log:
        yield log
