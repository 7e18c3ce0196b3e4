"""`python -m bench` is `bench`."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent


def module(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_names_the_command_that_was_given() -> None:
    done = module("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: python -m bench [OPTIONS] COMMAND")
    assert "evaluate" in done.stdout
    assert module("run", "--help").stdout.startswith("Usage: python -m bench run [OPTIONS]")


def test_version_is_that_of_the_package() -> None:
    done = module("--version")
    assert (done.returncode, done.stdout) == (0, f"bench, version {version('atbench')}\n")


def test_a_command_runs_and_a_mistake_is_one_line() -> None:
    listed = module("list", "recipes")
    assert listed.returncode == 0
    assert "common" in listed.stdout
    wrong = module("run", "--recipe", "commom", "--dry-run")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "Did you mean 'common'?" in wrong.stderr


def test_importing_it_starts_nothing() -> None:
    code = "import bench.__main__"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
