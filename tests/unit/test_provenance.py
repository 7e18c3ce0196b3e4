"""Which code made a record: what a hash sees, and what it does not."""

import ast
import subprocess
from pathlib import Path

import pytest

from bench import provenance
from bench.papers import plugin_files
from bench.provenance import canonical, evaluation_code, method_code, significant, training_code

ROOT = Path(__file__).parent.parent.parent
SOURCE = '''"""A module."""

import math  # for pi


def area(radius: float) -> float:
    """The area of a circle."""
    text = "# no comment"
    return math.pi * radius**2 if text else 0.0
'''


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (SOURCE.replace("A module.", "Another\n\ntext."), True),
        (SOURCE.replace("  # for pi", ""), True),
        (SOURCE.replace('    """The area of a circle."""\n', ""), True),
        (SOURCE.replace("\n\n\n", "\n\n# more\n\n"), True),
        (SOURCE.replace("**2", "**3"), False),
        (SOURCE.replace("# no comment", "# a comment"), False),
        (SOURCE.replace("    return", "    if radius:\n        return"), False),
    ],
)
def test_code_counts_and_texts_for_people_do_not(other: str, same: bool) -> None:
    assert other != SOURCE
    assert (significant(other) == significant(SOURCE)) is same


def test_code_beside_a_docstring_counts() -> None:
    one, other = 'class A: "é"; x = 1\n', 'class A: "é"; x = 2\n'
    assert significant(one) != significant(other)
    assert significant(one.replace("é", "b")) == significant(one)
    assert significant("a = 1  # é\x0c\nb = 2  # c\n") == "a = 1\nb = 2"


@pytest.mark.parametrize(
    "line",
    [
        "from package.losses import loss",
        "from package import losses",
        "import package.losses",
        "from methods import own",
        "import methods.own",
    ],
)
def test_every_form_of_an_import_is_followed(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "METHODS", tmp_path / "lib" / "methods")
    for place in ("package/losses.py", "lib/methods/own.py"):
        file = tmp_path / place
        file.parent.mkdir(parents=True)
        (file.parent / "__init__.py").touch()
    mine = tmp_path / "mine.py"
    mine.write_text(f"{line}\nimport bench.api\nimport torch\n")

    def hashed() -> str:
        method_code.cache_clear()
        return method_code(mine)

    hashes = []
    for text in ("rate = 1\n", "rate = 1  # as before\n", "rate = 2\n"):
        for place in ("package/losses.py", "lib/methods/own.py"):
            (tmp_path / place).write_text(text)
        hashes.append(hashed())
    assert hashes[0] == hashes[1] != hashes[2]
    assert method_code(tmp_path / "<string>") == provenance.UNKNOWN


def test_a_record_says_version_revision_and_hashes() -> None:
    code = training_code(ROOT / "methods" / "madry.py")
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    assert code["revision"] == (head.stdout.strip() if head.returncode == 0 else "")
    assert code["version"]
    assert (code["clean"] is None) == (code["revision"] == "")
    for name in ("training_sha256", "method_sha256"):
        assert len(code[name]) == 16
    assert evaluation_code()["evaluation_sha256"] != code["training_sha256"]


def test_an_installed_package_has_no_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "bench" / "provenance.py"))
    provenance._version.cache_clear()
    try:
        assert provenance._version()["revision"] == ""
        assert provenance._version()["clean"] is None
    finally:
        provenance._version.cache_clear()


# What cannot move a number: files and their formats, what is said, what is asked (it is in the id)
# or refused, and the states of checks, which are computed again when a record is read.
IDLE = (
    *("errors", "storage", "progress", "param", "records", "provenance", "registry", "machine"),
    *("papers", "indicator"),
)


@pytest.mark.parametrize(
    ("start", "hashed"),
    [
        ("training/engine.py", provenance.TRAINING),
        ("data/__init__.py", provenance.TRAINING),
        ("api.py", provenance.TRAINING),
        ("evaluation/store.py", provenance.EVALUATION),
    ],
)
def test_whatever_a_number_passes_through_is_hashed(start: str, hashed: tuple[str, ...]) -> None:
    bench = ROOT / "bench"
    seen: set[Path] = set()
    waiting = [bench / start]
    while waiting:
        path = waiting.pop()
        head = path.relative_to(bench).parts[0]
        if path in seen or head.removesuffix(".py") in IDLE or head == "__init__.py":
            continue
        seen.add(path)
        assert head in hashed, f"{path} is imported and not hashed"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bench"):
                names = [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
                for name in names:
                    place = ROOT / name.replace(".", "/")
                    found = [place.with_suffix(".py"), place / "__init__.py"]
                    waiting += [f for f in found if f.is_file()]
    assert len(seen) > 4


@pytest.mark.slow
def test_plug_ins_of_papers_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set or network moves both hashes, a measure only that of evaluations."""

    def hashes(kind: str) -> tuple[str, str]:
        own = {kind: [tmp_path / "plugin.py"]}
        monkeypatch.setattr(provenance, "plugin_files", lambda asked: own.get(asked, []))
        provenance._hash_below.cache_clear()
        return training_code(None)["training_sha256"], evaluation_code()["evaluation_sha256"]

    try:
        for kind, moves in (("datasets", (True, True)), ("measures", (False, True))):
            (tmp_path / "plugin.py").write_text("rate = 1\n")
            before = hashes(kind)
            (tmp_path / "plugin.py").write_text("rate = 2\n")
            after = hashes(kind)
            assert tuple(a != b for a, b in zip(before, after, strict=True)) == moves
    finally:
        provenance._hash_below.cache_clear()
    names = {file.name for kind in ("datasets", "archs", "measures") for file in plugin_files(kind)}
    assert names == {"gaussians.py", "linear.py", "measures"}


def test_hashes_may_be_declared_equal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = '[[equal]]\nhashes = ["aa", "bb"]\nwhy = "moved"\n'
    (tmp_path / "equal_code.toml").write_text(text)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    canonical.cache_clear()
    try:
        assert [canonical(h) for h in ("aa", "bb", "cc")] == ["aa", "aa", "cc"]
    finally:
        canonical.cache_clear()
