"""Which code made a record: version, git revision, and hashes of what can move its numbers.

Without torch. A hash is of the text without comments, docstrings and blank lines. A refactor under
which no number moves (`bench verify` holds) may declare its hash equal to the one before, in
equal_code.toml.
"""

from __future__ import annotations

import ast
import io
import subprocess
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.storage import sha256

UNKNOWN = "unknown"
"""What a record from before there were hashes says."""
SHARED = ("archs", "attacks", "data", "losses.py", "seeding.py", "threat.py", "eps.py")
"""Below `bench`: what trainings and evaluations have in common."""
TRAINING = (*SHARED, "training", "method.py", "api.py")
"""What can move a weight, with the method's file."""
EVALUATION = (*SHARED, "evaluation")
"""What can move an outcome of a network."""
PACKAGE = "atbench"
METHODS = Path(__file__).parent.parent / "methods"
_DIGITS = 16


def training_code(method_file: Path | None) -> dict[str, Any]:
    """What made the weights of a run: the engine and the method's file."""
    return _version() | {
        "training_sha256": _hash_below(TRAINING),
        "method_sha256": method_code(method_file) if method_file else UNKNOWN,
    }


def evaluation_code() -> dict[str, Any]:
    """What made an outcome: the attacks and the evaluator."""
    return _version() | {"evaluation_sha256": _hash_below(EVALUATION)}


@cache
def method_code(file: Path) -> str:
    """Hash of a method's file and of the method files that it imports."""
    return _hash(sorted(_with_imports(file, set())))


@cache
def canonical(code_hash: str) -> str:
    """The first of the hashes that equal_code.toml declares equal to this one; else itself."""
    text = (Path(__file__).parent / "equal_code.toml").read_text()
    for group in tomllib.loads(text).get("equal", ()):
        if code_hash in group["hashes"]:
            return str(group["hashes"][0])
    return code_hash


def significant(source: str) -> str:
    """The lines of a file without comments, docstrings and blank lines.

    Of the text, not of tokens or a syntax tree, which differ from one Python to the next.
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for first, last in _docstrings(ast.parse(source)):
        lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _docstrings(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """First and last line of every expression that is a text and nothing else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            value = node.value
            if isinstance(value.value, str) and value.end_lineno:
                yield value.lineno, value.end_lineno


@cache
def _hash_below(names: tuple[str, ...]) -> str:
    root = Path(__file__).parent
    found = (root / name for name in names)
    files = [f for path in found for f in (path.rglob("*.py") if path.is_dir() else [path])]
    return _hash(sorted(files), root)


def _hash(files: Iterable[Path], root: Path | None = None) -> str:
    parts = [
        f"{file.relative_to(root) if root else file.name}\n{significant(file.read_text())}"
        for file in files
    ]
    return sha256("\n".join(parts).encode())[:_DIGITS]


def _with_imports(file: Path, seen: set[Path]) -> set[Path]:
    """The file with the method files and the files beside it that it imports."""
    if file in seen or not file.is_file():
        return seen
    seen.add(file)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.rpartition(".")
            beside = METHODS if package == METHODS.name else file.parent
            if package in ("", METHODS.name, file.parent.name):
                _with_imports(beside / f"{module}.py", seen)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                _with_imports(file.parent / f"{alias.name}.py", seen)
    return seen


@cache
def _version() -> dict[str, Any]:
    """Of the package; in a checkout also its revision, and whether files differ from it."""
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        found = ""
    revision = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "bench", "methods")
    return {
        "version": found,
        "revision": revision or "",
        "clean": None if revision is None or changed is None else not changed,
    }


def _git(*arguments: str) -> str | None:
    """What git says in the checkout that this file is in; None where there is none."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # installed, perhaps below somebody else's checkout
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
