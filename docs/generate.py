"""Write what is made from code and records: pages and tables in docs, README, precision.json.

`make docs` runs it; `python docs/generate.py --check` writes nothing, and names what is out of
date with exit code 1.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from bench.attacks import describe_attack, list_attacks
from bench.evaluation.checks import CHECKS
from bench.method import Method
from bench.precision import Paired, automatic
from bench.records import load_records
from bench.registry import broken_methods, get_method, list_methods, method_class, parameters
from bench.report.brief import brief
from bench.report.precision import paired_precisions, precision_page
from bench.speed.page import speed_page
from bench.speed.profile_figure import profile_section
from bench.speed.profiling import Profiles
from bench.speed.scaling import Scaling
from bench.speed.scaling_page import scaling_page
from bench.threat import REFERENCE_EPS, Threat
from bench.training.passes import passes

ROOT = Path(__file__).parent.parent
DIGITS = "results/digits"
PRECISION = "results/precision"
SPEED = "results/speed"
START, END = "<!-- digits-table:start -->", "<!-- digits-table:end -->"
ORDER = (
    *("natural", "madry", "trades", "mart", "mma", "bilateral", "dynamic", "iaat"),
    *("cat-ce", "cat-mix", "free", "fast", "yopo", "awp-madry", "awp-trades"),
    *("adv-ls", "adp-adv", "natural-ls"),
)
"""The CAT paper's methods first; methods that are not named here follow by name."""
_VERDICTS = ("Agrees with", "Differs from")
"""What a docstring says of the authors' code: a paragraph each."""
INTRODUCTION = """\
# Methods

Generated from the files in [`methods/`](../methods) by `make docs`: change those, not this page.

Each method is a min-max problem. Its parameters' defaults are its paper's values, or its authors'
code's where the paper gives none; `--param METHOD.NAME=VALUE` sets another. Lengths are stated at
eps = 8/255 and scale with the eps of a run, so that a method means the same at another eps.

Z are the logits and p their softmax, x' the adversarial image, d = x' - x, K the number of classes,
U and N uniform and normal noise, CE cross entropy, KL the Kullback-Leibler divergence, theta or w
the weights, v a perturbation of the weights. Passes are forward + backward an image and step,
counted in the middle of a training. What is kept for each image lasts from epoch to epoch.
"""


@dataclass(frozen=True)
class Parameter:
    """One row of a method's table."""

    name: str
    default: str
    meaning: str


def methods_page() -> str:
    """docs/methods.md; raises RuntimeError where a method does not import."""
    names = sorted(list_methods(), key=_place)
    if broken_methods():
        raise RuntimeError(f"methods that do not import: {broken_methods()}")
    names = [name for name in names if method_class(name).__module__.startswith("methods.")]
    described: dict[str, str] = {}
    sections = []
    for name in names:
        module = method_class(name).__module__
        sections.append(_section(name, described.get(module)))
        described.setdefault(module, name)
    return "\n\n".join([INTRODUCTION + "\n" + _overview(names), *sections]) + "\n"


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _overview(names: Sequence[str]) -> str:
    rows = [("method", "title", "kept for each image", "passes", "source")]
    for name in names:
        method = get_method(name)
        link = f"[`{name}`](#{name})"
        rows.append((link, method.title, _kept(method), _passes(name), _source(method)))
    return _table(rows)


def _section(name: str, described_under: str | None) -> str:
    cls, method = method_class(name), get_method(name)
    file = f"{cls.__module__.replace('.', '/')}.py"
    facts = [
        f"- Minimises `{method.objective}`",
        f"- Inner maximisation: {_code(method.inner)}",
        f"- Kept for each image: {_kept(method)}",
        f"- Passes: {_passes(name)}",
    ]
    if method.selects_by == "clean":
        facts.append("- Its best checkpoint is that of the best clean validation accuracy")
    source = f"{_source(method)}, " if method.paper else ""
    text = prose(inspect.getdoc(sys.modules[cls.__module__]) or "")
    table = _parameters(cls)
    if described_under:
        link = f"[`{described_under}`](#{described_under})"
        text = f"Described under {link}."
        shared = _parameters(method_class(described_under))
        if set(shared) <= set(table):
            text = f"Described under {link}, with the parameters that both have."
            table = [parameter for parameter in table if parameter not in shared]
    head = f"{source}[`{file}`](../{file}). {prose(inspect.getdoc(cls) or '')}"
    blocks = [f"## {name}", f"**{method.title}**, {head}", "\n".join(facts), text]
    if table:
        rows = [(f"`{p.name}`", p.default, p.meaning) for p in table]
        blocks.append(_table([("parameter", "default", "meaning"), *rows]))
    return "\n\n".join(blocks)


def _kept(method: Method) -> str:
    return ", ".join(method.example_state(1, Threat())) or "none"


@cache
def _passes(name: str) -> str:
    count = passes(get_method(name))
    alone = count.first_layer - count.forward
    first = f", and {alone:g} forward through the first layer alone" if alone else ""
    return f"{count.forward:g} + {count.backward:g}{first}"


def _source(method: Method) -> str:
    kind, _, number = method.paper.partition(" ")
    if kind != "arXiv":
        return method.paper
    return f"[{method.paper}](https://arxiv.org/abs/{number})"


def _code(text: str) -> str:
    return text if text == "none" else f"`{text}`"


def prose(docstring: str) -> str:
    """Markdown of a docstring: what is indented becomes a code block, the rest paragraphs."""
    blocks: list[list[str]] = [[]]
    for line in docstring.splitlines():
        inside = bool(blocks[-1]) and blocks[-1][0].startswith("    ")
        if not line.strip():
            # an empty line ends a paragraph, but not a block of code
            blocks[-1].append(line) if inside else blocks.append([])
        elif line.startswith("    ") != inside or line.startswith(_VERDICTS):
            blocks.append([line])
        else:
            blocks[-1].append(line)
    return "\n\n".join(_block(lines) for lines in blocks if lines)


def _block(lines: Sequence[str]) -> str:
    if lines[0].startswith("    "):
        code = "\n".join(line[4:] for line in lines).rstrip()
        return f"```text\n{code}\n```"
    return _escaped(" ".join(line.strip() for line in lines))


def _escaped(text: str) -> str:
    """Without accidental emphasis or HTML; spans of code stay as they are."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"(\*(?! )|<(?=[\w/!])|(?<!\w)_)", r"\\\1", part)
        for part in parts
    )


def _parameters(cls: type[Method]) -> list[Parameter]:
    """Of a method; a field's meaning is the string below it, in its class or in a base."""
    meanings: dict[str, str] = {}
    written: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Method):
            for name, default, meaning in _fields(base):
                written[name] = default
                if meaning:
                    meanings[name] = meaning
    hints = get_type_hints(cls)
    return [
        Parameter(
            name,
            _default(field.default, written[name]),
            _escaped(meanings.get(name, "") + _choices(hints[name])).replace("|", "\\|"),
        )
        for name, field in parameters(cls).items()
    ]


def _fields(cls: type) -> Iterator[tuple[str, str, str]]:
    """Name, default as written, and docstring of the fields in a class's own body."""
    tree = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(tree, ast.ClassDef)
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            meaning = text.value if isinstance(text, ast.Constant) else ""
            written = ast.unparse(node.value) if node.value else ""
            yield node.target.id, written, " ".join(str(meaning).split())


def _default(value: Any, written: str) -> str:
    """A fraction as it is written in the code, anything else as its value."""
    if value == REFERENCE_EPS:
        return "`8/255`"
    if re.fullmatch(r"[\d.]+ / \d+", written):
        return f"`{written.replace(' ', '')}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _choices(kind: Any) -> str:
    if get_origin(kind) is not Literal:
        return ""
    return f" One of {', '.join(f'`{choice}`' for choice in get_args(kind))}."


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])


def with_digits_table(readme: str, results: Path) -> str:
    """README.md with the records' table between its markers; unchanged without records."""
    records = load_records(results)
    return filled(readme, "digits-table", brief(records, DIGITS)) if len(records) else readme


def attack_table() -> str:
    """Every attack with its exact definition."""
    rows = [("attack", "definition"), *((f"`{n}`", describe_attack(n)) for n in list_attacks())]
    return _table(rows)


def check_table() -> str:
    """Every masking check: what it computes, and what raises an alarm."""
    head = ("check", "looks for", "computes", "alarm")
    rows = [(n, c.looks_for, c.compute, c.raises) for n, c in CHECKS.items()]
    return _table([head, *rows])


def evidence_file(rows: Sequence[Paired]) -> str:
    """bench/precision.json: what `--precision auto` goes by, records or none."""
    return json.dumps([asdict(row) for row in rows], indent=1) + "\n"


def filled(page: str, name: str, content: str) -> str:
    """`page` with `content` between the markers of `name`; unchanged where either is absent."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        return page
    return f"{before}{start}\n\n{content}\n\n{end}{after}"


def generated(root: Path) -> dict[Path, str]:
    """Each generated file and the text that it should have."""
    files = {root / "docs" / "methods.md": methods_page()}
    evaluation = root / "docs" / "evaluation.md"
    if evaluation.exists():
        page = filled(evaluation.read_text(), "attacks", attack_table())
        files[evaluation] = filled(page, "checks", check_table())
    rows = paired_precisions(load_records(root / PRECISION))
    if rows:
        choice, why = automatic(True, rows)
        files[root / "docs" / "precision.md"] = precision_page(
            rows, f"`auto` is {choice}, since {why}"
        )
        files[root / "bench" / "precision.json"] = evidence_file(rows)
    measured = [json.loads(path.read_text()) for path in sorted((root / SPEED).glob("*.json"))]
    speeds = [row for rows in measured if isinstance(rows, list) for row in rows]
    if speeds:
        files[root / "docs" / "speed.md"] = speed_page(speeds, profile_of(root))
    scaling = root / SPEED / "scaling.json"
    if scaling.exists():
        files[root / "docs" / "scaling.md"] = scaling_page(
            Scaling.from_json(scaling.read_text()),
            f"bench speed --scaling {SPEED}",
            f"../{SPEED}/scaling.png",
        )
    readme = root / "README.md"
    if readme.exists():
        files[readme] = with_digits_table(readme.read_text(), root / DIGITS)
    return files


def profile_of(root: Path) -> str:
    """The section of docs/speed.md on where the time goes; empty where no profile is on record."""
    record = root / SPEED / "profile.json"
    if not record.exists():
        return ""
    return profile_section(Profiles.from_json(record.read_text()), f"../{SPEED}/profile.png")


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Write the files, or with --check compare them; the exit code."""
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
