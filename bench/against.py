"""Run `bench run --against`: train baselines with the methods, then compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from bench.errors import BenchError, ConfigError
from bench.plan import Plan
from bench.records import load_records
from bench.registry import method_name
from bench.report.compare import compare, corrected, sentence
from bench.study import Study


def with_baselines(study: Study, against: Sequence[str]) -> Study:
    """Add the methods of `against` to the study, each once, however it is named.

    Raises ConfigError if that leaves nothing to compare.
    """
    if against and not _pairs(study.methods, against):
        raise ConfigError(f"--against {','.join(against)}: name another method than --methods does")
    by_name = {method_name(name): name for name in reversed((*study.methods, *against))}
    return replace(study, methods=tuple(reversed(by_name.values())))


def verdicts(plan: Plan, results: Path, methods: Sequence[str], against: Sequence[str]) -> str:
    """Compare each of `methods` with each of `against`, one line per pair, corrected for all.

    Only runs of the plan are compared, whatever else the folder holds.
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
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for first, second in product(map(method_name, methods), map(method_name, against)):
        if first != second:
            pairs.setdefault(frozenset((first, second)), (first, second))
    return list(pairs.values())
