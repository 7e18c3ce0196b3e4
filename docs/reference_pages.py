"""The parts of the site that are made from code: a page per method, and tables of what there is."""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bench.archs import describe, list_archs
from bench.attacks import describe_attack, list_attacks
from bench.data import list_datasets
from bench.evaluation.checks import CHECKS
from bench.experiments.recipe import list_recipes, recipe_title
from bench.experiments.suite import list_suites, load_suite, sizes
from bench.method import Method
from bench.registry import broken_methods, get_method, list_methods, method_class, parameters
from bench.threat import REFERENCE_EPS, Threat
from bench.training.cost import passes
from docs.generate import TEMPLATES

ORDER = (
    *("natural", "madry", "trades", "mart", "mma", "bilateral", "dynamic", "iaat"),
    *("cat-ce", "cat-mix", "free", "fast", "yopo", "awp-madry", "awp-trades"),
    *("adv-ls", "adp-adv", "natural-ls"),
)
"""The CAT paper's methods first; methods that are not named here follow by name."""


def method_pages() -> dict[str, str]:
    """Return the pages of the methods by name, `index` first; RuntimeError if one is broken."""
    if broken_methods():
        raise RuntimeError(f"methods that do not import: {broken_methods()}")
    first: dict[str, str] = {}  # the method that describes a module
    methods = []
    known = [name for name in ORDER if name in list_methods()]
    for name in dict.fromkeys([*known, *sorted(list_methods())]):
        module = method_class(name).__module__
        if module.startswith("methods."):
            methods.append(_described(name, first.setdefault(module, name)))
    pages = {"index": TEMPLATES.get_template("methods.md.j2").render(methods=methods)}
    template = TEMPLATES.get_template("method.md.j2")
    return pages | {m["name"]: template.render(m=m) for m in methods}


def _described(name: str, describer: str) -> dict[str, Any]:
    """Values for the template; `describer` is the first method of the same module."""
    cls, method = method_class(name), get_method(name)
    kind, _, number = method.paper.partition(" ")
    link = f"[{method.paper}](https://arxiv.org/abs/{number})"
    text = prose(inspect.getdoc(sys.modules[cls.__module__]) or "")
    table = _parameters(cls)
    if describer != name:
        text = f"Described under [`{describer}`]({describer}.md)."
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
        "source_code": inspect.getsource(sys.modules[cls.__module__]),
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


def attack_table() -> str:
    """Return the table of attacks with their exact definitions."""
    attacks = ((f"`{name}`", describe_attack(name)) for name in list_attacks())
    return _table(("attack", "definition"), *attacks)


def check_table() -> str:
    """Return the table of masking checks: what each computes, and when it is too large."""
    checks = ((n, c.looks_for, c.compute, c.raises) for n, c in CHECKS.items())
    return _table(("check", "looks for", "computes", "above the threshold"), *checks)


def arch_table() -> str:
    return _table(("arch", "network"), *((f"`{name}`", describe(name)) for name in list_archs()))


def dataset_table() -> str:
    rows = ((f"`{name}`", text) for name, text in list_datasets())
    return _table(("dataset", "images"), *rows)


def suite_list() -> str:
    """Return a section per suite: its sizes, what it trains, and its file."""
    return "\n\n".join(_suite(name, title) for name, title in list_suites())


def _suite(name: str, title: str) -> str:
    studies = load_suite(name).studies
    attacks = dict.fromkeys(attack.name for study in studies for attack in study.attacks)
    facts = (
        f"Sizes: {', '.join(sizes(name))}",
        f"Networks: {_codes(study.arch for study in studies)}",
        f"Data: {_codes(study.dataset for study in studies)}",
        f"Methods: {_codes(method for study in studies for method in study.methods)}",
        f"Attacks: {_codes(attacks)}",
    )
    return "\n".join([f"## {name}", "", title.rstrip(".") + ".", "", *(f"- {f}" for f in facts)])


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names)) or "none"


def recipe_list() -> str:
    """Return a section per recipe: its file, in which each value names its source."""
    folder = files("bench") / "recipes"
    return "\n\n".join(
        f"## {name}\n\n{recipe_title(name).rstrip('.')}.\n\n"
        f"```toml\n{(folder / f'{name}.toml').read_text().rstrip()}\n```"
        for name in list_recipes()
    )


PARTS: dict[str, Callable[[], str]] = {
    "attacks": attack_table,
    "checks": check_table,
    "archs": arch_table,
    "datasets": dataset_table,
    "suites": suite_list,
    "recipes": recipe_list,
}
"""By the name in a page's `<!-- NAME -->`, which they take the place of."""
