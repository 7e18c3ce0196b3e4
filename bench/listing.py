"""The text of `bench list`: each registry as a plain table."""

from collections.abc import Callable, Sequence

from tabulate import tabulate


def aligned(rows: Sequence[Sequence[str]]) -> str:
    return str(tabulate(rows, tablefmt="plain", disable_numparse=True))


def listing(kind: str) -> str:
    if kind == "methods":
        return _methods()
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
    return aligned(rows[kind]())


def _methods() -> str:
    from bench.registry import broken_methods, get_method, list_methods
    from bench.threat import Threat
    from bench.training.cost import passes

    rows = [("name", "objective", "inner maximisation", "per image", "passes", "source")]
    for name in list_methods():
        method = get_method(name)
        kept = ", ".join(method.example_state(1, Threat())) or "-"
        count = passes(method)
        shown = f"{count.forward:g} + {count.backward:g}"
        rows.append((name, method.objective, method.inner, kept, shown, method.paper))
    broken = [f"broken: {module}: {why}" for module, why in broken_methods().items()]
    legend = (
        "per image: state that persists over epochs; passes: forward + backward per image and "
        "step, counted in the middle of training"
    )
    return "\n".join([aligned(rows), *broken, legend])
