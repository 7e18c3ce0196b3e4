"""The page of claims in markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bench.report.claims.claim import VERSUS, Concerned, Finding, Result, Unit, Verdict, counted
from bench.report.claims.wording import SHARED
from bench.report.layout import Line, Table, Text
from bench.report.markdown import Markup, bullets, markdown, plain
from bench.report.masking import N_CHECKS
from bench.report.revisions import code_facts
from bench.report.units import ALARM, MINUS, MISSING, percent

TITLE = "# The claims of the CAT paper, one by one"
HEAD = (
    "What the paper (Cheng et al., arXiv 2002.06789) claims, in our words, and what the records "
    "say of each claim. A verdict is one of: **holds**, **does not hold**, **not decidable at this "
    "size** (or: records are missing), no records, not tested. Each claim states the rule by which "
    "its verdict is reached; none is set by hand."
)
HEAD_RULES = (
    "The images are the sample and the trained models are given: intervals and p-values say what "
    "other test images might show, not what another training seed might. With several seeds, "
    "accuracies are means over them.",
    "Differences of accuracies are in points, on the same images, with a 95% interval "
    "(Newcombe's; for several seeds Bonett and Price's) and an exact test (McNemar's; for several "
    "seeds a sign-flip test), Holm-corrected over the comparisons of the same kind in the claim. "
    "The intervals themselves are not corrected.",
    *SHARED,
    "A comparison without a verdict stands beside and decides nothing.",
    "All methods are trained by one common recipe, and not as the paper trained its own, of which "
    "not everything is known: a verdict is on the claim, not on the paper's numbers.",
    f"{ALARM.strip()}: a check for masked gradients raises an alarm on the model (C1 to C14: see "
    "masking.md; AA: AutoAttack's own). A claim that holds under PGD-20 or C&W for such a model "
    "says little: read it under AutoAttack.",
)
SMALLER = (
    "Some verdicts below are of a smaller size than the paper's (other data, networks, epochs): "
    "they begin with \u201cat size ...\u201d. **A verdict of a smaller size says nothing about the "
    "paper's own setting**: it shows that the measurement works, and what it gives there."
)


def page(results: Sequence[Result], note: str) -> str:
    """`note` is the sentence on the records' origin."""
    blocks = [note, TITLE, HEAD, bullets(HEAD_RULES)]
    if any(result.chosen and not result.chosen.full for result in results):
        blocks.append(SMALLER)
    code = {result.claim.key: _code(result) for result in results}
    told = {tuple(lines) for lines in code.values() if lines}
    if len(told) == 1:  # the same of every claim is said once
        blocks += [" ".join(lines) for lines in told]
        code = {}
    blocks += ["## Summary", markdown(_summary(results))]
    for result in results:
        blocks += _section(result, code.get(result.claim.key, []))
    return "\n\n".join(blocks) + "\n"


def verdict_text(result: Result) -> str:
    """`at size tiny on digits: **holds**`; plain at the paper's size.

    Marked where it holds for a model on which a masking check raises an alarm.
    """
    if result.verdict in (Verdict.MISSING, Verdict.UNTESTED) or result.chosen is None:
        return str(result.verdict)
    strong = f"**{result.verdict}**"
    alarmed = {model.label for model in result.tested.models if _bad(model)}
    if result.verdict is Verdict.HOLDS and alarmed & {f.subject for f in result.deciding}:
        strong += ALARM
    if result.chosen.full:
        return strong
    return f"at size {result.chosen.suite.size} on {result.chosen.dataset}: {strong}"


def key_figure(result: Result) -> str:
    """The finding that speaks least for the claim among those with its verdict."""
    finding = result.key_finding
    if finding is None:
        return MISSING
    where = ", ".join(filter(None, (finding.what, finding.detail, finding.remark)))
    return f"{_value(finding)} {finding.unit} ({where})"


def _summary(results: Sequence[Result]) -> Table:
    lines = []
    for result in results:
        head = Text(main=f"{result.claim.key} {result.claim.title}")
        cells = (Markup(verdict_text(result)), key_figure(result), _counts(result), _alarms(result))
        lines.append(Line(head=(head,), cells=tuple(Text(main=cell) for cell in cells)))
    headings = ("Claim", "Verdict", "Key figure", "Comparisons", "Masking alarms")
    return Table(headings=headings, lines=tuple(lines), notes=())


def _counts(result: Result) -> str:
    """`14: 3 hold, 1 does not, 10 open`."""
    found = result.deciding
    return f"{len(found)}: {counted(found)}" if found else MISSING


def _alarms(result: Result) -> str:
    """`cat-ce C4 C7`; a dash where nothing was checked."""
    checked = [model for model in result.tested.models if _checked(model)]
    if not checked:
        return MISSING
    alarmed = [f"{m.label} {' '.join(m.masking.codes)}" for m in checked if _bad(m)]
    return "; ".join(alarmed) or "none"


def _section(result: Result, code: Sequence[str]) -> list[str]:
    claim, tested = result.claim, result.tested
    blocks = [
        f"## {claim.key} {claim.title}",
        f"**Claim** ({claim.source}): {claim.says}",
        f"**Measured:** {claim.measured}{_origin(result)}",
    ]
    shown = [finding for finding in tested.findings if finding.shown]
    if shown:
        blocks.append(markdown(_table(result, shown)))
    blocks.append(f"**Verdict:** {_verdict(result)}")
    if claim.rule:
        blocks.append(f"**Rule:** {claim.rule}")
    below = [*tested.notes, *_masking(tested.models), *code, *_lacking(result)]
    return [*blocks, bullets(below)] if below else blocks


def _origin(result: Result) -> str:
    """Which suite, and in which size."""
    if result.chosen is None:
        return ""
    return f" Suite {result.claim.suite}. {plain(result.chosen.caption)}"


def _verdict(result: Result) -> str:
    if result.claim.test is None:
        return f"{Verdict.UNTESTED}."
    if result.verdict is Verdict.MISSING:
        return f"{Verdict.MISSING}: run `{result.command}`."
    counts = f" ({_counts(result)})" if len(result.deciding) > 1 else ""
    return f"{verdict_text(result)}{counts}."


def _code(result: Result) -> list[str]:
    """Which code made the figures of a claim; empty for a claim without figures."""
    if result.chosen is None or not result.tested.findings:
        return []
    rows = [(model.label, model.runs) for model in result.tested.models]
    # a claim that names no models is on trainings of its suite
    rows = rows or [item for part in result.chosen.studies for item in part.runs.items()]
    # accuracies alone come from evaluations
    attacked = any(finding.unit is Unit.POINTS for finding in result.tested.findings)
    return code_facts(rows, (lambda _: True) if attacked else None)


def _lacking(result: Result) -> Iterator[str]:
    if result.tested.lacks and result.verdict is not Verdict.MISSING:
        yield (
            f"Not on record, and so not in the verdict: {'; '.join(result.tested.lacks)}. "
            f"Run `{result.command}`."
        )


def _masking(models: Sequence[Concerned]) -> Iterator[str]:
    """What the checks for masked gradients say of the models of the claim."""
    checked = [model for model in models if _checked(model)]
    alarmed = [f"{m.label} ({', '.join(m.masking.codes)}{_few(m)})" for m in checked if _bad(m)]
    clear = [f"{m.label}{f' ({_few(m)[2:]})' * bool(_few(m))}" for m in checked if not _bad(m)]
    unchecked = [model.label for model in models if not _checked(model)]
    words = (("alarms on ", alarmed), ("no alarm on ", clear), ("not checked: ", unchecked))
    if parts := [f"{head}{', '.join(labels)}" for head, labels in words if labels]:
        yield f"Masking checks: {'; '.join(parts)}."


def _checked(model: Concerned) -> bool:
    """AutoAttack's own checks alone are not enough to call a model checked."""
    return bool(model.masking.made) or _bad(model)


def _bad(model: Concerned) -> bool:
    return bool(model.masking.alarms)


def _few(model: Concerned) -> str:
    """`; 9 of 14 made`; empty where all were."""
    n = len(model.masking.made)
    return "" if n == N_CHECKS else f"; {n} of {N_CHECKS} made"


def _table(result: Result, shown: Sequence[Finding]) -> Table:
    claim = result.claim
    detailed = any(finding.detail for finding in shown)
    tested = any(finding.p is not None for finding in shown)
    counted = any(finding.n is not None for finding in shown)
    marks = {m.label for m in result.tested.models if m.masking.alarms}
    headings = [
        "Comparison",
        *(["Which"] if detailed else []),
        *claim.columns,
        *(["p (Holm)"] if tested else []),
        *(["n"] if counted else []),
        *("Seeds", "Verdict"),
    ]
    lines = []
    for finding in shown:
        cells = [
            *([", ".join(filter(None, (finding.detail, finding.remark)))] if detailed else []),
            _number(finding.first, finding.unit),
            _number(finding.second, finding.unit),
            _value(finding),
            *([_p(finding.p)] if tested else []),
            *([MISSING if finding.n is None else str(finding.n)] if counted else []),
            "/".join(str(n) for n in dict.fromkeys(finding.seeds)),
            str(finding.verdict) if finding.decides else MISSING,
        ]
        head = Text(main=_marked(finding.what, marks))
        lines.append(Line(head=(head,), cells=tuple(Text(main=cell) for cell in cells)))
    return Table(headings=tuple(headings), lines=tuple(lines), notes=())


def _marked(what: str, alarmed: set[str]) -> str:
    """`cat-ce \u2020 vs madry`."""
    parts = what.split(VERSUS)
    return VERSUS.join(f"{part}{ALARM}" if part in alarmed else part for part in parts)


def _number(value: float | None, unit: Unit) -> str:
    if value is None:
        return MISSING
    if math.isinf(value):
        return "never" if unit is Unit.EPOCHS else "\u221e"
    if unit is Unit.POINTS:
        return percent(value)
    return f"{value:.3g}".replace("-", MINUS)


def _value(finding: Finding) -> str:
    """With its interval."""
    text = _signed(finding.value, finding.unit)
    if finding.low is None or finding.high is None:
        return text
    low, high = (_signed(limit, finding.unit) for limit in (finding.low, finding.high))
    return f"{text} [{low}, {high}]"


def _signed(value: float, unit: Unit) -> str:
    if math.isinf(value):
        return f"{MINUS}\u221e" if value < 0 else "\u221e"
    return _number(value, unit)


def _p(p: float | None) -> str:
    if p is None:
        return MISSING
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
