"""Which records an artefact is made of: the cells of its suite, in the largest size that is there.

A run belongs to a cell if its method, network, data, radius, recipe and number of images are the
study's. A data set in several variants (cifar10, cifar10-q75) is taken in the one with most cells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

from bench.recipe import Recipe, load_recipe
from bench.records import RunRecord
from bench.report.frame import ResultsFrame, results_frame
from bench.report.groups import only_serves, same_eps
from bench.study import Study
from bench.suite import FULL, Suite, load_suite, sizes

_Cells = Mapping[tuple[str, str, str, str], Sequence[RunRecord]]
"""Finished trainings by method, data variant, network and recipe."""
_DATA_S_OWN = ("pad", "flip", "eps")
"""Values of a recipe that a training takes from its data set or study."""


@dataclass(frozen=True, kw_only=True)
class StudyRuns:
    """One study of a suite and its records."""

    study: Study
    runs: Mapping[str, tuple[RunRecord, ...]]
    """Method -> its trainings, one a seed, in the order of methods; absent ones left out."""

    @property
    def absent(self) -> list[str]:
        """Methods of the study without a finished training."""
        return [method for method in self.study.methods if method not in self.runs]


@dataclass(frozen=True, kw_only=True)
class SuiteRuns:
    """A suite in one size, and the records that belong to it."""

    suite: Suite
    dataset: str
    """The data variant of the records; of the first study, where they differ."""
    studies: tuple[StudyRuns, ...]

    @cached_property
    def frame(self) -> ResultsFrame:
        """Every evaluation of its runs."""
        runs = (run for study in self.studies for found in study.runs.values() for run in found)
        return results_frame({run.run_id: run for run in runs}.values())

    @property
    def n_cells(self) -> int:
        """Trainings that are there."""
        return sum(len(runs) for study in self.studies for runs in study.runs.values())

    @property
    def full(self) -> bool:
        """Whether this is the paper's size, on the paper's data."""
        return self.suite.size == FULL and self.dataset in (
            study.study.dataset for study in self.studies
        )

    @property
    def caption(self) -> str:
        """`Size tiny (digits, cnn, 4 epochs): not the paper's.` Stands on every output.

        Of the full size it names the recipe too, which is not the paper's unless it says so.
        """
        archs = dict.fromkeys(study.study.arch for study in self.studies)
        epochs = dict.fromkeys(_epochs(study) for study in self.studies)
        what = ", ".join([self.dataset, *archs, *filter(None, epochs)])
        recipes = ", ".join(dict.fromkeys(study.study.recipe for study in self.studies))
        end = f"the paper's size, by recipe {recipes}" if self.full else "not the paper's"
        return f"Size {self.suite.size} ({what}): {end}."

    @property
    def command(self) -> str:
        """What makes the missing records."""
        return command(self.suite.name, self.suite.size)


def command(suite: str, size: str) -> str:
    """`bench run --suite table1 --size tiny`."""
    return f"bench run --suite {suite}" + (f" --size {size}" if size != FULL else "")


def choose(records: Iterable[RunRecord], suite: str, size: str | None = None) -> SuiteRuns | None:
    """The size, or the given one, and data variant of which most cells are there.

    The larger size of several equal ones. None where no training of the suite is there.
    """
    cells = _cells(records)
    best: SuiteRuns | None = None
    for name in sizes(suite) if size is None else [size]:
        loaded = load_suite(suite, name)
        for variant in _variants(loaded, cells):
            found = _chosen(loaded, variant, cells)
            if found.n_cells and (best is None or _share(found) > _share(best)):
                best = found
    return best


def _cells(records: Iterable[RunRecord]) -> _Cells:
    cells = defaultdict(list)
    for run in records:
        if run.kind == "train" and run.status == "done":
            recipe = str(run.spec.get("recipe_name"))
            cells[run.method, run.dataset, run.arch, recipe].append(run)
    return cells


def _share(chosen: SuiteRuns) -> float:
    return chosen.n_cells / sum(len(study.study.methods) for study in chosen.studies)


def _variants(suite: Suite, cells: _Cells) -> list[str]:
    """Data variants of the suite's first data set that are on record, the plain one first."""
    dataset = suite.studies[0].dataset
    return sorted({label for _, label, _, _ in cells if is_variant(label, dataset)})


def is_variant(label: str, dataset: str) -> bool:
    """Whether the label names the data set: cifar10 and cifar10-q75 do, cifar100 does not."""
    base = _base(dataset)
    return label == base or label.startswith(f"{base}-")


def _base(dataset: str) -> str:
    return dataset.partition("@")[0]


def _chosen(suite: Suite, variant: str, cells: _Cells) -> SuiteRuns:
    first = _base(suite.studies[0].dataset)
    studies = []
    for study in suite.studies:
        data = variant if _base(study.dataset) == first else _base(study.dataset)
        found = {method: _cell(study, method, data, cells) for method in study.methods}
        studies.append(StudyRuns(study=study, runs={m: r for m, r in found.items() if r}))
    return SuiteRuns(suite=suite, dataset=variant, studies=tuple(studies))


def _cell(study: Study, method: str, dataset: str, cells: _Cells) -> tuple[RunRecord, ...]:
    """The trainings of a method, by seed; of several of one seed the one with most outcomes."""
    alike = cells.get((method, dataset, study.arch, study.recipe))
    if not alike:
        return ()
    recipe, _ = load_recipe(study.recipe, arch=study.arch, dataset=study.dataset, method=method)
    wanted = recipe.replaced(study.training, study.suite)
    by_seed: dict[int, RunRecord] = {}
    for run in alike:
        if _belongs(run, study, wanted):
            seed = run.seed or 0
            earlier = by_seed.get(seed)
            if earlier is None or _outcomes(run) > _outcomes(earlier):
                by_seed[seed] = run
    return tuple(by_seed[seed] for seed in sorted(by_seed))


def _belongs(run: RunRecord, study: Study, wanted: Recipe) -> bool:
    """Whether a training with the method, data, network and recipe of the study is its own."""
    spec = run.spec
    n_train = int(spec["n_train"]) + int(spec["n_val"])
    return (
        same_eps(float(spec.get("study_eps") or spec["eps"]), study.eps)
        and study.train_size in (None, n_train)
        and not only_serves(run)
        and spec.get("precision", "fp32") == "fp32"
        and not _changed(run, study)
        and all(
            _plain(spec["recipe"].get(f.name)) == _plain(getattr(wanted, f.name))
            for f in fields(wanted)
            if f.name not in _DATA_S_OWN and f.name in spec["recipe"]
        )
    )


def _changed(run: RunRecord, study: Study) -> bool:
    """Whether its command says that it was no training of the whole suite's kind."""
    words = str(run.provenance.get("command", "")).replace("=", " ").split()
    return "--param" in words or (study.train_size is None and "--train-size" in words)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _outcomes(run: RunRecord) -> int:
    return len(run.evaluations) + len(run.measures)


def _epochs(study: StudyRuns) -> str:
    counts = {int(run.spec["recipe"]["epochs"]) for runs in study.runs.values() for run in runs}
    return f"{min(counts)} epochs" if counts else ""
