"""Which records an artefact is made of: those that its suite planned; and which it still lacks.

`bench run` writes down what belongs to a suite (bench/records/manifest.py). A data set in several
variants (cifar10, cifar10-q75), and a suite run by several recipes, is taken in the one with most
trainings.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from bench.experiments.study import OWN_DATA, Study, is_variant
from bench.experiments.suite import Suite, load_suite, sizes
from bench.records import Records, RunRecord
from bench.records.manifest import FULL, PlannedRun
from bench.report.frame import ResultsFrame, results_frame


@dataclass(frozen=True, kw_only=True)
class StudyRuns:
    """One study of a suite and its records."""

    study: Study
    runs: Mapping[str, tuple[RunRecord, ...]]
    """Method -> its trainings, one per seed, in the order of methods; absent ones left out."""


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
    def n_trainings(self) -> int:
        return sum(len(runs) for study in self.studies for runs in study.runs.values())

    @property
    def full(self) -> bool:
        """Whether this is the paper's size, on the paper's data and by the suite's recipe."""
        own = [found.study for found in self.studies]
        same_data = self.dataset in (study.dataset for study in own)
        return self.suite.size == FULL and same_data and own == list(self.suite.studies)

    @property
    def caption(self) -> str:
        """`Size tiny (digits, cnn, 4 epochs): not the paper's.` Every output says it."""
        ours = self.dataset in OWN_DATA
        archs = dict.fromkeys(study.study.arch for study in self.studies)
        epochs = dict.fromkeys(filter(None, map(_epochs, self.studies)))
        recipes = dict.fromkeys(f"recipe {study.study.recipe}" for study in self.studies)
        stated = self.suite.size == FULL and not ours
        what = ", ".join([self.dataset, *archs, *epochs, *(recipes if stated else ())])
        end = "the paper's size" if self.full else "not the paper's"
        end = "our reconstruction of the paper's data" if ours else end
        return f"Size {self.suite.size} ({what}): {end}."

    @property
    def command(self) -> str:
        """The command that makes the missing records."""
        recipe = self.studies[0].study.recipe
        other = f" --recipe {recipe}" if recipe != self.suite.studies[0].recipe else ""
        return command(self.suite.name, self.suite.size) + other


def command(suite: str, size: str) -> str:
    """Return `bench run --suite table1 --size tiny`."""
    return f"bench run --suite {suite}" + (f" --size {size}" if size != FULL else "")


def choose(records: Records, suite: str, size: str | None = None) -> SuiteRuns | None:
    """Return a suite's records in the size and data variant with the largest share of trainings.

    Of several equal ones the larger size. `size` fixes it. None without any training.
    """
    names = sizes(suite) if size is None else [size]
    found = [one for name in names for one in _variants(records, load_suite(suite, name))]

    def share(one: SuiteRuns) -> float:
        return one.n_trainings / sum(len(study.study.methods) for study in one.studies)

    return max((one for one in found if one.n_trainings), key=share, default=None)


def _variants(records: Records, suite: Suite) -> Iterator[SuiteRuns]:
    """Yield the suite's records for each variant of its data set and each recipe, its own first."""
    done = {run.run_id: run for run in records if run.kind == "train" and run.status == "done"}
    planned = [
        [done[run.run_id] for run in runs if run.run_id in done]
        for runs in _planned(records, suite.studies)
    ]
    first = suite.studies[0]
    found = {
        (run.spec["recipe_name"] != first.recipe, run.dataset, run.spec["recipe_name"])
        for runs in planned
        for run in runs
        if is_variant(run.dataset, first.dataset)
    }
    for _, variant, recipe in sorted(found):
        studies = []
        for study, runs in zip(suite.studies, planned, strict=True):
            base, own = study.dataset.partition("@")[0], (variant, recipe)
            if base != first.dataset.partition("@")[0]:
                own = (base, study.recipe)
            alike = [run for run in runs if (run.dataset, run.spec["recipe_name"]) == own]
            trainings = {m: _trainings(alike, m) for m in study.methods}
            runs_ = {method: found for method, found in trainings.items() if found}
            studies.append(StudyRuns(study=replace(study, recipe=own[1]), runs=runs_))
        yield SuiteRuns(suite=suite, dataset=variant, studies=tuple(studies))


def _planned(records: Records, studies: Iterable[Study]) -> Iterator[list[PlannedRun]]:
    """Yield each study's runs in the manifest of its own suite, which counts its own studies."""
    manifests = {(m.suite, m.size): m for m in records.manifests}
    seen: dict[str, int] = {}
    for study in studies:
        number = seen.get(study.suite, 0)
        seen[study.suite] = number + 1
        manifest = manifests.get((study.suite, study.size or FULL))
        yield [run for run in (manifest.runs if manifest else ()) if run.study == number]


def _trainings(planned: Iterable[RunRecord], method: str) -> tuple[RunRecord, ...]:
    """Return a method's trainings by seed; of several of one seed the one with most outcomes."""

    def outcomes(run: RunRecord) -> int:
        return len(run.evaluations) + len(run.measures)

    by_seed: dict[int, RunRecord] = {}
    for run in sorted(planned, key=lambda run: run.run_id):
        earlier = by_seed.get(run.seed or 0)
        if run.method == method and (earlier is None or outcomes(run) > outcomes(earlier)):
            by_seed[run.seed or 0] = run
    return tuple(by_seed[seed] for seed in sorted(by_seed))


def _epochs(study: StudyRuns) -> str:
    counts = {int(run.spec["recipe"]["epochs"]) for runs in study.runs.values() for run in runs}
    return f"{min(counts)} epochs" if counts else ""


def command_for_missing(suite: str, chosen: SuiteRuns | None) -> str:
    """Return what makes the missing records; without any training those of the smallest size."""
    return chosen.command if chosen else command(suite, sizes(suite)[-1])
