"""Made records that belong to the cells of a suite of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.experiments.study import AttackConfig, Study
from bench.experiments.suite import load_suite
from tests.report.made import evaluate
from tests.report.made_measures import trained

CLEAN = 0.95
Survives = Callable[[str, AttackConfig, float, int], float | None]
"""Of a method, an attack, its radius and a seed: about which fraction survives; None: no record."""


def falling(method: str, asked: AttackConfig, eps: float, seed: int) -> float | None:
    """Less at a larger radius, for a longer name, and for a later seed."""
    share = 0.9 - 0.8 * min(eps / 0.5, 1.0) - 0.01 * len(method) - 0.02 * seed
    return CLEAN if asked.name == "clean" else max(0.0, share - 0.01 * (asked.name == "cw"))


def nothing(method: str, asked: AttackConfig, eps: float, seed: int) -> float | None:
    """Trained and not attacked."""
    return None


def make_suite(
    results: Path,
    suite: str,
    *,
    size: str = "tiny",
    dataset: str | None = None,
    methods: Iterable[str] | None = None,
    seeds: Sequence[int] = (0,),
    survives: Survives = falling,
    images: int = 100,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """A training for each study, method and seed, attacked on at most so many images."""
    done = set()
    for asked in load_suite(suite, size).studies:
        study = replace(asked, dataset=dataset or asked.dataset)
        for method in study.methods if methods is None else methods:
            for seed in seeds:
                cell = (study.arch, study.eps, method, seed)
                if cell not in done:  # a smaller size takes one network for two
                    _make(results, study, method, seed, survives, images, provenance)
                done.add(cell)


def _make(
    results: Path,
    study: Study,
    method: str,
    seed: int,
    survives: Survives,
    images: int,
    provenance: Mapping[str, Any] | None,
) -> None:
    run = trained(
        results,
        study,
        method,
        seed=seed,
        provenance=provenance,
        card={
            "paper": "arXiv 0000.00000",
            "objective": f"CE(Z(x'), y) + beta |{method}|",
            "inner": "max CE(Z(x'), y)",
            "params": {"beta": 6.0, "steps": 10},
        },
    )
    for asked in study.attacks:
        eps = study.eps if asked.eps is None else asked.eps
        share = survives(method, asked, eps, seed)
        if share is None:
            continue
        transferred = asked.name.startswith("transfer")
        for checkpoint in asked.checkpoints:
            evaluate(
                run,
                asked.name,
                share,
                min(asked.first or images, images),
                clean=CLEAN,
                checkpoint=checkpoint,
                eps=eps,
                split=asked.split,
                params={"crafted_with": ["pgd-20", "cw"]} if transferred else None,
                after=share + 0.02 if transferred else None,
            )
