"""Manifests of made records: which suites a training belongs to, as `bench run` writes it down."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from bench.folder import RunFolder
from bench.manifest import Manifest, PlannedRun, add_to_manifests
from bench.study import Study, is_variant
from bench.suite import list_suites, load_suite, sizes


@cache
def _own_studies() -> list[tuple[str, str, int, Study]]:
    """Return suite, size and place of every study in its own suite."""
    return [
        (suite, size, number, study)
        for suite, _ in list_suites()
        for size in sizes(suite)
        for number, study in enumerate(
            own for own in load_suite(suite, size).studies if own.suite == suite
        )
    ]


def planned(results: Path, study: Study, run: RunFolder, method: str, seed: int = 0) -> RunFolder:
    """Enter a training into the manifest of every suite that would train it; return it."""

    def key(one: Study) -> object:
        return one.arch, one.eps, one.recipe, one.train_size, dict(one.training)

    add_to_manifests(
        results,
        [
            Manifest(
                suite=suite,
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
            for suite, size, number, other in _own_studies()
            if key(other) == key(study)
            and method in other.methods
            and is_variant(study.dataset, other.dataset)
        ],
    )
    return run
