"""The claims as an artefact: claims.md, and claims.csv with every comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from bench.papers.cat.claim_rules import VERSUS, CheckedModel, ClaimResult, Evidence, tally
from bench.papers.cat.claims import AssessedClaim, assess_claims
from bench.records import RunRecord
from bench.report.artefact import Output
from bench.report.export import Markup, Table, bullets, markdown, plain, render
from bench.report.formatting import ALARM, MINUS, MISSING, percent
from bench.report.masking import N_CHECKS
from bench.report.revisions import code_facts

_COLUMNS = (
    *("claim", "title", "claim_verdict", "suite", "size", "dataset", "paper_size"),
    *("comparison", "detail", "decides", "verdict", "unit", "first", "second", "value"),
    *("low", "high", "p_holm", "n", "seeds_first", "seeds_second"),
)


def make_claims(records: Sequence[RunRecord]) -> Output:
    """Return the page of claims and the numbers behind it."""
    found = assess_claims(records)
    return Output(pages={"claims": claims_page(found)}, numbers={"claims": claims_frame(found)})


def claims_frame(found: Sequence[AssessedClaim]) -> pd.DataFrame:
    """Return a row for each comparison, also those that the page leaves out, as text.

    Fractions, to 6 digits. A claim without comparisons has one row.
    """
    rows = []
    for one in found:
        suite = (one.suite.suite.size, one.suite.dataset, int(one.suite.full)) if one.suite else ()
        head = [one.claim.key, one.claim.title, one.result, one.claim.suite, *suite]
        rows += [[*head, *_cells(evidence)] for evidence in one.assessment.evidence] or [head]
    text = [[str(cell) for cell in row] + [""] * (len(_COLUMNS) - len(row)) for row in rows]
    return pd.DataFrame(text, columns=list(_COLUMNS))


def _cells(e: Evidence) -> list[object]:
    numbers = (e.first, e.second, e.value, e.low, e.high, e.p)
    return [
        *(e.what, e.detail, int(e.decides), e.result if e.decides else "", e.unit),
        *("" if number is None else f"{number:.6g}" for number in numbers),
        *("" if e.n is None else e.n, *e.seeds),
    ]


def claims_page(found: Sequence[AssessedClaim]) -> str:
    """Return the page in markdown."""
    code = {one.claim.key: _code(one) for one in found}
    distinct = {tuple(lines) for lines in code.values() if lines}
    same_code = distinct.pop() if len(distinct) == 1 else ()
    return render(
        "claims.md.j2",
        package="bench.papers.cat",
        smaller=any(one.suite and not one.suite.full for one in found),
        code=same_code,
        summary=Markup(markdown(_summary(found))),
        alarm=ALARM.strip(),
        sections=[_section(one, () if same_code else code[one.claim.key]) for one in found],
    )


def verdict_text(one: AssessedClaim) -> str:
    """Return `at size tiny on digits: **holds**`; only the verdict at the paper's size.

    Marked where it holds for a model on which a masking check raises an alarm.
    """
    if one.result in (ClaimResult.MISSING, ClaimResult.UNTESTED) or one.suite is None:
        return str(one.result)
    strong = f"**{one.result}**"
    alarmed = {model.label for model in one.assessment.models if model.masking.alarms}
    if one.result is ClaimResult.HOLDS and alarmed & {e.subject for e in one.deciding}:
        strong += ALARM
    if one.suite.full:
        return strong
    return f"at size {one.suite.suite.size} on {plain(one.suite.dataset)}: {strong}"


def _summary(found: Sequence[AssessedClaim]) -> Table:
    rows = [
        {
            "Claim": f"{one.claim.key} {one.claim.title}",
            "Verdict": Markup(verdict_text(one)),
            "Key figure": _key_figure(one.key_evidence),
            "Comparisons": _counts(one) or MISSING,
            "Masking alarms": _alarms(one.assessment.models),
        }
        for one in found
    ]
    return Table(text=pd.DataFrame(rows))


def _key_figure(evidence: Evidence | None) -> str:
    if evidence is None:
        return MISSING
    where = ", ".join(filter(None, (evidence.what, evidence.detail, evidence.remark)))
    return f"{_value(evidence)} {evidence.unit} ({where})"


def _counts(one: AssessedClaim) -> str:
    return f"{len(one.deciding)}: {tally(one.deciding)}" if one.deciding else ""


def _alarms(models: Sequence[CheckedModel]) -> str:
    """Return `cat-ce C4 C7`; a dash where nothing was checked."""
    checked = [model for model in models if _checked(model)]
    if not checked:
        return MISSING
    alarmed = [f"{m.label} {' '.join(m.masking.codes)}" for m in checked if m.masking.alarms]
    return "; ".join(alarmed) or "none"


def _section(one: AssessedClaim, code: Sequence[str]) -> dict[str, object]:
    """Return what the template shows of one claim."""
    assessment = one.assessment
    counts = f" ({_counts(one)})" if len(one.deciding) > 1 else ""
    verdict = f"{verdict_text(one)}{counts}."
    if one.result is ClaimResult.MISSING:
        verdict = f"{one.result}: run `{one.command}`."
    shown = [evidence for evidence in assessment.evidence if evidence.shown]
    notes = [*assessment.notes, *([one.claim.note] if one.suite and one.claim.note else [])]
    notes += [*_masking(assessment.models), *code]
    if assessment.missing and one.result is not ClaimResult.MISSING:
        missing = "; ".join(assessment.missing)
        notes.append(f"Missing, and so not in the verdict: {missing}. Run `{one.command}`.")
    return {
        "claim": one.claim,
        "caption": one.suite.caption if one.suite else "",
        "table": Markup(markdown(_table(one, shown))) if shown else "",
        "verdict": Markup(verdict),
        "notes": Markup(bullets(notes)),
    }


def _code(one: AssessedClaim) -> list[str]:
    """Return which code made the values of a claim; empty for a claim without values."""
    if one.suite is None or not one.assessment.evidence:
        return []
    rows = [(model.label, model.runs) for model in one.assessment.models]
    # a claim that names no models is about the trainings of its suite
    rows = rows or [item for part in one.suite.studies for item in part.runs.items()]
    # only accuracies come from evaluations
    attacked = any(evidence.unit == "points" for evidence in one.assessment.evidence)
    return code_facts(rows, (lambda _: True) if attacked else None)


def _masking(models: Sequence[CheckedModel]) -> Iterator[str]:
    """Yield the sentence on the checks for masked gradients, if there are models."""
    checked = [model for model in models if _checked(model)]
    alarmed = [
        f"{m.label} ({', '.join(m.masking.codes)}{_few(m, '; ')})"
        for m in checked
        if m.masking.alarms
    ]
    clear = [
        m.label + (f" ({few})" if (few := _few(m)) else "") for m in checked if not m.masking.alarms
    ]
    unchecked = [model.label for model in models if not _checked(model)]
    words = (("alarms on ", alarmed), ("no alarm on ", clear), ("not checked: ", unchecked))
    if parts := [f"{head}{', '.join(labels)}" for head, labels in words if labels]:
        yield f"Masking checks: {'; '.join(parts)}."


def _checked(model: CheckedModel) -> bool:
    """AutoAttack's own checks alone do not make a model checked, unless they raise an alarm."""
    return bool(model.masking.made or model.masking.alarms)


def _few(model: CheckedModel, before: str = "") -> str:
    """Return `9 of 14 run`; empty where all were."""
    n = len(model.masking.made)
    return "" if n == N_CHECKS else f"{before}{n} of {N_CHECKS} run"


def _table(one: AssessedClaim, shown: Sequence[Evidence]) -> Table:
    marks = {m.label for m in one.assessment.models if m.masking.alarms}
    rows = []
    for e in shown:
        values = (_number(e.first, e.unit), _number(e.second, e.unit), _value(e))
        rows.append(
            {
                "Comparison": _marked(e.what, marks),
                "Which": ", ".join(filter(None, (e.detail, e.remark))),
                **dict(zip(one.claim.columns, values, strict=True)),
                "p (Holm)": _p(e.p),
                "n": MISSING if e.n is None else str(e.n),
                "Seeds": "/".join(str(n) for n in dict.fromkeys(e.seeds)),
                "Verdict": str(e.result) if e.decides else MISSING,
            }
        )
    text = pd.DataFrame(rows)
    empty = [name for name in ("Which", "p (Holm)", "n") if set(text[name]) <= {"", MISSING}]
    return Table(text=text.drop(columns=empty))


def _marked(what: str, alarmed: set[str]) -> str:
    """Return `cat-ce \u2020 vs madry`."""
    parts = what.split(VERSUS)
    return VERSUS.join(f"{part}{ALARM}" if part in alarmed else part for part in parts)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return MISSING
    if math.isinf(value):
        return "never" if unit == "epochs" else "\u221e"
    if unit == "points":
        return percent(value)
    return f"{value:.3g}".replace("-", MINUS)


def _value(evidence: Evidence) -> str:
    """Return the value with its interval."""
    text, low, high = (
        None if x is None else _signed(x, evidence.unit)
        for x in (evidence.value, evidence.low, evidence.high)
    )
    return str(text) if low is None or high is None else f"{text} [{low}, {high}]"


def _signed(value: float, unit: str) -> str:
    if math.isinf(value):
        return f"{MINUS}\u221e" if value < 0 else "\u221e"
    return _number(value, unit)


def _p(p: float | None) -> str:
    if p is None:
        return MISSING
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
