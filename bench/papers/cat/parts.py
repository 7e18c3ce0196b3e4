"""The studies of a suite as numbers: accuracy under attacks, and which outcomes are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bench.papers.cat.trainings import untrained_seeds
from bench.records import RunRecord
from bench.report.accuracy import (
    AccuracyEstimate,
    ImageOutcomes,
    difference,
    mean_accuracy,
    over_seeds,
)
from bench.report.formatting import eps_text
from bench.report.frame import Outcome, ResultsFrame
from bench.report.groups import marked
from bench.report.select import outcomes, same_eps, select
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.study import AskedAttack, Study
from bench.suite import load_suite

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

    def eps(self, asked: AskedAttack) -> float:
        return self.study.eps if asked.eps is None else asked.eps

    def paper_eps(self, eps: float) -> float:
        """Return what a radius of this size is in the full size."""
        return eps * self.originals[0].eps / self.study.eps

    def attacks(self, name: str, split: str = "test") -> list[AskedAttack]:
        """Return the study's attacks of that name, by rising radius."""
        found = [a for a in self.study.attacks if (a.name, a.split) == (name, split)]
        return sorted(found, key=self.eps)

    def outcomes(
        self, run: RunRecord, asked: AskedAttack, checkpoint: str = BEST, kind: Outcome = "correct"
    ) -> ImageOutcomes | None:
        """Return the outcomes of one training under an attack; None if no image has one.

        Every evaluation records the clean outcome, so all of them count for the clean accuracy.
        """
        if asked.name == CLEAN:
            run_ids, split = [run.run_id], asked.split
            rows = select(
                self.frame, run_ids=run_ids, checkpoint=checkpoint, split=split, norm=None
            )
            kind = "clean"
        else:
            rows = self._rows(run, asked, checkpoint)
        return _first(outcomes(self.frame, rows, kind), asked.first)

    def accuracy(
        self, method: str, asked: AskedAttack, checkpoint: str = BEST, kind: Outcome = "correct"
    ) -> AccuracyEstimate | None:
        """Return the accuracy under an attack over the seeds; None without an outcome."""
        found = (self.outcomes(run, asked, checkpoint, kind) for run in self.runs(method))
        known = [one for one in found if one is not None]
        return mean_accuracy(known) if known else None

    def difference(
        self, method: str, first: AskedAttack, second: AskedAttack
    ) -> AccuracyEstimate | None:
        """Return the first accuracy minus the second, on the images that have both."""
        pairs = [
            (a, b)
            for run in self.runs(method)
            if (a := self.outcomes(run, first)) and (b := self.outcomes(run, second))
        ]
        if not pairs:
            return None
        n_expected = max(min(a.n_expected, b.n_expected) for a, b in pairs)
        return over_seeds([difference(a, b) for a, b in pairs], n_expected)

    def lacks(self) -> Iterator[str]:
        """Yield the missing trainings and evaluations in words: method and attack."""
        for method in self.study.methods:
            named = f"{method}, {self.name}" if self.name else method
            runs = self.runs(method)
            yield from untrained_seeds(self.found, method, named)
            for run in runs:
                who = f"{named}, seed {run.seed}" if len(runs) > 1 else named
                yield from (f"{who}: {text}" for text in self._lacks(run))

    def _lacks(self, run: RunRecord) -> list[str]:
        if not run.evaluations:
            return ["not evaluated"]
        absent: dict[tuple[str, str], list[str]] = {}
        short = []
        for asked in self.study.attacks:
            for checkpoint in asked.checkpoints:
                where = checkpoint if asked.split == "test" else f"{checkpoint}, {asked.split}"
                radius = "" if asked.name == CLEAN else eps_text(self.eps(asked))
                missing = self._missing(run, asked, checkpoint)
                if missing is None:
                    absent.setdefault((asked.name, where), []).append(radius)
                elif missing:
                    images = f"{missing} images are missing"
                    short.append(f"{asked.name}{_at([radius])} ({where}): {images}")
        return [
            f"no {name}{_at(radii)} ({where})" for (name, where), radii in absent.items()
        ] + short

    def _missing(self, run: RunRecord, asked: AskedAttack, checkpoint: str) -> int | None:
        """Return how many images of an attack have no outcome; None if no image has one."""
        limits = [asked.first, self.study.test_size if asked.split == "test" else None]
        known = [limit for limit in limits if limit is not None]
        rows, missing = self._rows(run, asked, checkpoint), []
        for position in rows.index:
            own = outcomes(self.frame, rows.loc[[position]])
            wanted = min(known) if known else own.n_expected
            if len(own.index):
                missing.append(wanted - int((own.index < wanted).sum()))
        return min(missing, default=None)

    def _rows(self, run: RunRecord, asked: AskedAttack, checkpoint: str) -> pd.DataFrame:
        return select(
            self.frame,
            run_ids=[run.run_id],
            attack=asked.name,
            checkpoint=checkpoint,
            eps=self.eps(asked),
            split=asked.split,
        )


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
    """Return what all parts lack."""
    return tuple(text for part in found for text in part.lacks())


def eps_of_paper(part: Part, eps: float) -> str:
    """Return `0.06375 (the paper's 0.01)`, or only `0.01`."""
    paper = part.paper_eps(eps)
    return eps_text(eps) + ("" if same_eps(paper, eps) else f" (the paper's {eps_text(paper)})")


def not_comparable(chosen: SuiteRuns) -> str:
    """Return the end of the heading of the paper's numbers; empty for the paper's own size."""
    return "" if chosen.full else f" ({chosen.dataset}, size {chosen.suite.size}: not comparable)"


def _first(found: ImageOutcomes, first: int | None) -> ImageOutcomes | None:
    """Return the outcomes of the first images; None if no image has one."""
    if first is not None:
        kept = found.index < first
        found = ImageOutcomes(
            index=found.index[kept],
            correct=found.correct[kept],
            n_expected=min(found.n_expected, first),
        )
    return found if len(found.index) else None


def _at(radii: Sequence[str]) -> str:
    known = [radius for radius in radii if radius]
    return f" at eps {', '.join(known)}" if known else ""
