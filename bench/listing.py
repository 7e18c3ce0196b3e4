"""What `bench list` prints: each registry as aligned lines."""

from __future__ import annotations

from collections.abc import Sequence


def listing(kind: str) -> str:
    """The names of one registry, each with a line on what it is."""
    return {
        "methods": _methods,
        "archs": _archs,
        "datasets": _datasets,
        "attacks": _attacks,
        "suites": _suites,
        "recipes": _recipes,
    }[kind]()


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _methods() -> str:
    from bench.registry import broken_methods, list_methods, method_class

    rows = [("name", "objective", "inner maximisation", "source")]
    for name in list_methods():
        cls = method_class(name)
        rows.append((name, cls.objective, cls.inner, cls.paper))
    broken = [f"broken: {module}: {why}" for module, why in broken_methods().items()]
    return "\n".join([aligned(rows), *broken])


def _archs() -> str:
    from bench.archs import describe, list_archs

    return aligned([(name, describe(name)) for name in list_archs()])


def _datasets() -> str:
    from bench.data import list_datasets

    return aligned(list_datasets())


def _attacks() -> str:
    from bench.attacks import describe_attack, list_attacks

    return aligned([(name, describe_attack(name)) for name in list_attacks()])


def _suites() -> str:
    from bench.study import list_suites

    return aligned(list_suites())


def _recipes() -> str:
    from bench.recipe import list_recipes

    return "\n".join(list_recipes())
