"""Write the files that are made from code and records: pages and tables in docs, README, and
bench/precision.json.

`make docs` runs it; `python docs/generate.py --check` writes nothing, names the files that are out
of date, and exits with 1.
"""

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.attacks import describe_attack, list_attacks
from bench.evaluation.checks import CHECKS
from bench.machine import machine_text
from bench.method import Method
from bench.precision import Paired, automatic
from bench.records import load_records
from bench.registry import broken_methods, get_method, list_methods, method_class, parameters
from bench.report.precision import paired_precisions, precision_page
from bench.report.table3 import brief
from bench.threat import REFERENCE_EPS, Threat
from bench.training.cost import passes

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is not installed
from benchmarks.pages import fused_table, profile_tables, scaling_tables, speed_table

ROOT = Path(__file__).parent.parent
DIGITS, PRECISION, SPEED = "results/digits", "results/precision", "results/speed"
ORDER = (
    *("natural", "madry", "trades", "mart", "mma", "bilateral", "dynamic", "iaat"),
    *("cat-ce", "cat-mix", "free", "fast", "yopo", "awp-madry", "awp-trades"),
    *("adv-ls", "adp-adv", "natural-ls"),
)
"""The CAT paper's methods first; methods that are not named here follow by name."""
TEMPLATES = Environment(  # of Markdown, whose text `prose` escapes
    loader=FileSystemLoader(ROOT / "docs" / "templates"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
TEMPLATES.globals |= {
    "machine_text": machine_text,
    "speed_table": speed_table,
    "fused_table": fused_table,
    "profile_tables": profile_tables,
    "scaling_tables": scaling_tables,
}


def methods_page(root: Path = ROOT) -> str:
    """Return docs/methods.md; raise RuntimeError if a method does not import."""
    if broken_methods():
        raise RuntimeError(f"methods that do not import: {broken_methods()}")
    first: dict[str, str] = {}  # the method that describes a module
    methods = []
    known = [name for name in ORDER if name in list_methods()]
    for name in dict.fromkeys([*known, *sorted(list_methods())]):
        module = method_class(name).__module__
        if module.startswith("methods."):
            methods.append(_described(name, first.setdefault(module, name)))
    return TEMPLATES.get_template("methods.md.j2").render(methods=methods)


def _described(name: str, describer: str) -> dict[str, Any]:
    """Values for the template; `describer` is the first method of the same module."""
    cls, method = method_class(name), get_method(name)
    kind, _, number = method.paper.partition(" ")
    link = f"[{method.paper}](https://arxiv.org/abs/{number})"
    text = prose(inspect.getdoc(sys.modules[cls.__module__]) or "")
    table = _parameters(cls)
    if describer != name:
        text = f"Described under [`{describer}`](#{describer})."
        shared = _parameters(method_class(describer))
        if set(shared) <= set(table):
            text = f"{text.removesuffix('.')}, with the parameters that both have."
            table = [row for row in table if row not in shared]
    return {
        "name": name,
        "method": method,
        "source": link if kind == "arXiv" else method.paper,
        "file": f"{cls.__module__.replace('.', '/')}.py",
        "summary": prose(inspect.getdoc(cls) or ""),
        "kept": ", ".join(method.example_state(1, Threat())) or "none",
        "passes": _passes(name),
        "text": text,
        "parameters": table,
    }


@cache
def _passes(name: str) -> str:
    count = passes(get_method(name))
    more = count.first_layer - count.forward
    first = f", and {more:g} forward through the first layer only" if more else ""
    return f"{count.forward:g} + {count.backward:g}{first}"


def prose(docstring: str) -> str:
    """Return the Markdown of a docstring: indented lines become code, the rest paragraphs."""
    blocks: list[list[str]] = [[]]
    for line in docstring.splitlines():
        inside = bool(blocks[-1]) and blocks[-1][0].startswith("    ")
        if not line.strip():
            # an empty line ends a paragraph, but not a block of code
            blocks[-1].append(line) if inside else blocks.append([])
        elif line.startswith("    ") != inside or line.startswith(("Agrees with", "Differs from")):
            blocks.append([line])
        else:
            blocks[-1].append(line)
    return "\n\n".join(
        "```text\n{}\n```".format("\n".join(line[4:] for line in lines).rstrip())
        if lines[0].startswith("    ")
        else _escaped(" ".join(line.strip() for line in lines))
        for lines in blocks
        if lines
    )


def _escaped(text: str) -> str:
    """The text without accidental emphasis or HTML; spans of code are unchanged."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"(\*(?! )|<(?=[\w/!])|(?<!\w)_)", r"\\\1", part)
        for part in parts
    )


def _parameters(cls: type[Method]) -> list[tuple[str, ...]]:
    """Rows of name, default, allowed, meaning: the string below a field, here or in a base."""
    written: dict[str, str] = {}
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Method):
            for name, default, meaning in _fields(base):
                written[name] = default
                meanings[name] = meaning or meanings.get(name, "")
    kinds = get_type_hints(cls)
    return [
        (
            f"`{name}`",
            f"`{_default(field.default, written[name])}`",
            str(field.metadata.get("range") or _choices(kinds[name])),
            _escaped(meanings[name]).replace("|", "\\|"),
        )
        for name, field in parameters(cls).items()
    ]


def _fields(cls: type) -> Iterator[tuple[str, str, str]]:
    """Name, default as written, and docstring of the fields in a class's own body."""
    tree = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(tree, ast.ClassDef)
    for node, below in pairwise([*tree.body, ast.Pass()]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default: ast.expr | None = node.value
            if isinstance(default, ast.Call) and default.args:  # param(2 / 255, gt=0)
                default = default.args[0]
            text = below.value if isinstance(below, ast.Expr) else None
            meaning = text.value if isinstance(text, ast.Constant) else ""
            written = ast.unparse(default) if default else ""
            yield node.target.id, written, " ".join(str(meaning).split())


def _default(value: Any, written: str) -> str:
    """A fraction as it is written in the code, anything else as its value."""
    if value == REFERENCE_EPS:
        return "8/255"
    if re.fullmatch(r"[\d.]+ / \d+", written):
        return written.replace(" ", "")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choices(kind: Any) -> str:
    choices = ("true", "false") if kind is bool else get_args(kind)
    is_choice = kind is bool or get_origin(kind) is Literal
    return ", ".join(f"`{choice}`" for choice in choices) if is_choice else ""


def _table(*rows: Sequence[str]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])


def attack_table(root: Path = ROOT) -> str:
    """Return the table of attacks with their exact definitions."""
    attacks = ((f"`{name}`", describe_attack(name)) for name in list_attacks())
    return _table(("attack", "definition"), *attacks)


def check_table(root: Path = ROOT) -> str:
    """Return the table of masking checks: what each computes, and when it is too large."""
    checks = ((n, c.looks_for, c.compute, c.raises) for n, c in CHECKS.items())
    return _table(("check", "looks for", "computes", "above the threshold"), *checks)


def digits_table(root: Path = ROOT) -> str:
    """Return the table of the committed records; empty without records."""
    records = load_records(root / DIGITS)
    return brief(records, DIGITS) if len(records) else ""


@cache
def _paired(root: Path) -> list[Paired]:
    return paired_precisions(load_records(root / PRECISION))


def _precision(root: Path) -> str:
    rows = _paired(root)
    choice, why = automatic(True, rows)
    return precision_page(rows, f"`auto` is {choice}, since {why}") if rows else ""


def _evidence(root: Path) -> str:
    """The evidence of `--precision auto`, for installations without records."""
    rows = _paired(root)
    return json.dumps([asdict(row) for row in rows], indent=1) + "\n" if rows else ""


def _speed(root: Path) -> str:
    found = _speeds(root)
    rows = [row for kept in found.values() if isinstance(kept, list) for row in kept]
    machines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = f"{machine_text(row['machine'])}, torch {row['machine']['packages']['torch']}"
        machines.setdefault(name, []).append(row)
    return _rendered("speed.md.j2", found, machines=machines) if rows else ""


def _scaling(root: Path) -> str:
    found = _speeds(root)
    return _rendered("scaling.md.j2", found) if found else ""


def _speeds(root: Path) -> dict[str, Any]:
    return {p.stem: json.loads(p.read_text()) for p in sorted((root / SPEED).glob("*.json"))}


def _rendered(template: str, found: dict[str, Any], **values: Any) -> str:
    page = TEMPLATES.get_template(template)
    return page.render(**found, **values, pictures=f"../{SPEED}")


Make = Callable[[Path], str]
"""The text for a checkout; empty without its records."""
PAGES: dict[str, Make] = {
    "docs/methods.md": methods_page,
    "docs/precision.md": _precision,
    "bench/precision.json": _evidence,
    "docs/speed.md": _speed,
    "docs/scaling.md": _scaling,
}
SECTIONS: dict[tuple[str, str], Make] = {
    ("docs/evaluation.md", "attacks"): attack_table,
    ("docs/evaluation.md", "checks"): check_table,
    ("README.md", "digits-table"): digits_table,
}
"""File and name of its markers, `<!-- NAME:start -->` and `<!-- NAME:end -->`."""


def filled(page: str, name: str, content: str) -> str:
    """Return `page` with `content` between the markers of `name`; unchanged without both."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    return f"{before}{start}\n\n{content}\n\n{end}{after}" if found and closed else page


def generated(root: Path) -> dict[Path, str]:
    """Return each generated file with the text that it should have."""
    files = {root / path: text for path, make in PAGES.items() if (text := make(root))}
    for (name, marker), make in SECTIONS.items():
        path = root / name
        content = make(root) if path.exists() else ""
        if content:
            files[path] = filled(files.get(path) or path.read_text(), marker, content)
    return files


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Write the files, or compare them with --check; return the exit code."""
    stale = [
        (path, text)
        for path, text in generated(root).items()
        if not path.exists() or path.read_text() != text
    ]
    for path, text in stale:
        name = path.relative_to(root)
        if "--check" in arguments:
            print(f"{name} is out of date: run `make docs`", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {name}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
