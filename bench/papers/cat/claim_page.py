"""The claims as an artefact: claims.md, and claims.csv with every comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from bench.papers.cat.claim_evidence import CheckedModel
from bench.papers.cat.claim_rules import VERSUS, ClaimResult, Evidence, tally
from bench.papers.cat.claims import AssessedClaim, assess_claims
from bench.records import Records
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


def make_claims(records: Records) -> Output:
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
        head = (one.claim.key, one.claim.title, one.result, one.claim.suite, *suite)
        rows += [(*head, *_cells(e)) for e in one.assessment.evidence] or [head]
    blank = dict.fromkeys(_COLUMNS, "")
    text = [blank | dict(zip(_COLUMNS, map(str, row), strict=False)) for row in rows]
    return pd.DataFrame(text)


def _cells(e: Evidence) -> tuple[object, ...]:
    numbers = (e.first, e.second, e.value, e.low, e.high, e.p)
    return (
        *(e.what, e.detail, int(e.decides), e.result if e.decides else "", e.unit),
        *("" if number is None else f"{number:.6g}" for number in numbers),
        *("" if e.n is None else e.n, *e.seeds),
    )


def claims_page(found: Sequence[AssessedClaim]) -> str:
    """Return the page in markdown."""
    code = [_code(one) for one in found]
    distinct = {tuple(lines) for lines in code if lines}
    same_code = distinct.pop() if len(distinct) == 1 else ()
    summary = [
        {
            "Claim": f"{one.claim.key} {one.claim.title}",
            "Verdict": Markup(verdict_text(one)),
            "Key figure": _key_figure(one.key_evidence),
            "Comparisons": _counts(one) or MISSING,
            "Masking alarms": _alarms(one.assessment.models),
        }
        for one in found
    ]
    return render(
        "claims.md.j2",
        package="bench.papers.cat",
        smaller=any(one.suite and not one.suite.full for one in found),
        code=same_code,
        summary=Markup(markdown(Table(text=pd.DataFrame(summary)))),
        alarm=ALARM.strip(),
        sections=[
            _section(one, () if same_code else own) for one, own in zip(found, code, strict=True)
        ],
    )


def verdict_text(one: AssessedClaim) -> str:
    """Return `at size tiny on digits: **holds**`; only the verdict at the paper's size.

    Marked where it holds for a model on which a masking check raises an alarm.
    """
    if one.result in (ClaimResult.MISSING, ClaimResult.UNTESTED) or one.suite is None:
        return str(one.result)
    strong = f"**{one.result}**"
    if one.result is ClaimResult.HOLDS and _alarmed(one) & {e.subject for e in one.deciding}:
        strong += ALARM
    if one.suite.full:
        return strong
    return f"at size {one.suite.suite.size} on {plain(one.suite.dataset)}: {strong}"


def _alarmed(one: AssessedClaim) -> set[str]:
    return {model.label for model in one.assessment.models if model.masking.alarms}


def _key_figure(e: Evidence | None) -> str:
    if e is None:
        return MISSING
    return f"{_value(e)} {e.unit} ({', '.join(filter(None, (e.what, e.detail, e.remark)))})"


def _counts(one: AssessedClaim) -> str:
    return f"{len(one.deciding)}: {tally(one.deciding)}" if one.deciding else ""


def _alarms(models: Sequence[CheckedModel]) -> str:
    """Return `cat-ce C4 C7`; a dash where nothing was checked."""
    if not any(map(_checked, models)):
        return MISSING
    alarmed = [f"{m.label} {' '.join(m.masking.codes)}" for m in models if m.masking.alarms]
    return "; ".join(alarmed) or "none"


def _checked(model: CheckedModel) -> bool:
    """AutoAttack's own checks alone do not make a model checked, unless they raise an alarm."""
    return bool(model.masking.made or model.masking.alarms)


def _section(one: AssessedClaim, code: Sequence[str]) -> dict[str, object]:
    """Return what the template shows of one claim."""
    found = one.assessment
    counts = f" ({_counts(one)})" if len(one.deciding) > 1 else ""
    verdict = f"{verdict_text(one)}{counts}."
    notes = [*found.notes, *([one.claim.note] if one.suite and one.claim.note else [])]
    notes += [*_masking(found.models), *code]
    if one.result is ClaimResult.MISSING:
        verdict = f"{one.result}: run `{one.command}`."
    elif found.missing:
        missing = "; ".join(found.missing)
        notes.append(f"Missing, and so not in the verdict: {missing}. Run `{one.command}`.")
    shown = [_row(e, one) for e in found.evidence if e.shown]
    return {
        "claim": one.claim,
        "caption": one.suite.caption if one.suite else "",
        "table": Markup(markdown(_table(shown))) if shown else "",
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
    attacked = any(e.unit == "points" for e in one.assessment.evidence)
    return code_facts(rows, (lambda _: True) if attacked else None)


def _masking(models: Sequence[CheckedModel]) -> list[str]:
    """Return the sentence on the checks for masked gradients, if the claim names models."""
    groups: dict[str, list[str]] = {"alarms on ": [], "no alarm on ": [], "not checked: ": []}
    for model in models:
        made = model.masking.made
        few = f"{len(made)} of {N_CHECKS} run" if len(made) < N_CHECKS else ""
        facts = "; ".join(filter(None, (", ".join(model.masking.codes), few)))
        if not _checked(model):
            groups["not checked: "].append(model.label)
        else:
            group = groups["alarms on " if model.masking.alarms else "no alarm on "]
            group.append(f"{model.label} ({facts})" if facts else model.label)
    parts = [f"{head}{', '.join(labels)}" for head, labels in groups.items() if labels]
    return [f"Masking checks: {'; '.join(parts)}."] if parts else []


def _table(rows: list[dict[str, str]]) -> Table:
    text = pd.DataFrame(rows)
    empty = [name for name in ("Which", "p (Holm)", "n") if set(text[name]) <= {"", MISSING}]
    return Table(text=text.drop(columns=empty))


def _row(e: Evidence, one: AssessedClaim) -> dict[str, str]:
    labels = (f"{m}{ALARM}" if m in _alarmed(one) else m for m in e.what.split(VERSUS))
    never = "never" if e.unit == "epochs" else "\u221e"
    values = (_number(e.first, e.unit, never), _number(e.second, e.unit, never), _value(e))
    p = MISSING if e.p is None else f"{e.p:.2g}"
    return {
        "Comparison": VERSUS.join(labels),
        "Which": ", ".join(filter(None, (e.detail, e.remark))),
        **dict(zip(one.claim.columns, values, strict=True)),
        "p (Holm)": "< 0.0001" if e.p is not None and e.p < 1e-4 else p,
        "n": MISSING if e.n is None else str(e.n),
        "Seeds": "/".join(str(n) for n in dict.fromkeys(e.seeds)),
        "Verdict": str(e.result) if e.decides else MISSING,
    }


def _value(e: Evidence) -> str:
    """Return the value with its interval."""
    text, low, high = (_number(x, e.unit) for x in (e.value, e.low, e.high))
    return text if e.low is None or e.high is None else f"{text} [{low}, {high}]"


def _number(value: float | None, unit: str, infinite: str = "\u221e") -> str:
    if value is None:
        return MISSING
    if math.isinf(value):
        return f"{MINUS * (value < 0)}{infinite}"
    return percent(value) if unit == "points" else f"{value:.3g}".replace("-", MINUS)
