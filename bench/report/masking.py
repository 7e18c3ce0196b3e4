"""The verdicts of the masking checks on a checkpoint, from the records of its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bench.measured import MeasureRecord
from bench.records import RunRecord

N_CHECKS = 14
"""C1 to C14; a test compares this with the evaluator's own list."""
_NUMBER = re.compile(r"C([0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check on one run."""

    number: int
    """14 for C14; 0 for a check of AutoAttack's own."""
    name: str
    """What the figure is, with the check's number."""
    value: float | None
    """None where the figure is not a number, which is an alarm."""
    threshold: float
    alarm: bool
    source: str
    n: int
    """Images that it looked at."""
    seed: int | None
    """Of the training."""

    @property
    def code(self) -> str:
        """`C14`, or `AA`."""
        return f"C{self.number}" if self.number else "AA"


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What the checks found on one checkpoint, over the seeds that have them."""

    findings: tuple[Finding, ...]
    """By number; several seeds one after the other."""

    @property
    def made(self) -> tuple[int, ...]:
        """Numbers of the checks C1 to C14 that were made."""
        return tuple(sorted({f.number for f in self.findings if f.number}))

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """Those that speak against the model."""
        return tuple(f for f in self.findings if f.alarm)

    @property
    def codes(self) -> tuple[str, ...]:
        """`C8`, `C14`: of the alarms, each once."""
        return tuple(dict.fromkeys(f.code for f in self.alarms))


def masking(runs: Iterable[RunRecord], checkpoint: str, eps: float | None = None) -> Masking:
    """Of all runs; `eps` leaves out checks at another radius, None takes all."""
    found = [
        finding
        for run in runs
        for finding in (*_checks(run, checkpoint, eps), *_package(run, checkpoint, eps))
    ]
    return Masking(findings=tuple(sorted(found, key=lambda f: (f.number or N_CHECKS + 1, f.name))))


def _checks(run: RunRecord, checkpoint: str, eps: float | None) -> list[Finding]:
    """Of several records of one check at one radius the one with most images."""
    chosen: dict[tuple[str, float], MeasureRecord] = {}
    for measure in run.measures:
        spec = measure.spec
        if not _NUMBER.fullmatch(spec.name) or spec.checkpoint != checkpoint:
            continue
        if "skipped" in measure.values or not _same(spec.eps, eps):
            continue
        best = chosen.get((spec.name, spec.eps))
        if best is None or spec.n_examples > best.spec.n_examples:
            chosen[spec.name, spec.eps] = measure
    return [
        Finding(
            number=int(measure.spec.name[1:]),
            name=str(measure.values["name"]),
            value=measure.values["value"],
            threshold=float(measure.values["threshold"]),
            alarm=bool(measure.values["alarm"]),
            source=str(measure.values.get("source", "")),
            n=measure.spec.n_examples,
            seed=run.seed,
        )
        for measure in chosen.values()
    ]


def _package(run: RunRecord, checkpoint: str, eps: float | None) -> list[Finding]:
    """AutoAttack's own checks, of the standard version."""
    return [
        Finding(
            number=0,
            name=str(check["name"]),
            value=check["value"],
            threshold=float(check["threshold"]),
            alarm=bool(check["alarm"]),
            source=str(check.get("source", "")),
            n=evaluation.n_examples,
            seed=run.seed,
        )
        for evaluation in run.evaluations
        if evaluation.spec.attack == "autoattack"
        and evaluation.spec.checkpoint == checkpoint
        and _same(evaluation.spec.eps, eps)
        for check in evaluation.package_checks
    ]


def _same(one: float, other: float | None) -> bool:
    return other is None or abs(one - other) < 1e-9
