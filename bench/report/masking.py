"""The verdicts of the masking checks on a checkpoint, from the records of its runs."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from bench.indicator import Indicator, State, worst
from bench.records import RunRecord
from bench.records.measure import MeasureRecord

NAMES = (
    *("black box beats white box", "transfer beats white box", "unbounded attack", "iterations"),
    *("budget sweep", "random search", "loss dependence", "logit scale", "gradient health"),
    *("restarts", "convergence", "the attack works at all", "BatchNorm mode and chance"),
    "surrogate labels",
)
"""Of C1 to C14, as in the evaluator's own list."""
N_CHECKS = len(NAMES)
KINDS = {
    "Black-box attacks against white-box ones": (1, 2, 6),
    "More effort of the attack": (4, 10, 11),
    "Other losses": (7, 8, 14),
    "Sanity": (3, 5, 9, 12, 13),
}
"""Kind of check -> the numbers of its checks."""
_NUMBER = re.compile(r"C([0-9]+)")
_FACTS = ("repeated calls", "output is", "gradients taken", "zero gradients", "accuracy at eps 1")
"""Starts of the names of figures without a sampling error."""
_ACCURACIES = ("accuracy", "eval", "fgsm", "hard", "hard_restarts", "soft", "targeted", "train")
"""Of the details of a check: accuracies on the same images, lists of them, or dicts."""
_TRIES = {4: 3, 5: 9, 7: 30, 8: 4}
"""Most differences of which a check takes the largest."""


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
    limit: float | None
    """One-sided 95% lower limit of a value above its threshold, if it has one."""
    state: State
    source: str
    n: int
    """Images that it looked at."""
    seed: int | None
    """Of the training."""

    @property
    def alarm(self) -> bool:
        return self.state == "alarm"

    @property
    def code(self) -> str:
        """`C14`, or `AA`."""
        return f"C{self.number}" if self.number else "AA"

    @property
    def looks_for(self) -> str:
        """`loss dependence`."""
        return NAMES[self.number - 1] if self.number else "AutoAttack's own"

    @property
    def title(self) -> str:
        """`C7 loss dependence`."""
        return f"{self.code} {self.looks_for}" if self.number else self.looks_for


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
    def watched(self) -> tuple[Finding, ...]:
        """Above the threshold by no more than chance explains."""
        return tuple(f for f in self.findings if f.state == "watch")

    @property
    def quiet(self) -> str:
        """`14 passed (n = 100)`, or `14 made (n = 100), watch loss dependence`."""
        watched = ", ".join(dict.fromkeys(f.looks_for for f in self.watched))
        sizes = [f.n for f in self.findings if f.number]
        ends = dict.fromkeys(str(end(sizes)) for end in (min, max) if sizes)
        made = f"{len(self.made)} {'made' if watched else 'passed'}"
        made += f" (n = {' to '.join(ends)})" if ends else ""
        return f"{made}, watch {watched}" if watched else made

    @property
    def codes(self) -> tuple[str, ...]:
        """`C8`, `C14`: of the alarms, each once."""
        return tuple(dict.fromkeys(f.code for f in self.alarms))

    @property
    def names(self) -> tuple[str, ...]:
        """What the alarms are about, each once: `logit scale`."""
        return tuple(dict.fromkeys(f.looks_for for f in self.alarms))


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
        n = measure.spec.n_examples
        yield _finding(int(name[1:]), measure.values, n, _n_correct(run, measure), run.seed)
    for evaluation in run.evaluations:
        if evaluation.spec.attack == "autoattack" and fits(evaluation.spec):
            n = evaluation.n_examples
            for check in evaluation.package_checks:
                yield _finding(0, check, n, n, run.seed)


def _n_correct(run: RunRecord, measure: MeasureRecord) -> int | None:
    """Return how many of a check's images are correct without an attack, if an evaluation says."""
    spec = measure.spec
    for found in run.evaluations:
        own = found.spec.checkpoint == spec.checkpoint and found.spec.split == spec.split
        first = found.index < spec.n_examples
        if own and first.sum() == spec.n_examples:
            return int(found.clean[first].sum())
    return None


def _finding(
    number: int, values: Mapping[str, Any], n: int, n_correct: int | None, seed: int | None
) -> Finding:
    detail, name = values.get("detail", {}), str(values["name"])
    listed = detail.get("figures") or [{"what": name.removeprefix("AA "), **values}]
    found = worst([_indicator(number, figure, detail, n_correct) for figure in listed])
    return Finding(
        number=number,
        name=f"C{number}: {found.what}" if "figures" in detail else name,
        value=found.value if math.isfinite(found.value) else None,
        threshold=found.threshold,
        limit=None if found.state == "pass" else found.limit,
        state=found.state,
        source=str(values.get("source", "")),
        n=n,
        seed=seed,
    )


def _indicator(
    number: int, figure: Mapping[str, Any], detail: Mapping[str, Any], n_correct: int | None
) -> Indicator:
    """Return a recorded figure; what a record from before the counts lacks is derived or bounded.

    A difference of two recorded accuracies is treated as if their attacks failed on an image
    independently: attacks agree more than that, so its limit is too low rather than too high.
    """
    known = {f.name: figure[f.name] for f in fields(Indicator) if f.name in figure}
    known["value"] = value = math.nan if figure["value"] is None else float(figure["value"])
    if "n" in known or str(figure["what"]).startswith(_FACTS):
        return Indicator(**known)
    if number == 11 and "n_robust" in detail:
        return Indicator(**known, n=int(detail["n_robust"]), top=2.0)
    if str(figure["what"]).endswith("a doubled eps keeps") or n_correct is None:
        return Indicator(**known, n=None)
    found = [accuracy for name in _ACCURACIES for accuracy in _numbers(detail.get(name, ()))]
    lost = [(1 - a) * b for a in found for b in found if abs(a - b - value) < 1e-12]
    return Indicator(
        **known,
        n=n_correct,
        lost=n_correct * max(lost) if lost and number != 10 else None,
        tries=_TRIES.get(number, 1),
    )


def _numbers(values: Any) -> list[float]:
    """Return the numbers of a record's number, list, or dict."""
    listed = values.values() if isinstance(values, Mapping) else values
    return [values] if isinstance(values, int | float) else list(listed)
