"""`bench run --against`: the rivals are cells like any other, and at the end come the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from bench.errors import BenchError, ConfigError
from bench.plan import Plan
from bench.records import load_records
from bench.registry import method_name
from bench.report.comparison import compare, corrected
from bench.report.verdict import sentence
from bench.study import Study


def with_rivals(study: Study, against: Sequence[str]) -> Study:
    """The study with the methods of `against`, each method once, however it is named.

    Raises ConfigError where that leaves nothing to compare.
    """
    if against and not _pairs(study.methods, against):
        raise ConfigError(f"--against {','.join(against)}: name another method than --methods does")
    by_name = {method_name(name): name for name in reversed((*study.methods, *against))}
    return replace(study, methods=tuple(reversed(by_name.values())))


def verdicts(plan: Plan, results: Path, methods: Sequence[str], against: Sequence[str]) -> str:
    """A sentence for each of `methods` beside each of `against`, corrected over all of them.

    On the runs of the plan alone, whatever else the folder holds.
    """
    ids = {cell.spec.run_id for cell in plan.cells}
    runs = [run for run in load_records(results) if run.run_id in ids]
    compared, missing = [], []
    for first, second in _pairs(methods, against):
        try:
            compared.append(compare(runs, first, second))
        except BenchError as error:
            missing.append(f"{first} and {second} were not compared: {error}")
    return "\n".join([*(sentence(pair) for pair in corrected(compared)), *missing])


def _pairs(methods: Sequence[str], against: Sequence[str]) -> list[tuple[str, str]]:
    """Registered names; two methods once, also where each is on both sides."""
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for first, second in product(map(method_name, methods), map(method_name, against)):
        if first != second:
            pairs.setdefault(frozenset((first, second)), (first, second))
    return list(pairs.values())
