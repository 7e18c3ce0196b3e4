"""Which code made a record: version, git revision, and hashes of the code that sets its numbers.

Without torch. Hashes ignore comments, docstrings and blank lines. A refactor that changes no number
(`bench verify` holds) may declare its hash equal to the previous one in equal_code.toml.
"""

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

from bench.papers import PluginKind, plugin_files
from bench.storage import sha256

UNKNOWN = "unknown"
"""The hash in records older than the hashes."""
SHARED = (
    *("archs", "attacks", "data", "losses.py", "ranks.py", "seeding.py", "threat.py", "eps.py"),
)
"""Below `bench`: the code that both training and evaluation use."""
TRAINING = (*SHARED, "training", "method.py", "api.py")
"""The code that sets the weights, with the method's file."""
EVALUATION = (*SHARED, "evaluation")
"""The code that sets the outcomes of a network."""
PACKAGE = "atbench"
METHODS = Path(__file__).parent.parent / "methods"
_DIGITS = 16


def training_code(method_file: Path | None) -> dict[str, Any]:
    """Return the code that made the weights of a run: the engine and the method's file."""
    return _version() | {
        "training_sha256": _hash_below(TRAINING, ("datasets", "archs")),
        "method_sha256": method_code(method_file) if method_file else UNKNOWN,
    }


def evaluation_code() -> dict[str, Any]:
    """Return the code that made an outcome: the attacks and the evaluator."""
    return _version() | {
        "evaluation_sha256": _hash_below(EVALUATION, ("datasets", "archs", "measures"))
    }


@cache
def method_code(file: Path) -> str:
    """Hash a method's file with the method files and neighbouring files that it imports."""
    found = sorted(_with_imports(file, set()))
    return _hash(found) if found else UNKNOWN


@cache
def canonical(code_hash: str) -> str:
    """Return the first of the hashes declared equal to this one in equal_code.toml, else itself."""
    text = (Path(__file__).parent / "equal_code.toml").read_text()
    for group in tomllib.loads(text).get("equal", ()):
        if code_hash in group["hashes"]:
            return str(group["hashes"][0])
    return code_hash


def significant(source: str) -> str:
    """Return source without comments, docstrings and blank lines.

    It works on text, since tokens and syntax trees differ between Python versions.
    """
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    encoded = [line.encode() for line in lines]  # a syntax tree counts bytes
    for node in _docstrings(ast.parse(source)):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        around = encoded[first][: node.col_offset] + encoded[last][node.end_col_offset :]
        encoded[first : last + 1] = [around] + [b""] * (last - first)
    lines = [line.decode() for line in encoded]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _docstrings(tree: ast.AST) -> list[ast.Constant]:
    """Return every expression statement that is a string, the last first."""
    found = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset), reverse=True)


@cache
def _hash_below(names: tuple[str, ...], kinds: tuple[PluginKind, ...]) -> str:
    """Return the hash of some files and folders of `bench`, and of the papers' plug-ins."""
    root = Path(__file__).parent
    paths = [root / name for name in names]
    paths += [file for kind in kinds for file in plugin_files(kind)]
    files = {f for path in paths for f in (path.rglob("*.py") if path.is_dir() else [path])}
    return _hash(sorted(files), root)


def _hash(files: Iterable[Path], root: Path | None = None) -> str:
    parts = [
        f"{file.relative_to(root) if root and root in file.parents else file.name}\n"
        f"{significant(file.read_text())}"
        for file in files
    ]
    return sha256("\n".join(parts).encode())[:_DIGITS]


def _with_imports(file: Path, seen: set[Path]) -> set[Path]:
    """Add the file, and the method files and neighbouring files that it imports, to `seen`."""
    if file in seen or not file.is_file():
        return seen
    seen.add(file)
    for node in ast.walk(ast.parse(file.read_text())):
        for name, roots in _imported(node, file.parent):
            for root in roots:
                place = root / name.replace(".", "/")
                _with_imports(place.with_suffix(".py"), seen)
                _with_imports(place / "__init__.py", seen)
    return seen


def _imported(node: ast.AST, folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield dotted names that may be modules, and the folders to look in."""
    if isinstance(node, ast.Import):
        names, level = [alias.name for alias in node.names], 0
    elif isinstance(node, ast.ImportFrom):
        head = [node.module] if node.module else []
        names = [*head, *(".".join([*head, alias.name]) for alias in node.names)]
        level = node.level
    else:
        return
    for name in names:
        package = name.partition(".")[0]
        if level:
            yield name, [[folder, *folder.parents][level - 1]]
        elif package == METHODS.name:
            yield name, [METHODS.parent]
        elif package != "bench":  # the engine has a hash of its own
            yield name, [folder, *([folder.parent] if package == folder.name else [])]


@cache
def _version() -> dict[str, Any]:
    """Return the package's version; in a checkout also its revision and whether it is clean."""
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
    """Return git's output for the checkout of this file; None outside of one."""
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
