"""Manifests of made records: a training is in those of all suites that would train it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bench.folder import RunFolder
from bench.manifest import Manifest, PlannedRun, add_to_manifests
from bench.study import Study, is_variant
from bench.suite import list_suites, load_suite, sizes


def add_to_suites(results: Path, study: Study, run: RunFolder, method: str, seed: int) -> None:
    """Add a training of a study, whose data set may be a variant of the suite's."""
    cell = (study.arch, study.eps, study.recipe, dict(study.training), study.train_size)
    add_to_manifests(
        results,
        [
            Manifest(
                suite=other.suite,
                size=size,
                runs=(
                    PlannedRun(
                        study=number,
                        dataset=study.dataset,
                        method=method,
                        seed=seed,
                        arch=study.arch,
                        eps=study.eps,
                        run_id=run.path.name,
                    ),
                ),
            )
            for number, size, other in _studies()
            if method in other.methods
            and is_variant(study.dataset, other.dataset)
            and cell
            == (other.arch, other.eps, other.recipe, dict(other.training), other.train_size)
        ],
    )


@cache
def _studies() -> tuple[tuple[int, str, Study], ...]:
    """Return (position, size, study) of every suite's own studies."""
    return tuple(_own_studies())


def _own_studies() -> Iterator[tuple[int, str, Study]]:
    for name, _ in list_suites():
        for size in sizes(name):
            own = (study for study in load_suite(name, size).studies if study.suite == name)
            yield from ((number, size, study) for number, study in enumerate(own))
