"""The parts of a suite as numbers: which outcomes belong to a study's attacks, and which lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.records import EvaluationRecord, RunRecord
from bench.report.groups import marked, same_eps
from bench.report.joins import (
    Cell,
    Flags,
    after_flags,
    clean_flags,
    mean_accuracy,
    survivors,
)
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.report.units import eps_text
from bench.study import AskedAttack, Study
from bench.suite import load_suite

CLEAN = "clean"
BEST = "best"
"""The checkpoint of everything but Table 1."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One study of a suite in its size, and the studies of the full size that it stands for."""

    found: StudyRuns
    originals: tuple[Study, ...]
    """Several where a smaller size takes one network in the place of two."""
    name: str
    """What tells it from the other parts: `vgg-16`, `eps 0.02`; empty for the only one."""

    @property
    def study(self) -> Study:
        """What was asked."""
        return self.found.study

    def runs(self, method: str) -> tuple[RunRecord, ...]:
        """A method's trainings by seed."""
        return self.found.runs.get(method, ())

    def label(self, method: str) -> str:
        """The method's name, with the mark of an alarm where a masking check raises one."""
        return marked(method, self.runs(method))

    def eps(self, asked: AskedAttack) -> float:
        """The radius of an attack."""
        return self.study.eps if asked.eps is None else asked.eps

    def paper_eps(self, eps: float) -> float:
        """What a radius of this size is in the full size."""
        return eps * self.originals[0].eps / self.study.eps

    def attacks(self, name: str, split: str = "test") -> list[AskedAttack]:
        """The study's attacks of that name, by rising radius."""
        found = [a for a in self.study.attacks if (a.name, a.split) == (name, split)]
        return sorted(found, key=self.eps)

    def flags(self, run: RunRecord, asked: AskedAttack, checkpoint: str = BEST) -> Flags | None:
        """Which images survive an attack on one training; None where none has an outcome."""
        found = self._evaluations(run, asked, checkpoint)
        if not found:
            return None
        return _kept(clean_flags(found) if asked.name == CLEAN else survivors(found), asked.first)

    def cell(self, method: str, asked: AskedAttack, checkpoint: str = BEST) -> Cell | None:
        """Accuracy under an attack over the seeds; None where no training has an outcome."""
        return _over([self.flags(run, asked, checkpoint) for run in self.runs(method)])

    def after(self, method: str, asked: AskedAttack) -> Cell | None:
        """Under a transferred attack on all images, also on those that are wrong without one."""
        seeds = []
        for run in self.runs(method):
            flags = after_flags(self._evaluations(run, asked, BEST))
            seeds.append(None if flags is None else _kept(flags, asked.first))
        return _over(seeds)

    def _evaluations(
        self, run: RunRecord, asked: AskedAttack, checkpoint: str
    ) -> list[EvaluationRecord]:
        """Of the attack; without one, all, since every evaluation records the clean outcome."""
        return [
            e
            for e in run.evaluations
            if (e.spec.checkpoint, e.spec.split) == (checkpoint, asked.split)
            and (asked.name == CLEAN or self._is(e, asked))
            and len(e.index)
        ]

    def _is(self, evaluation: EvaluationRecord, asked: AskedAttack) -> bool:
        spec = evaluation.spec
        same = spec.attack == asked.name and spec.norm == "linf"
        return same and (asked.name == CLEAN or same_eps(spec.eps, self.eps(asked)))

    def lacks(self) -> Iterator[str]:
        """Trainings and evaluations that are not there, in words: method and attack."""
        for method in self.study.methods:
            named = f"{method}, {self.name}" if self.name else method
            runs = self.runs(method)
            if not runs:
                yield f"{named}: no training"
                continue
            there = {run.seed for run in runs}
            absent = (seed for seed in self.study.seeds if seed not in there)
            yield from (f"{named}, seed {seed}: no training" for seed in absent)
            for run in runs:
                who = f"{named}, seed {run.seed}" if len(runs) > 1 else named
                yield from (f"{who}: {text}" for text in self._lacks(run))

    def _lacks(self, run: RunRecord) -> list[str]:
        """Radii at which one attack lacks are said together."""
        if not run.evaluations:
            return ["not evaluated"]
        absent: dict[tuple[str, str], list[str]] = {}
        short = []
        for asked in self.study.attacks:
            for checkpoint in asked.checkpoints:
                where = checkpoint if asked.split == "test" else f"{checkpoint}, {asked.split}"
                own = [e for e in self._evaluations(run, asked, checkpoint) if self._is(e, asked)]
                radius = "" if asked.name == CLEAN else eps_text(self.eps(asked))
                if not own:
                    absent.setdefault((asked.name, where), []).append(radius)
                elif missing := min(self._missing(e, asked) for e in own):
                    images = f"{missing} images are missing"
                    short.append(f"{asked.name}{_at([radius])} ({where}): {images}")
        return [
            f"no {name}{_at(radii)} ({where})" for (name, where), radii in absent.items()
        ] + short

    def _missing(self, evaluation: EvaluationRecord, asked: AskedAttack) -> int:
        """Images of the attack without an outcome."""
        limits = [asked.first, self.study.test_size if asked.split == "test" else None]
        known = [limit for limit in limits if limit is not None]
        wanted = min(known) if known else evaluation.spec.n_examples
        return wanted - int((evaluation.index < wanted).sum())


def parts(chosen: SuiteRuns) -> list[Part]:
    """The suite's studies; those that are the same in a smaller size are one part."""
    full = load_suite(chosen.suite.name).studies
    own = [found.study for found in chosen.studies]
    archs, radii = {study.arch for study in own}, {study.eps for study in own}
    merged: dict[tuple[str, float], Part] = {}
    for found, original in zip(chosen.studies, full, strict=True):
        study = found.study
        names = [study.arch] * (len(archs) > 1) + [f"eps {eps_text(study.eps)}"] * (len(radii) > 1)
        earlier = merged.get((study.arch, study.eps))
        part = Part(found=found, originals=(original,), name=", ".join(names))
        if earlier:
            part = replace(earlier, originals=(*earlier.originals, original))
        merged[study.arch, study.eps] = part
    return list(merged.values())


def lacks(chosen: SuiteRuns) -> tuple[str, ...]:
    """Of all parts."""
    return tuple(text for part in parts(chosen) for text in part.lacks())


def _kept(flags: Flags, first: int | None) -> Flags:
    """The flags of the images that are asked for, where the records have more of them."""
    if first is None:
        return flags
    kept: np.ndarray = flags.index < first
    return Flags(
        index=flags.index[kept],
        survived=flags.survived[kept],
        n_expected=min(flags.n_expected, first),
    )


def _over(seeds: Sequence[Flags | None]) -> Cell | None:
    found = [flags for flags in seeds if flags is not None and len(flags.index)]
    return mean_accuracy(found) if found else None


def _at(radii: Sequence[str]) -> str:
    known = [radius for radius in radii if radius]
    return f" at eps {', '.join(known)}" if known else ""
