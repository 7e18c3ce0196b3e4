"""What an artefact still needs, the command that makes it, and what that would take.

The estimate comes from the speeds of the records at hand: seconds of a training image and of an
attacked image on the same network, whatever machine that was. Without such records it is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.recipe import load_recipe
from bench.records import RunRecord
from bench.report.chosen import Chosen, command, is_variant
from bench.study import Study
from bench.suite import load_suite, sizes


@dataclass(frozen=True, kw_only=True)
class Missing:
    """The trainings that a suite lacks in one size."""

    suite: str
    size: str
    cells: tuple[tuple[Study, str], ...]
    """A study and a method of it."""

    @property
    def command(self) -> str:
        """What makes them."""
        return command(self.suite, self.size)


def missing_of(chosen: Chosen) -> Missing:
    """The trainings that are not there, of the size that is."""
    cells = [(found.study, method) for found in chosen.studies for method in found.absent]
    return Missing(suite=chosen.suite.name, size=chosen.suite.size, cells=tuple(cells))


def everything_of(suite: str) -> Missing:
    """All trainings of a suite of which none is there, in its smallest size."""
    size = sizes(suite)[-1]
    studies = load_suite(suite, size).studies
    cells = [(study, method) for study in studies for method in study.methods]
    return Missing(suite=suite, size=size, cells=tuple(cells))


def duration_text(missing: Missing, records: Iterable[RunRecord]) -> str:
    """`about 12 min by the speeds on record`, or that nothing here tells."""
    runs = [run for run in records if run.kind == "train" and run.train]
    seconds = [_cell_seconds(study, method, runs) for study, method in missing.cells]
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds) or not known:
        return "time unknown, since no record here is of this network: --dry-run measures it"
    minutes = sum(known) / 60
    text = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
    return f"about {text if minutes >= 1 else '1 min'} by the speeds on record here"


def _cell_seconds(study: Study, method: str, runs: Sequence[RunRecord]) -> float | None:
    """Of one training with its attacks, as if no image broke; None where nothing tells."""
    alike = [run for run in runs if run.arch == study.arch]
    sizes_seen = [
        int(run.spec["n_train"]) for run in alike if is_variant(run.dataset, study.dataset)
    ]
    n_train = study.train_size or (max(sizes_seen) if sizes_seen else None)
    own = [run for run in alike if run.method == method] or alike
    speeds = [s for run in own if (s := _image_seconds(run))]
    if n_train is None or not speeds:
        return None
    recipe, _ = load_recipe(study.recipe, arch=study.arch, dataset=study.dataset, method=method)
    epochs = int(study.training.get("epochs", recipe.epochs))
    return epochs * n_train * fmean(speeds) + sum(_attack_seconds(study, alike))


def _image_seconds(run: RunRecord) -> float:
    speed = ((run.train or {}).get("cost") or {}).get("images_per_second")
    return 1 / float(speed) if speed else 0.0


def _attack_seconds(study: Study, runs: Sequence[RunRecord]) -> Iterator[float]:
    for attack in study.attacks:
        found = [
            e.seconds / e.n_examples
            for run in runs
            for e in run.evaluations
            if e.spec.attack == attack.name and e.n_examples
        ]
        n = min(attack.first or study.test_size or 10_000, study.test_size or 10_000)
        yield len(attack.checkpoints) * n * (fmean(found) if found else 0.0)
