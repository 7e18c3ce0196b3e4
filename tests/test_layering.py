"""The import rules: lower levels only, methods see the api alone, the report sees no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = {
    0: "errors eps storage spec precision recipe measured outcomes records folder study suite "
    "provenance "
    "seeding threat losses progress machine papers",
    1: "data archs attacks",
    2: "method registry api",
    3: "training evaluation",
    4: "asked plan plan_runs trained cluster runner estimate dryrun external attack_given "
    "rechecking listing report against verify speed doctor cat",
    5: "commands cli __main__",
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names.split()}
FILES = sorted((ROOT / "bench").rglob("*.py"))
NO_TORCH = (
    "errors",
    "eps",
    "storage",
    "spec",
    "precision",
    "recipe",
    "measured",
    "outcomes",
    "records",
    "folder",
    "provenance",
    "study",
    "suite",
    "report",
)


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(path: Path) -> str:
    """The module or package directly below `bench` that a file belongs to."""
    parts = path.relative_to(ROOT / "bench").parts
    return (parts[1] if parts[0] == "papers" and len(parts) > 2 else parts[0]).removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_bench_imports_lower_levels_only(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        assert path.read_text() == ""
        return
    for name in imported(path):
        head, _, rest = name.partition(".")
        assert head != "methods", f"{path} imports {name}"
        if head != "bench":
            continue
        other = rest.split(".")[0]
        assert LEVEL[other] <= LEVEL[own], f"{path} imports {name}, which is above it"
        assert {own, other} != {"training", "evaluation"}, f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda p: p.stem)
def test_methods_import_the_api_and_at_most_one_other_method(path: Path) -> None:
    ours = {n for n in imported(path) if n.split(".")[0] in ("bench", "methods")}
    assert all(n.startswith(("bench.api.", "methods.")) for n in ours), ours
    assert len({n.split(".")[1] for n in ours if n.startswith("methods.")}) <= 1


@pytest.mark.parametrize("name", [*NO_TORCH, "cli"])
def test_starts_without_torch(name: str) -> None:
    code = f"import sys, bench.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
