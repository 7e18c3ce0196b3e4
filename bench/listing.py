"""The text of `bench list`: each registry as a plain table."""

import inspect
from collections.abc import Callable, Sequence
from textwrap import wrap

from tabulate import tabulate

WIDTH = 100
"""Characters of a line of `bench list`, for the terminals that most people have."""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    return str(tabulate(rows, tablefmt="plain", disable_numparse=True))


def fitted(rows: Sequence[Sequence[str]], column: int) -> str:
    """Return rows aligned in at most WIDTH characters: the texts of one column are wrapped."""
    others = [[len(cell) + 2 for i, cell in enumerate(row) if i != column] for row in rows]
    room = max(20, WIDTH - sum(map(max, zip(*others, strict=True))))
    lines = []
    for row in rows:
        for n, part in enumerate(wrap(row[column], room) or [""]):
            lines.append([part if i == column else "" if n else cell for i, cell in enumerate(row)])
    return aligned(lines)


def listing(kind: str, long: bool = False) -> str:
    if kind == "methods":
        return _methods(long)
    from bench.archs import describe, list_archs
    from bench.attacks import describe_attack, list_attacks
    from bench.data import list_datasets
    from bench.experiments.recipe import list_recipes, recipe_title
    from bench.experiments.suite import list_suites

    rows: dict[str, Callable[[], Sequence[tuple[str, str]]]] = {
        "archs": lambda: [(name, describe(name)) for name in list_archs()],
        "datasets": list_datasets,
        "attacks": lambda: [(name, describe_attack(name)) for name in list_attacks()],
        "suites": list_suites,
        "recipes": lambda: [(name, recipe_title(name)) for name in list_recipes()],
    }
    return fitted(rows[kind](), 1)


def _methods(long: bool) -> str:
    from bench.registry import broken_methods, get_method, list_methods, method_class

    broken = [f"broken: {module}: {why}" for module, why in broken_methods().items()]
    if not long:
        about = [("name", "title", "what it trains on", "source")]
        for name in list_methods():
            cls = method_class(name)
            line = (inspect.getdoc(cls) or "").partition("\n")[0].rstrip(".")
            about.append((name, cls.title or name, line, cls.paper))
        end = "--long: objective, inner maximisation, state per image and passes of each method"
        return "\n".join([fitted(about, 2), *broken, end])
    from bench.threat import Threat
    from bench.training.cost import passes

    rows = [("name", "objective", "inner maximisation", "per image", "passes", "source")]
    for name in list_methods():
        method = get_method(name)
        kept = ", ".join(method.example_state(1, Threat())) or "-"
        count = passes(method)
        shown = f"{count.forward:g} + {count.backward:g}"
        rows.append((name, method.objective, method.inner, kept, shown, method.paper))
    legend = (
        "per image: state that persists over epochs; passes: forward + backward per image and "
        "step, counted in the middle of training"
    )
    return "\n".join([aligned(rows), *broken, legend])
