"""A claim of the paper, what was found on it, and the rules that turn figures into a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.records import RunRecord
from bench.report.masking import Masking
from bench.report.significance import LEVEL
from bench.report.suite_runs import SuiteRuns, command
from bench.suite import FULL

VERSUS = " vs "
"""Between the labels of two models in a finding's `what`."""


class Verdict(StrEnum):
    """What the records say of a comparison or of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "not decidable at this size"
    PARTIAL = "not decidable: records are missing"
    MISSING = "no records"
    UNTESTED = "not tested"


class Unit(StrEnum):
    """Of a finding's figures."""

    POINTS = "points"
    """Fractions inside the code, percent on the page."""
    TIMES = "times"
    """The value is a ratio."""
    EPOCHS = "epochs"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One comparison."""

    what: str
    """`cat-ce vs madry`."""
    detail: str = ""
    """What sets it apart from rows with the same `what`: an attack, a radius, a norm."""
    remark: str = ""
    """What the page says after the detail."""
    unit: Unit = Unit.POINTS
    first: float | None = None
    second: float | None = None
    value: float
    """First minus second, or their ratio; or what the claim says of the two."""
    low: float | None = None
    high: float | None = None
    """95% interval; None where the value has no sampling error or nothing is known of it."""
    p: float | None = None
    """After Holm's correction over the claim's comparisons of the same kind; None where the
    verdict rests on the interval alone."""
    n: int | None = None
    """Images."""
    seeds: tuple[int, int] = (1, 1)
    """Trainings of the first and of the second."""
    decides: bool = True
    """Whether the claim's verdict rests on it."""
    shown: bool = True
    """Whether the page has a row for it; the .csv always has."""
    verdict: Verdict = Verdict.OPEN
    favour: float
    """How far the value is on the claim's side: what the summary quotes is the smallest."""

    @property
    def subject(self) -> str:
        """Label of the first model."""
        return self.what.partition(VERSUS)[0]


@dataclass(frozen=True, kw_only=True)
class Concerned:
    """A model that a claim is about, and what the masking checks say of it."""

    label: str
    masking: Masking
    runs: tuple[RunRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What the records of one suite say of one claim."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    lacks: tuple[str, ...] = ()
    """What the verdict would also rest on if there were records, in words."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the figures."""
    models: tuple[Concerned, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, in our words."""

    key: str
    """`1a`."""
    title: str
    says: str
    """What the paper claims."""
    source: str
    """Where the paper says so."""
    measured: str
    """What is compared, on what."""
    rule: str
    """When it holds and when not."""
    columns: tuple[str, str, str] = ("CAT", "Other", "Difference")
    """Headings of a finding's first, second and value."""
    suite: str = ""
    """Whose records it needs; empty for a claim that no measurement tests."""
    test: Callable[[SuiteRuns], Tested] | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A claim with its verdict."""

    claim: Claim
    chosen: SuiteRuns | None
    """None where no training of the suite is on record."""
    tested: Tested

    @property
    def verdict(self) -> Verdict:
        """Of the claim."""
        return self.tested.verdict

    @property
    def command(self) -> str:
        """What makes the missing records."""
        return self.chosen.command if self.chosen else command(self.claim.suite, FULL)

    @property
    def deciding(self) -> list[Finding]:
        """The findings that the verdict rests on."""
        return [finding for finding in self.tested.findings if finding.decides]

    @property
    def key_finding(self) -> Finding | None:
        """The one that speaks least for the claim among those with its verdict."""
        alike = [f for f in self.deciding if f.verdict == self.verdict] or self.deciding
        return min(alike, key=lambda finding: finding.favour, default=None)


def superior(low: float, high: float, p: float | None) -> Verdict:
    """Of `the first is above the second`, from their difference: interval and test must agree.

    `p` None: the interval alone.
    """
    if p is not None and not p < LEVEL:
        return Verdict.OPEN
    if low > 0:
        return Verdict.HOLDS
    return Verdict.FAILS if high < 0 else Verdict.OPEN


def bounded(low: float, high: float, bound: float, beyond: float | None = None) -> Verdict:
    """Of `the value is at most bound`; fails where the whole interval is above `beyond`.

    `beyond`: the bound itself unless it is given.
    """
    if low > (bound if beyond is None else beyond):
        return Verdict.FAILS
    return Verdict.HOLDS if high <= bound else Verdict.OPEN


def at_least(low: float, high: float, bound: float) -> Verdict:
    """Of `the value is at least bound`."""
    if low >= bound:
        return Verdict.HOLDS
    return Verdict.FAILS if high < bound else Verdict.OPEN


def separated(firsts: Sequence[float], seconds: Sequence[float]) -> Verdict:
    """Of `the first is above the second`, from figures without an interval, one a training."""
    if min(firsts) > max(seconds):
        return Verdict.HOLDS
    return Verdict.FAILS if max(firsts) < min(seconds) else Verdict.OPEN


def doubted(verdict: Verdict, doubt: bool) -> Verdict:
    """A verdict that cannot be `holds` while something else speaks against it."""
    return Verdict.OPEN if doubt and verdict is Verdict.HOLDS else verdict


def together(verdicts: Iterable[Verdict], lacks: Sequence[str] = ()) -> Verdict:
    """Of a claim that says all of several things: one that fails refutes it, all must hold."""
    found = list(verdicts)
    if not found:
        return Verdict.MISSING
    if Verdict.FAILS in found:
        return Verdict.FAILS
    if any(verdict is not Verdict.HOLDS for verdict in found):
        return Verdict.OPEN
    return Verdict.PARTIAL if lacks else Verdict.HOLDS


def agreed(verdicts: Iterable[Verdict]) -> Verdict:
    """Of one thing read in several ways, since the paper does not say which it means."""
    found = set(verdicts)
    return found.pop() if len(found) == 1 else Verdict.OPEN


def counted(findings: Iterable[Finding]) -> str:
    """`3 hold, 1 does not, 10 open`; empty without findings."""
    counts = Counter(finding.verdict for finding in findings)
    words = {Verdict.HOLDS: ("holds", "hold"), Verdict.FAILS: ("does not", "do not")}
    parts = [
        f"{counts[verdict]} {one if counts[verdict] == 1 else many}"
        for verdict, (one, many) in (words | {Verdict.OPEN: ("open", "open")}).items()
        if counts[verdict]
    ]
    return ", ".join(parts)


def conclude(
    findings: Iterable[Finding],
    *,
    lacks: Sequence[str] = (),
    notes: Sequence[str] = (),
    models: Sequence[Concerned] = (),
) -> Tested:
    """With the verdict that all deciding findings together give."""
    found = tuple(findings)
    return Tested(
        verdict=together([f.verdict for f in found if f.decides], lacks),
        findings=found,
        lacks=tuple(dict.fromkeys(lacks)),
        notes=tuple(notes),
        models=tuple(models),
    )
