"""Made records of a suite in its tiny size, with histories, measures and parts of AutoAttack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.experiments.recipe import changed_recipe, load_recipe
from bench.experiments.study import Study, is_variant
from bench.experiments.suite import list_suites, load_suite, sizes
from bench.records import QUANTILES, Chunk
from bench.records.manifest import Manifest, PlannedRun, add_to_manifests
from bench.records.measure import Measured
from bench.records.run_folder import RunFolder
from bench.records.spec import EvalSpec, MeasureSpec
from tests.report.made import PARTS, train_run
from tests.stored import store_chunk, store_measure


def study_of(suite: str, number: int = 0, size: str = "tiny") -> Study:
    """One study of a suite of the package."""
    return load_suite(suite, size).studies[number]


def trained(results: Path, study: Study, method: str, *, seed: int = 0, **others: Any) -> RunFolder:
    """A finished training that belongs to the study; `others` as of `train_run`."""
    recipe, _ = load_recipe(study.recipe, arch=study.arch, dataset=study.dataset, method=method)
    values = changed_recipe(recipe, study.training, "a test")
    run = train_run(
        results,
        method,
        seed=seed,
        dataset=study.dataset,
        arch=study.arch,
        recipe=study.recipe,
        eps=study.eps,
        epochs=values.epochs,
        values=values,
        **others,
    )
    if (others.get("provenance") or {}).get("role") != "surrogate":
        add_to_suites(results, study, run, method, seed)
    return run


def add_to_suites(results: Path, study: Study, run: RunFolder, method: str, seed: int) -> None:
    """Add a training to the manifests of all suites that would train it.

    The data set of the study may be a variant of the suite's, its recipe another one.
    """
    cell = (study.arch, study.eps, dict(study.training), study.train_size)
    manifests = []
    for number, size, other in _studies():
        own = (other.arch, other.eps, dict(other.training), other.train_size)
        if method in other.methods and is_variant(study.dataset, other.dataset) and cell == own:
            planned = PlannedRun(
                study=number,
                dataset=study.dataset,
                method=method,
                seed=seed,
                arch=study.arch,
                eps=study.eps,
                run_id=run.path.name,
            )
            manifests.append(Manifest(suite=other.suite, size=size, runs=(planned,)))
    add_to_manifests(results, manifests)


@cache
def _studies() -> list[tuple[int, str, Study]]:
    """Return (position, size, study) of every suite's own studies."""
    found = []
    for name, _ in list_suites():
        for size in sizes(name):
            own = (study for study in load_suite(name, size).studies if study.suite == name)
            found += [(number, size, study) for number, study in enumerate(own)]
    return found


def scored(
    run: RunFolder, robust: Sequence[float], radii: Sequence[Sequence[float]] | None = None
) -> None:
    """A history: robust accuracy of 100 validation images, and a `radius` at QUANTILES."""
    rows = []
    for epoch, value in enumerate(robust):
        row: dict[str, Any] = {"epoch": epoch, "val_clean": 0.9, "val_robust": value, "n_val": 100}
        if radii is not None:
            assert len(radii[epoch]) == len(QUANTILES)
            row |= {"radius_quantiles": list(radii[epoch]), "radius_mean": radii[epoch][3]}
        rows.append(row)
    run.write_history(rows)


def measured(
    run: RunFolder,
    study: Study,
    name: str,
    values: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray] | None = None,
    *,
    n: int = 100,
    checkpoint: str = "best",
    split: str = "test",
    params: Mapping[str, Any] | None = None,
) -> Path:
    """A measure with the parameters that the study asks for, unless others are given."""
    asked = next((a.params for a in study.measures if name in a.names), {})
    spec = MeasureSpec(
        checkpoint=checkpoint,
        name=name,
        params=dict(asked if params is None else params),
        eps=study.eps,
        split=split,
        n_examples=n,
        data_sha256="d" * 64,
    )
    store_measure(run, spec, Measured(values=values, arrays=arrays or {}))
    return run.measure(spec)


def checked(run: RunFolder, study: Study, *, alarm: bool = False) -> None:
    """Check C1 of the best checkpoint, with the images that it looked at."""
    figure = {"what": "black-box below white-box", "value": float(alarm), "threshold": 0.002}
    found = {"name": "C1: black-box below white-box", "value": float(alarm), "threshold": 0.002}
    detail = {"figures": [figure | {"n": 30}]}
    measured(run, study, "C1", {**found, "source": "made", "detail": detail}, n=32)


def autoattacked(run: RunFolder, study: Study, n: int, broken: Sequence[int]) -> None:
    """AutoAttack on n images, all right without it: how many each of its parts breaks."""
    by = np.full(n, -1, np.int8)
    by[: sum(broken)] = np.repeat(np.arange(len(broken)), broken)
    attacked(run, "autoattack", by < 0, eps=study.eps, broken_by=by, parts=PARTS)


def attacked(
    folder: RunFolder,
    attack: str,
    survived: Sequence[bool] | np.ndarray,
    *,
    eps: float,
    clean: Sequence[bool] | np.ndarray | None = None,
    checkpoint: str = "best",
    split: str = "test",
    sources: Sequence[str] = (),
    after: Sequence[bool] | np.ndarray | None = None,
    broken_by: np.ndarray | None = None,
    parts: Sequence[str] = (),
) -> None:
    """One evaluation, an entry per image; without `clean` all are right without an attack."""
    kept = np.asarray(survived, bool)
    correct = np.ones(len(kept), bool) if clean is None else np.asarray(clean, bool)
    assert (correct | ~kept).all(), "an image that survives is correct without the attack"
    by = np.where(correct & ~kept, 0, -1).astype(np.int8) if broken_by is None else broken_by
    spec = EvalSpec(
        checkpoint=checkpoint,
        attack=attack,
        params={"sources": list(sources)} if sources else {},
        eps=eps,
        split=split,
        n_examples=len(kept),
        data_sha256="d" * 64,
    )
    out = folder.evaluation(spec)
    for number, places in enumerate(spec.chunks()):
        index = np.array(places)
        chunk = Chunk(
            index=index,
            clean=correct[index],
            survived=kept[index],
            broken_by=by[index],
            parts=tuple(parts or (attack,)),
            seconds=1.0,
            after=None if after is None else np.asarray(after, bool)[index],
        )
        store_chunk(out, number, chunk)


def first(n: int, k: int) -> np.ndarray:
    """(n,) bool: the first k."""
    return np.arange(n) < k
