"""What an artefact still needs, the command that makes it, and what that would take.

The estimate comes from the speeds of the records at hand: seconds of a training image and of an
attacked image on the same network, whatever machine that was. Without such records it is unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.recipe import load_recipe
from bench.records import RunRecord
from bench.report.suite_runs import SuiteRuns, command, is_variant
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


def missing_of(chosen: SuiteRuns) -> Missing:
    """The trainings that are not there, of the size that is."""
    cells = [(found.study, method) for found in chosen.studies for method in found.absent]
    return Missing(suite=chosen.suite.name, size=chosen.suite.size, cells=tuple(cells))


def everything_of(suite: str) -> Missing:
    """All trainings of a suite of which none is there, in its smallest size."""
    size = sizes(suite)[-1]
    studies = load_suite(suite, size).studies
    cells = [(study, method) for study in studies for method in study.methods]
    return Missing(suite=suite, size=size, cells=tuple(cells))


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """How fast the records at hand went, by network."""

    train: Mapping[tuple[str, str], Sequence[float]]
    """By network and method: seconds of a training image, an entry a run that tells."""
    attack: Mapping[tuple[str, str], Sequence[float]]
    """By network and attack: seconds of an attacked image, an entry an evaluation."""
    n_train: Mapping[str, Mapping[str, int]]
    """By network and data variant: most training images of a run."""


def speeds(records: Iterable[RunRecord]) -> Speeds:
    """Of the trainings that ended."""
    train, attack = (defaultdict[tuple[str, str], list[float]](list) for _ in range(2))
    n_train = defaultdict[str, dict[str, int]](dict)
    for run in records:
        if run.kind != "train" or not run.train:
            continue
        arch, sizes_seen = run.arch, n_train[run.arch]
        n = int(run.spec["n_train"])
        sizes_seen[run.dataset] = max(n, sizes_seen.get(run.dataset, 0))
        image = _image_seconds(run)
        train[arch, run.method] += [image] if image else []
        for e in run.evaluations:
            if e.n_examples:
                attack[arch, e.spec.attack].append(e.seconds / e.n_examples)
    return Speeds(train=train, attack=attack, n_train=n_train)


def duration_text(missing: Missing, known_speeds: Speeds) -> str:
    """`about 12 min by the speeds on record`, or that nothing here tells."""
    seconds = [_cell_seconds(study, method, known_speeds) for study, method in missing.cells]
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds) or not known:
        return "time unknown, since no record here is of this network: --dry-run measures it"
    minutes = sum(known) / 60
    text = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
    return f"about {text if minutes >= 1 else '1 min'} by the speeds on record here"


def _cell_seconds(study: Study, method: str, known: Speeds) -> float | None:
    """Of one training with its attacks, as if no image broke; None where nothing tells."""
    sizes_seen = [
        n
        for dataset, n in known.n_train.get(study.arch, {}).items()
        if is_variant(dataset, study.dataset)
    ]
    n_train = study.train_size or (max(sizes_seen) if sizes_seen else None)
    own = known.train.get((study.arch, method))
    if own is None:
        own = [s for (arch, _), found in known.train.items() if arch == study.arch for s in found]
    if n_train is None or not own:
        return None
    recipe, _ = load_recipe(study.recipe, arch=study.arch, dataset=study.dataset, method=method)
    epochs = int(study.training.get("epochs", recipe.epochs))
    return epochs * n_train * fmean(own) + sum(_attack_seconds(study, known))


def _image_seconds(run: RunRecord) -> float:
    speed = ((run.train or {}).get("cost") or {}).get("images_per_second")
    return 1 / float(speed) if speed else 0.0


def _attack_seconds(study: Study, known: Speeds) -> Iterator[float]:
    for attack in study.attacks:
        found = known.attack.get((study.arch, attack.name))
        n = min(attack.first or study.test_size or 10_000, study.test_size or 10_000)
        yield len(attack.checkpoints) * n * (fmean(found) if found else 0.0)
