"""The verdicts of the masking checks on a checkpoint, from the records of its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.measure_record import MeasureRecord
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
        return tuple(f for f in self.findings if f.alarm)

    @property
    def codes(self) -> tuple[str, ...]:
        """`C8`, `C14`: of the alarms, each once."""
        return tuple(dict.fromkeys(f.code for f in self.alarms))


def masking(runs: Iterable[RunRecord], checkpoint: str, eps: float | None = None) -> Masking:
    """Return the findings on all runs; `eps` leaves out checks at another radius."""
    found = [finding for run in runs for finding in _findings(run, checkpoint, eps)]
    return Masking(findings=tuple(sorted(found, key=lambda f: (f.number or N_CHECKS + 1, f.name))))


def _findings(run: RunRecord, checkpoint: str, eps: float | None) -> Iterator[Finding]:
    """Yield a run's checks, of several at one radius that on most images, then AutoAttack's own."""

    def fits(spec: Any) -> bool:
        same = eps is None or abs(spec.eps - eps) < 1e-9
        return bool(same and spec.checkpoint == checkpoint)

    chosen: dict[tuple[str, float], MeasureRecord] = {}
    for measure in run.measures:
        spec = measure.spec
        if _NUMBER.fullmatch(spec.name) and fits(spec) and "skipped" not in measure.values:
            best = chosen.get((spec.name, spec.eps))
            if best is None or spec.n_examples > best.spec.n_examples:
                chosen[spec.name, spec.eps] = measure
    for (name, _), measure in chosen.items():
        yield _finding(int(name[1:]), measure.values, measure.spec.n_examples, run.seed)
    for evaluation in run.evaluations:
        if evaluation.spec.attack == "autoattack" and fits(evaluation.spec):
            for check in evaluation.package_checks:
                yield _finding(0, check, evaluation.n_examples, run.seed)


def _finding(number: int, values: Mapping[str, Any], n: int, seed: int | None) -> Finding:
    return Finding(
        number=number,
        name=str(values["name"]),
        value=values["value"],
        threshold=float(values["threshold"]),
        alarm=bool(values["alarm"]),
        source=str(values.get("source", "")),
        n=n,
        seed=seed,
    )
