"""From the records of a suite to the two sides of a comparison: which images survive what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from bench.errors import RecordError
from bench.measured import MeasureRecord
from bench.records import EvaluationRecord, RunRecord
from bench.report.claims.claim import Concerned
from bench.report.comparison import Comparison, corrected, paired
from bench.report.groups import Setting, same_eps
from bench.report.joins import Flags, accuracy, clean_flags, survivors
from bench.report.masking import masking
from bench.report.scored import CLEAN, Scored
from bench.report.suite_runs import StudyRuns, SuiteRuns
from bench.report.units import eps_text
from bench.study import Study

BEST, LAST = "best", "last"
USUAL = ("natural",)
"""Sources of a transferred attack that names none."""
_COMPARED = "compared"


@dataclass(frozen=True, kw_only=True)
class Model:
    """One way of training of a suite, once a seed."""

    label: str
    method: str
    study: Study
    dataset: str
    """The data variant of the records."""
    runs: tuple[RunRecord, ...]
    reason: str = ""
    """Why there is no run."""

    def concerned(self, checkpoint: str = "best") -> Concerned:
        """With what the masking checks found on the checkpoint."""
        found = masking(self.runs, checkpoint, self.study.eps)
        return Concerned(label=self.label, masking=found, runs=self.runs)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Which evaluations of a model are meant."""

    name: str
    """Of the attack, without the sources of a transferred one; `clean` for none."""
    eps: float | None = None
    """None: the study's."""
    checkpoint: str = BEST
    split: str = "test"
    sources: tuple[str, ...] | None = None
    """Of a transferred attack."""
    everything: bool = False
    """Of a transferred attack: scored on all images, those wrong without an attack too."""

    @property
    def title(self) -> str:
        """`pgd-20 at eps 0.01 (last, train)`, without what is usual."""
        at = "" if self.eps is None else f" at eps {eps_text(self.eps)}"
        source = f" from {'+'.join(self.sources)}" if self.sources else ""
        usual = {BEST: "", "test": ""}
        other = [text for text in (self.checkpoint, self.split) if usual.get(text, text)]
        return self.name + source + at + (f" ({', '.join(other)})" if other else "")


Side = tuple[Model, Attack]


def models(chosen: SuiteRuns, studies: Iterable[StudyRuns] | None = None) -> list[Model]:
    """Those of the suite's studies, absent ones without runs; equal studies once.

    Labels carry the network or the radius where the studies differ in it.
    """
    parts = list(chosen.studies if studies is None else studies)
    archs, radii = ({getattr(p.study, name) for p in parts} for name in ("arch", "eps"))
    found: dict[str, Model] = {}
    for part in parts:
        extra = [part.study.arch] if len(archs) > 1 else []
        extra += [f"eps {eps_text(part.study.eps)}"] if len(radii) > 1 else []
        for method in part.study.methods:
            label = f"{method} ({', '.join(extra)})" if extra else method
            found.setdefault(
                label,
                Model(
                    label=label,
                    method=method,
                    study=part.study,
                    dataset=_dataset(chosen, part),
                    runs=part.runs.get(method, ()),
                    reason="" if method in part.runs else "no training",
                ),
            )
    return list(found.values())


def _dataset(chosen: SuiteRuns, part: StudyRuns) -> str:
    return next((run.dataset for runs in part.runs.values() for run in runs), chosen.dataset)


def distinct(chosen: SuiteRuns) -> list[StudyRuns]:
    """The studies, one of those that a smaller size makes equal."""
    kept: dict[tuple[object, ...], StudyRuns] = {}
    for part in chosen.studies:
        study = part.study
        kept.setdefault((study.arch, study.dataset, study.eps, study.methods), part)
    return list(kept.values())


def radii(study: Study, name: str) -> list[float]:
    """At which the study asks for an attack beside its own eps, ascending."""
    found = {a.eps for a in study.attacks if a.name == name and a.eps is not None}
    return sorted(found)


def flags(
    model: Model, attack: Attack
) -> list[tuple[RunRecord, Flags, frozenset[tuple[int, str]]]]:
    """Of each seed that has the attack: its images' outcomes, and which images they are."""
    found = []
    for run in model.runs:
        own = [e for e in run.evaluations if _meant(e, attack, model.study.eps)]
        own = [e for e in own if len(e.index) and not (attack.everything and e.after is None)]
        if own:
            images = frozenset((e.spec.n_examples, e.spec.data_sha256) for e in own)
            found.append((run, _outcomes(own, attack), images))
    return found


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Accuracy of one model under one attack."""

    value: float
    """Mean over the seeds."""
    low: float
    high: float
    """The lowest and the highest of the seeds' Wilson limits."""
    n: int
    """Images of the seed with fewest."""
    seeds: int


def over_seeds(model: Model, attack: Attack) -> Mean | None:
    """None where no seed has the attack."""
    found = [estimate for _, one, _ in flags(model, attack) if (estimate := accuracy(one))]
    if not found:
        return None
    return Mean(
        value=fmean(estimate.value for estimate in found),
        low=min(estimate.low for estimate in found),
        high=max(estimate.high for estimate in found),
        n=min(estimate.n for estimate in found),
        seeds=len(found),
    )


def _meant(evaluation: EvaluationRecord, attack: Attack, own_eps: float) -> bool:
    spec = evaluation.spec
    if spec.checkpoint != attack.checkpoint or spec.split != attack.split or spec.norm != "linf":
        return False
    if attack.name == CLEAN:
        return True
    name, _, sources = spec.attack.partition(":")
    if attack.sources is not None:
        # the usual source is not in the name: `transfer`, but `transfer:natural+madry`
        own = tuple(sources.split("+")) if sources else tuple(spec.params.get("sources", USUAL))
        same = (name, own) == (attack.name, attack.sources)
    else:
        same = spec.attack == attack.name
    return same and same_eps(spec.eps, own_eps if attack.eps is None else attack.eps)


def _outcomes(found: Sequence[EvaluationRecord], attack: Attack) -> Flags:
    if attack.name == CLEAN:
        return clean_flags(found)
    if not attack.everything:
        return survivors(found)
    # several evaluations count as restarts, as they do where the clean images alone are scored
    return survivors([_as_survivors(e) for e in found])


def _as_survivors(evaluation: EvaluationRecord) -> EvaluationRecord:
    chunks = [replace(c, survived=c.after) for c in evaluation.chunks if c.after is not None]
    return replace(evaluation, chunks=tuple(chunks))


def contrast(first: Side, second: Side) -> Comparison:
    """The first's accuracy minus the second's on the images that all seeds of both share.

    Raises RecordError, whose text says what is missing.
    """
    (one, attack), (other, another) = first, second
    return paired(_scored(one, attack), _scored(other, another), _COMPARED)


def _scored(model: Model, attack: Attack) -> Scored:
    found = flags(model, attack)
    if not found:
        raise RecordError(f"{model.label}: {model.reason or f'no {attack.title}'}")
    study = model.study
    setting = Setting(
        dataset=model.dataset, arch=study.arch, recipe=study.recipe, norm="linf", eps=study.eps
    )
    return Scored(
        label=model.label,
        setting=setting,
        checkpoint=attack.checkpoint,
        runs=tuple(run for run, _, _ in found),
        survivors=tuple({_COMPARED: outcome} for _, outcome, _ in found),
        images=frozenset().union(*(images for _, _, images in found)),
        reason="",
    )


def contrasts(
    pairs: Sequence[tuple[Side, Side]],
) -> tuple[list[tuple[Side, Side, Comparison]], list[str]]:
    """One family of comparisons, Holm's correction made; and what is missing for the others."""
    found, lacks = [], []
    for first, second in pairs:
        try:
            found.append((first, second, contrast(first, second)))
        except RecordError as error:
            lacks.append(str(error))
    fixed = corrected([comparison for *_, comparison in found])
    sides = [(first, second) for first, second, _ in found]
    return [(*pair, c) for pair, c in zip(sides, fixed, strict=True)], lacks


def measures(
    model: Model, name: str, checkpoint: str = BEST
) -> list[tuple[RunRecord, MeasureRecord]]:
    """Of each seed that has it: the record with most images."""
    found = []
    for run in model.runs:
        own = [
            m
            for m in run.measures
            if m.spec.name == name
            and m.spec.checkpoint == checkpoint
            and same_eps(m.spec.eps, model.study.eps)
        ]
        if own:
            found.append((run, max(own, key=lambda m: m.spec.n_examples)))
    return found
