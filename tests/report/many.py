"""A results folder of as many runs as a group that shares one has after months."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

from tests.report.made import evaluate, train_run

SETTINGS = (
    ("cifar10", "wrn-34-10"),
    ("cifar10", "resnet-18"),
    ("cifar100", "resnet-18"),
    ("digits", "cnn"),
)
METHODS = ("natural", "madry", "trades", "mart", "iaat", "mma", "cat-ce", "cat-mix", "ikl", "mine")


def make_many(
    results: Path,
    n_runs: int,
    *,
    attacks: Sequence[str] = ("pgd-20",),
    variants: int = 1,
    images: int = 256,
) -> None:
    """`n_runs` trainings with an evaluation of each attack, shared out to settings and methods.

    `variants`: values of a parameter of each method, every one of which is a row of its own. The
    rest of the runs are seeds.
    """
    for place, ((dataset, arch), method, beta, seed) in enumerate(_cells(n_runs, variants)):
        run = train_run(
            results,
            method,
            seed=seed,
            params={"beta": float(beta + 1)},
            dataset=dataset,
            arch=arch,
            epochs=110,
        )
        for attack in attacks:
            evaluate(run, attack, 0.3 + place * 7919 % 397 / 1000, images, clean=0.9)
        run.merge()


def _cells(n_runs: int, variants: int) -> Iterator[Any]:
    n_seeds = 1 + n_runs // (len(SETTINGS) * len(METHODS) * variants)
    cells = product(range(n_seeds), SETTINGS, METHODS, range(variants))
    for seed, setting, method, beta in islice(cells, n_runs):
        yield setting, method, beta, seed
