"""Made records on which a claim of the CAT paper can be supported: trained, three seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.experiments.study import Study
from bench.papers.cat.claim_evidence import BASELINES
from bench.papers.cat.claims import CLAIMS, AssessedClaim, assess_claim
from bench.papers.cat.stated import CAT
from bench.records import load_records
from bench.records.run_folder import RunFolder
from bench.report.suite_runs import choose
from tests.report.made_measures import attacked, first, scored, study_of, trained

N = 512
"""Images: enough for 5 points where one in twenty differs."""
SEEDS = (0, 1, 2)
EPOCHS = 10
OWN_RADIUS = (*CAT, "adp-adv")
"""Methods whose radius grows per image."""
ALARM = {"name": "C8: scale", "value": 0.9, "threshold": 0.01}


def team(
    folder: Path,
    study: Study,
    methods: Iterable[str],
    *,
    seeds: Sequence[int] = SEEDS,
    robust: Sequence[float] = (0.5,) * EPOCHS,
    radii: Sequence[float] | None = None,
    passes: float = 11.0,
) -> dict[tuple[str, int], RunFolder]:
    """Finished trainings, by method and seed; `radii`: of all images by epoch, in units of eps."""
    made = {}
    for method in methods:
        for seed in seeds:
            run = made[method, seed] = trained(
                folder, study, method, seed=seed, passes=(passes, passes)
            )
            shares = radii or (1.0,) * len(robust)
            own = [[r * study.eps] * 7 for r in shares] if method in OWN_RADIUS else None
            scored(run, robust, own)
    return made


def accuracies(
    folder: Path,
    study: Study,
    attack: str,
    kept: Mapping[str, int | Sequence[int]],
    *,
    n: int = N,
    clean: Mapping[str, int] | None = None,
    eps: float | None = None,
    runs: Mapping[tuple[str, int], RunFolder] | None = None,
    checkpoint: str = "best",
    **others: Any,
) -> dict[tuple[str, int], RunFolder]:
    """Each method keeps its first images under the attack, by seed where it has several numbers."""
    runs = runs or team(folder, study, kept, **others)
    for (method, seed), run in runs.items():
        if method in kept:
            k = kept[method]
            right = first(n, (clean or {}).get(method, n))
            survived = first(n, k if isinstance(k, int) else k[seed])
            at = study.eps if eps is None else eps
            attacked(run, attack, survived & right, eps=at, clean=right, checkpoint=checkpoint)
    return dict(runs)


def table3(
    folder: Path, kept: Mapping[str, int | Sequence[int]], attack: str = "pgd-20", **others: Any
) -> dict[tuple[str, int], RunFolder]:
    """Table 3 at the paper's size, or at `size`."""
    return accuracies(
        folder, study_of("table3", size=others.pop("size", "full")), attack, kept, **others
    )


def everyone(
    cat: int, other: int, **changed: int | Sequence[int]
) -> dict[str, int | Sequence[int]]:
    return {**dict.fromkeys(BASELINES, other), **dict.fromkeys(CAT, cat), **changed}


def claim(folder: Path, key: str) -> AssessedClaim:
    (one,) = (one for one in CLAIMS if one.key == key)
    suite = choose(load_records(folder), one.suite)
    assert suite is not None
    return assess_claim(one, suite)


def values(found: AssessedClaim, *, decides: bool = True) -> list[float]:
    return [e.value for e in found.evidence if e.decides is decides]


def surface(low: float, high: float, n: int, at_x: float = -1.0) -> np.ndarray:
    """(n, 3, 3)."""
    z = np.full((n, 3, 3), at_x)
    z[:, 0, 0], z[:, 2, 2] = low, high
    return z
