"""The trainings that an artefact still needs, the command that makes them, and how long it takes.

The estimate is from the records at hand: seconds per training image and per attacked image on the
same network, whatever machine that was. Without such records it is unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

from bench.recipe import load_recipe
from bench.records import RunRecord
from bench.report.suite_runs import SuiteRuns, command
from bench.study import Study, is_variant
from bench.suite import load_suite, sizes


@dataclass(frozen=True, kw_only=True)
class MissingTrainings:
    """The trainings that a suite lacks in one size."""

    command: str
    """What makes them."""
    trainings: tuple[tuple[Study, str], ...]
    """A study and a method of it."""


def missing_trainings(suite: str, chosen: SuiteRuns | None) -> MissingTrainings:
    """Return what is missing of the chosen size; without any training all of the smallest size."""
    if chosen is not None:
        absent = [(found.study, method) for found in chosen.studies for method in found.absent]
        return MissingTrainings(command=chosen.command, trainings=tuple(absent))
    size = sizes(suite)[-1]
    studies = load_suite(suite, size).studies
    everything = [(study, method) for study in studies for method in study.methods]
    return MissingTrainings(command=command(suite, size), trainings=tuple(everything))


@dataclass(frozen=True)
class RecordedSpeeds:
    """How fast the runs on record went, by network."""

    train: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By network and method: seconds per training image, an entry per run."""
    attack: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By network and attack: seconds per attacked image, an entry per evaluation."""
    n_train: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """By network and data variant: most training images of a run."""


def recorded_speeds(records: Iterable[RunRecord]) -> RecordedSpeeds:
    """Return the speeds of the trainings that ended, and of their evaluations."""
    found = RecordedSpeeds()
    for run in records:
        if run.kind != "train" or not run.train:
            continue
        counts = found.n_train[run.arch]
        counts[run.dataset] = max(int(run.spec["n_train"]), counts.get(run.dataset, 0))
        speed = (run.train.get("cost") or {}).get("images_per_second")
        found.train[run.arch, run.method] += [1 / float(speed)] if speed else []
        for e in run.evaluations:
            if e.n_examples:
                found.attack[run.arch, e.spec.attack].append(e.seconds / e.n_examples)
    return found


def duration_text(missing: MissingTrainings, speeds: RecordedSpeeds) -> str:
    """Return `about 12 min by the speeds on record here`, or that nothing here tells."""
    seconds = [_seconds(study, method, speeds) for study, method in missing.trainings]
    if None in seconds or not seconds:
        return "time unknown, since no record here is of this network: --dry-run measures it"
    minutes = sum(filter(None, seconds)) / 60
    text = f"{max(minutes, 1):.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
    return f"about {text} by the speeds on record here"


def _seconds(study: Study, method: str, speeds: RecordedSpeeds) -> float | None:
    """Return the time of one training with its attacks, as if no image broke; None if unknown."""
    counts = speeds.n_train.get(study.arch, {}).items()
    seen = [n for dataset, n in counts if is_variant(dataset, study.dataset)]
    n_train = study.train_size or max(seen, default=None)
    any_method = [s for (arch, _), own in speeds.train.items() if arch == study.arch for s in own]
    own = speeds.train.get((study.arch, method), any_method)
    if n_train is None or not own:
        return None
    recipe, _ = load_recipe(study.recipe, arch=study.arch, dataset=study.dataset, method=method)
    seconds = int(study.training.get("epochs", recipe.epochs)) * n_train * fmean(own)
    for attack in study.attacks:
        recorded = speeds.attack.get((study.arch, attack.name), [0.0])
        n = min(attack.first or study.test_size or 10_000, study.test_size or 10_000)
        seconds += len(attack.checkpoints) * n * fmean(recorded)
    return seconds
