"""What methods import, and what starts without torch; `make lint` checks the rest of the layers."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
METHODS = sorted((ROOT / "methods").glob("*.py"))
START = """
import sys, time
from bench.cli import main
code = 0
try:
    main(sys.argv[3:])
except SystemExit as error:
    code = error.code
loaded = sorted(set(sys.argv[2].split(",")) & set(sys.modules))
sys.exit(f"loaded {loaded}" if loaded or time.process_time() > float(sys.argv[1]) else code)
"""


@pytest.mark.parametrize("path", METHODS, ids=lambda p: p.stem)
def test_methods_import_the_api_and_at_most_one_other_method(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names.add(str(node.module))
    ours = {name for name in names if name.split(".")[0] in ("bench", "methods")}
    others = {name for name in ours if name.startswith("methods.")}
    assert ours - others <= {"bench.api"}
    assert len(others) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "cpu_seconds", "absent", "code"),
    [
        (["--help"], 0.3, "torch,pandas,matplotlib,rich", 0),
        (["run", "--suite", "nowhere"], 0.5, "torch,pandas,matplotlib", 2),
        (["report", "--results", "nowhere"], 60, "torch", 2),
        (["compare", "madry", "trades", "--results", "nowhere"], 60, "torch", 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_starts_without_what_it_does_not_need(
    arguments: list[str], cpu_seconds: float, absent: str, code: int
) -> None:
    command = [sys.executable, "-c", START, str(cpu_seconds), absent, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "loaded" in done.stderr) == (code, False), done.stderr


def test_no_class_name_is_defined_twice() -> None:
    """A search for `class Name` finds one place."""
    files = [path for package in ("bench", "methods") for path in (ROOT / package).rglob("*.py")]
    trees = (ast.walk(ast.parse(path.read_text())) for path in files)
    names = Counter(node.name for tree in trees for node in tree if isinstance(node, ast.ClassDef))
    assert [name for name, n in names.items() if n > 1] == []
