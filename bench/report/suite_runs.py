"""Which records a table or figure is made of: those that its suite planned, in the fullest size.

`bench run` writes down what belongs to a suite (bench/manifest.py). A data set in several variants
(cifar10, cifar10-q75) is taken in the one with most trainings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from bench.manifest import PlannedRun
from bench.records import Records, RunRecord
from bench.report.frame import ResultsFrame, results_frame
from bench.study import Study, is_variant
from bench.suite import FULL, Suite, load_suite, sizes


@dataclass(frozen=True, kw_only=True)
class StudyRuns:
    """One study of a suite and its records."""

    study: Study
    runs: Mapping[str, tuple[RunRecord, ...]]
    """Method -> its trainings, one per seed, in the order of methods; absent ones left out."""

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
    def n_trainings(self) -> int:
        return sum(len(runs) for study in self.studies for runs in study.runs.values())

    @property
    def full(self) -> bool:
        """Whether this is the paper's size, on the paper's data."""
        return self.suite.size == FULL and self.dataset in (
            study.study.dataset for study in self.studies
        )

    @property
    def caption(self) -> str:
        """`Size tiny (digits, cnn, 4 epochs): not the paper's.` Every output says it.

        Of the full size it names the recipe too, which is not the paper's unless it says so.
        """
        archs = dict.fromkeys(study.study.arch for study in self.studies)
        epochs = dict.fromkeys(filter(None, map(_epochs, self.studies)))
        what = ", ".join([self.dataset, *archs, *epochs])
        recipes = ", ".join(dict.fromkeys(study.study.recipe for study in self.studies))
        end = f"the paper's size, by recipe {recipes}" if self.full else "not the paper's"
        return f"Size {self.suite.size} ({what}): {end}."

    @property
    def command(self) -> str:
        """The command that makes the missing records."""
        return command(self.suite.name, self.suite.size)


def command(suite: str, size: str) -> str:
    """Return `bench run --suite table1 --size tiny`."""
    return f"bench run --suite {suite}" + (f" --size {size}" if size != FULL else "")


def choose(records: Records, suite: str, size: str | None = None) -> SuiteRuns | None:
    """Return a suite's records in the size and data variant with the largest share of trainings.

    Of several equal ones the larger size. `size` fixes it. None without any training.
    """
    best: SuiteRuns | None = None
    for name in sizes(suite) if size is None else [size]:
        for found in _variants(records, load_suite(suite, name)):
            if found.n_trainings and (best is None or _share(found) > _share(best)):
                best = found
    return best


def _share(chosen: SuiteRuns) -> float:
    return chosen.n_trainings / sum(len(study.study.methods) for study in chosen.studies)


def _variants(records: Records, suite: Suite) -> Iterator[SuiteRuns]:
    """Yield the suite's records in every variant of its first study's data set."""
    done = {run.run_id: run for run in records if run.kind == "train" and run.status == "done"}
    planned = [
        [run for run in runs if run.run_id in done] for runs in _planned(records, suite.studies)
    ]
    first = suite.studies[0].dataset
    labels = {run.dataset for runs in planned for run in runs if is_variant(run.dataset, first)}
    for variant in sorted(labels):
        studies = []
        for study, runs in zip(suite.studies, planned, strict=True):
            base = study.dataset.partition("@")[0]
            data = variant if base == first.partition("@")[0] else base
            own = [run for run in runs if run.dataset == data]
            trainings = {m: _trainings(own, m, done) for m in study.methods}
            runs_ = {method: found for method, found in trainings.items() if found}
            studies.append(StudyRuns(study=study, runs=runs_))
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


def _trainings(
    planned: Iterable[PlannedRun], method: str, done: Mapping[str, RunRecord]
) -> tuple[RunRecord, ...]:
    """Return a method's trainings by seed; of several of one seed the one with most outcomes."""
    by_seed: dict[int, RunRecord] = {}
    for run_id in sorted({run.run_id for run in planned if run.method == method}):
        run = done[run_id]
        earlier = by_seed.get(run.seed or 0)
        if earlier is None or _outcomes(run) > _outcomes(earlier):
            by_seed[run.seed or 0] = run
    return tuple(by_seed[seed] for seed in sorted(by_seed))


def _outcomes(run: RunRecord) -> int:
    return len(run.evaluations) + len(run.measures)


def _epochs(study: StudyRuns) -> str:
    counts = {int(run.spec["recipe"]["epochs"]) for runs in study.runs.values() for run in runs}
    return f"{min(counts)} epochs" if counts else ""
