"""The studies of a suite as numbers: accuracies, measures, and in words what is missing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.experiments.study import AttackConfig, MeasureConfig, Study
from bench.experiments.suite import load_suite
from bench.records import RunRecord
from bench.records.measure import MeasureRecord
from bench.report.accuracy import (
    AccuracyEstimate,
    ImageOutcomes,
    PairedComparison,
    difference,
    mean_accuracy,
    over_seeds,
    paired_comparison,
)
from bench.report.formatting import ALARM, eps_text
from bench.report.frame import Outcome, ResultsFrame, outcomes, same_eps, select
from bench.report.groups import marked
from bench.report.style import order
from bench.report.suite_runs import StudyRuns, SuiteRuns

CLEAN = "clean"
BEST = "best"
"""The checkpoint of everything but Table 1."""
PERCENT = (
    "Percent. [a, b]: 95% interval over the images (Wilson). \u00b1: standard deviation over "
    "seeds, next to their mean."
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One study of a suite in its size, and the studies of the full size that it stands for."""

    found: StudyRuns
    frame: ResultsFrame
    originals: tuple[Study, ...]
    """Several where a smaller size takes one network in the place of two."""
    name: str
    """What distinguishes it from the other parts: `vgg-16`, `eps 0.02`; empty for the only one."""

    @property
    def study(self) -> Study:
        return self.found.study

    def runs(self, method: str) -> tuple[RunRecord, ...]:
        """Return a method's trainings by seed."""
        return self.found.runs.get(method, ())

    def label(self, method: str) -> str:
        """Return the method's name, with the mark of an alarm if a masking check raises one."""
        return marked(method, self.runs(method))

    def eps(self, config: AttackConfig) -> float:
        return self.study.eps if config.eps is None else config.eps

    def paper_eps(self, eps: float) -> float:
        """Return what a radius of this size is in the full size."""
        return eps * self.originals[0].eps / self.study.eps

    def eps_text(self, eps: float) -> str:
        """Return `0.06375 (the paper's 0.01)`, or only `0.01`."""
        paper = self.paper_eps(eps)
        return eps_text(eps) + ("" if same_eps(paper, eps) else f" (the paper's {eps_text(paper)})")

    def attacks(self, name: str, split: str = "test") -> list[AttackConfig]:
        """Return the study's attacks of that name, by rising radius."""
        found = [a for a in self.study.attacks if (a.name, a.split) == (name, split)]
        return sorted(found, key=self.eps)

    def outcomes(
        self,
        run: RunRecord,
        config: AttackConfig,
        checkpoint: str = BEST,
        kind: Outcome = "correct",
    ) -> ImageOutcomes | None:
        """Return the outcomes of one training under an attack; None if no image has one.

        Every evaluation records the clean outcome, so all of them count for the clean accuracy.
        """
        clean = config.name == CLEAN
        rows = select(
            self.frame,
            run_ids=[run.run_id],
            attack=None if clean else config.name,
            checkpoint=checkpoint,
            eps=None if clean else self.eps(config),
            split=config.split,
            norm=None if clean else "linf",
        )
        found = outcomes(self.frame, rows, "clean" if clean else kind)
        if config.first is not None:
            kept = found.index < config.first
            found = ImageOutcomes(
                index=found.index[kept],
                correct=found.correct[kept],
                n_expected=min(found.n_expected, config.first),
            )
        return found if len(found.index) else None

    def accuracy(
        self, method: str, config: AttackConfig, checkpoint: str = BEST, kind: Outcome = "correct"
    ) -> AccuracyEstimate | None:
        """Return the accuracy under an attack over the seeds; None without an outcome."""
        found = (self.outcomes(run, config, checkpoint, kind) for run in self.runs(method))
        return mean_accuracy(one for one in found if one is not None)

    def difference(
        self, method: str, first: AttackConfig, second: AttackConfig
    ) -> AccuracyEstimate | None:
        """Return the first accuracy minus the second, on the images that have both."""
        pairs = [
            (a, b)
            for run in self.runs(method)
            if (a := self.outcomes(run, first)) and (b := self.outcomes(run, second))
        ]
        return over_seeds(difference(a, b) for a, b in pairs)

    def versus(self, method: str, other: str, config: AttackConfig) -> PairedComparison | None:
        """Compare two methods under an attack, on the images that all of their trainings have."""
        sides = [
            [own for run in self.runs(name) if (own := self.outcomes(run, config))]
            for name in (method, other)
        ]
        return paired_comparison(*sides) if all(sides) else None

    @property
    def defended(self) -> list[str]:
        """The methods that train against an attack."""
        return [
            method
            for method, runs in self.found.runs.items()
            if any(run.card.get("inner") != "none" for run in runs)
        ]

    def lacks(self) -> Iterator[str]:
        """Yield the missing trainings and evaluations in words: method and attack."""
        for method in self.study.methods:
            named = f"{method}, {self.name}" if self.name else method
            runs = self.runs(method)
            yield from _untrained_seeds(self.found, method, named)
            for run in runs:
                who = f"{named}, seed {run.seed}" if len(runs) > 1 else named
                yield from (f"{who}: {text}" for text in self._lacks(run))

    def _lacks(self, run: RunRecord) -> Iterator[str]:
        if not run.evaluations:
            yield "not evaluated"
            return
        absent: dict[tuple[str, str], list[str]] = {}
        short = []
        for config, checkpoint in ((a, c) for a in self.study.attacks for c in a.checkpoints):
            where = checkpoint if config.split == "test" else f"{checkpoint}, {config.split}"
            radius = "" if config.name == CLEAN else eps_text(self.eps(config))
            own = self.outcomes(run, config, checkpoint)
            if own is None:
                absent.setdefault((config.name, where), []).append(radius)
                continue
            limits = [config.first, self.study.test_size if config.split == "test" else None]
            wanted = min((n for n in limits if n is not None), default=own.n_expected)
            if missing := wanted - int((own.index < wanted).sum()):
                short.append(f"{config.name}{_at(radius)} ({where}): {missing} images are missing")
        for (attack, where), radii in absent.items():
            yield f"no {attack}{_at(', '.join(radii))} ({where})"
        yield from short


def _at(radii: str) -> str:
    return f" at eps {radii}" if radii else ""


def parts(chosen: SuiteRuns) -> list[Part]:
    """Return the suite's studies; studies that are equal in a smaller size are one part."""
    full = load_suite(chosen.suite.name).studies
    own = [found.study for found in chosen.studies]
    archs, radii = {study.arch for study in own}, {study.eps for study in own}
    merged: dict[tuple[str, float], Part] = {}
    for found, original in zip(chosen.studies, full, strict=True):
        study = found.study
        names = [study.arch] * (len(archs) > 1) + [f"eps {eps_text(study.eps)}"] * (len(radii) > 1)
        earlier = merged.get((study.arch, study.eps))
        merged[study.arch, study.eps] = (
            replace(earlier, originals=(*earlier.originals, original))
            if earlier
            else Part(found=found, frame=chosen.frame, originals=(original,), name=", ".join(names))
        )
    return list(merged.values())


def lacks(found: Sequence[Part]) -> tuple[str, ...]:
    """Return what the parts lack, in words."""
    return tuple(text for part in found for text in part.lacks())


@dataclass(frozen=True, kw_only=True)
class SuiteMeasure:
    """One measure of one training of a suite."""

    label: str
    eps: float
    """Of the study, in pixels of [0, 1]."""
    run: RunRecord
    record: MeasureRecord

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        return self.record.arrays


def suite_measures(chosen: SuiteRuns, measure: str) -> tuple[list[SuiteMeasure], tuple[str, ...]]:
    """Return a measure of every training whose study asks for it, and in words what is missing."""
    asking = [
        (study, config)
        for study in chosen.studies
        for config in study.study.measures
        if measure in config.names
    ]
    studies = [study for study, _ in asking]
    found: list[SuiteMeasure] = []
    lacks = untrained(studies)
    for study, config in asking:
        params = ", ".join(f"{key} = {value}" for key, value in config.params.items())
        missing = f"no {measure}" + (f" with {params}" if params else "")
        for run in (run for runs in study.runs.values() for run in runs):
            record = _most_images(run, study.study, config, measure)
            if record is None:
                lacks.append(f"{run_name(study, run, studies)}: {missing}")
            else:
                called = label(study, run.method, studies)
                found.append(
                    SuiteMeasure(label=called, eps=study.study.eps, run=run, record=record)
                )
    found.sort(key=lambda one: (order(one.run.method), one.eps, one.label))
    return found, tuple(lacks)


def _most_images(
    run: RunRecord, study: Study, config: MeasureConfig, measure: str
) -> MeasureRecord | None:
    """Return the run's record of a measure that the study asks for, the one with most images."""
    records = (
        record
        for record in run.measures
        if record.spec.name == measure
        and record.spec.checkpoint in config.checkpoints
        and record.spec.split == config.split
        and same_eps(record.spec.eps, study.eps)
        and dict(record.spec.params) == dict(config.params)
    )
    return max(records, key=lambda r: (r.spec.n_examples, r.spec.measure_id), default=None)


def label(study: StudyRuns, method: str, studies: Sequence[StudyRuns]) -> str:
    """Return the method with its eps, if the studies have several, and the mark of an alarm."""
    return marked(name(study, method, studies), study.runs[method])


def name(study: StudyRuns, method: str, studies: Sequence[StudyRuns]) -> str:
    """Return the label without the mark of an alarm."""
    several = sum(method in other.study.methods for other in studies) > 1
    return f"{method}, eps {eps_text(study.study.eps)}" if several else method


def run_name(study: StudyRuns, run: RunRecord, studies: Sequence[StudyRuns]) -> str:
    """Return the name of its method, with the seed if the study has several trainings of it."""
    seed = f", seed {run.seed}" if len(study.runs[run.method]) > 1 else ""
    return f"{name(study, run.method, studies)}{seed}"


def untrained(studies: Sequence[StudyRuns]) -> list[str]:
    """Return `trades: no training` for every method and seed of the studies without a record."""
    return [
        text
        for study in studies
        for method in study.study.methods
        for text in _untrained_seeds(study, method, name(study, method, studies))
    ]


def _untrained_seeds(study: StudyRuns, method: str, called: str) -> list[str]:
    trained = {run.seed for run in study.runs.get(method, ())}
    if not trained:
        return [f"{called}: no training"]
    absent = (seed for seed in study.study.seeds if seed not in trained)
    return [f"{called}, seed {seed}: no training" for seed in absent]


def alarm_note(labels: Iterable[str]) -> str:
    """Return what the mark of an alarm means; empty if no label has it."""
    alarmed = any(ALARM in label for label in labels)
    return f"{ALARM.strip()}: alarm of a masking check." if alarmed else ""


def captioned(chosen: SuiteRuns, labels: Iterable[str]) -> str:
    """Return the end of a figure's title: the size, and the mark of an alarm if a label has it."""
    return f"{chosen.caption} {alarm_note(labels)}".strip()
