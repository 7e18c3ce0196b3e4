"""The claims as an artefact: claims.md, and claims.csv with every comparison."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal

import pandas as pd

from bench.papers.cat import claim_rules as rules
from bench.papers.cat.claim_evidence import TrainedModel
from bench.papers.cat.claim_rules import VERSUS, ClaimResult, Evidence, tally
from bench.papers.cat.claims import SMOKE, AssessedClaim, assess_claims
from bench.records import Records
from bench.report.artefact import ClaimSummary, Output
from bench.report.export import Bold, Markup, Table, bullets, markdown, plain, render
from bench.report.formatting import ALARM, MINUS, MISSING, percent
from bench.report.masking import N_CHECKS
from bench.report.published import shown_name
from bench.report.revisions import code_facts

_COLUMNS: dict[str, tuple[str, ...]] = {
    "what": ("comparison",),
    **{name: (name,) for name in ("detail", "reading", "decides")},
    "result": ("verdict",),
    **{name: (name,) for name in ("admissible", "reason", "unit", "first", "second", "value")},
    "interval": ("low", "high"),
    "corrected": ("low_corrected", "high_corrected"),
    "p": ("p_holm",),
    "detectable": ("smallest_detectable",),
    "limit": ("must_detect",),
    "n": ("n",),
    "seeds": ("seeds_first", "seeds_second"),
}
"""Of claims.csv, by the attribute of `Evidence`."""
_SHOWN = 14
"""Most rows of a claim on the page; claims.csv has all."""
_NO_VERDICT = (ClaimResult.MISSING, ClaimResult.UNTESTED, ClaimResult.RAN)
_TONES: dict[ClaimResult, Literal["for", "against", "open"]] = {
    ClaimResult.SUPPORTED: "for",
    ClaimResult.CONTRADICTED: "against",
    ClaimResult.INCONCLUSIVE: "open",
    ClaimResult.RAN: "open",
}
_REDUCED = {ClaimResult.SUPPORTED: "agrees", ClaimResult.CONTRADICTED: "disagrees"}


def make_claims(records: Records) -> Output:
    """Return the page of claims and the numbers behind it."""
    found = assess_claims(records)
    made = Output(numbers={"claims": claims_frame(found)}, claims=claim_summaries(found))
    if not any(one.evidence for one in found):
        return replace(made, remark="No claim has its records.")
    summary = f"## Claims of the paper\n\n{score(found)}: [claim by claim](claims.md)."
    return replace(made, pages={"claims": claims_page(found)}, summary=summary)


def claim_summaries(found: Sequence[AssessedClaim]) -> list[ClaimSummary]:
    """Return the claims for the page index.html."""
    return [_summary(one) for one in found]


def _summary(one: AssessedClaim) -> ClaimSummary:
    key = one.key_evidence
    compared = [_row(e, one) for e in one.evidence[:_SHOWN]]
    return ClaimSummary(
        key=one.claim.key,
        title=one.claim.title,
        topic=one.claim.topic,
        result=verdict_word(one),
        tone=_TONES.get(one.result, "none"),
        reason=one.reason,
        **{name: getattr(one.claim, name) for name in ("says", "source", "measured", "rule")},
        command=one.command if one.missing or one.result is ClaimResult.MISSING else "",
        what=", ".join(filter(None, (key.title, key.detail))) if key else "",
        effect=(key.value, *(key.interval or (None, None))) if key else None,
        effect_text=f"{_value(key)} {key.unit if key.unit != 'images' else 'points'}"
        if key
        else "",
        is_fraction=key is not None and key.unit in ("points", "images"),
        n=key.n if key else None,
        seeds="/".join(str(n) for n in dict.fromkeys(key.seeds)) if key else "",
        comparisons=compared,
    )


def score(found: Sequence[AssessedClaim]) -> str:
    """Return `1 supported, 3 inconclusive`."""
    counts = Counter(one.result for one in found)
    return ", ".join(f"{counts[result]} {result}" for result in ClaimResult if counts[result])


def claims_frame(found: Sequence[AssessedClaim]) -> pd.DataFrame:
    """Return a row for each comparison, also those that the page leaves out, as text.

    Fractions, and log10 of ratios, to 6 digits. A claim without comparisons has one row.
    """
    rows: list[dict[str, str]] = []
    for one in found:
        head = {
            "claim": one.claim.key,
            "title": one.claim.title,
            "claim_verdict": str(one.result),
            "claim_reason": one.reason,
            "suite": one.claim.suite,
            "size": one.suite.suite.size if one.suite else "",
            "dataset": one.suite.dataset if one.suite else "",
            "paper_size": _text(one.suite.full if one.suite else None),
        }
        rows += [head | _cells(e, one.result) for e in one.evidence] or [head]
    blank = dict.fromkeys(chain(rows[0], *_COLUMNS.values()), "")
    return pd.DataFrame([blank | row for row in rows])


def _cells(e: Evidence, of_claim: ClaimResult) -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, columns in _COLUMNS.items():
        value = getattr(e, name)
        values = value if isinstance(value, tuple) else (value,)
        cells |= dict(zip(columns, map(_text, values), strict=False))
    if of_claim is ClaimResult.RAN or not e.decides:
        cells |= {"verdict": "", "admissible": "0", "reason": f"size {SMOKE}" if e.decides else ""}
    return cells


def _text(value: object) -> str:
    if isinstance(value, bool | float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def claims_page(found: Sequence[AssessedClaim]) -> str:
    """Return the page in markdown."""
    code = [_code(one) for one in found]
    distinct = {tuple(lines) for lines in code if lines}
    same_code = distinct.pop() if len(distinct) == 1 else ()
    counts = Counter(one.result for one in found)
    topics = dict.fromkeys(one.claim.topic for one in found)
    board = [row for topic in topics for row in _board(topic, found)]
    return render(
        "claims.md.j2",
        package="bench.papers.cat",
        score=score(found),
        smoke=SMOKE if counts[ClaimResult.RAN] else "",
        reduced=any(one.suite and not one.suite.full for one in found),
        code=same_code,
        board=Markup(markdown(Table(text=pd.DataFrame(board)))),
        alarm=ALARM.strip(),
        rules=rules,
        percent=percent,
        sections=[
            _section(one, () if same_code else own) for one, own in zip(found, code, strict=True)
        ],
    )


def _board(topic: str, found: Sequence[AssessedClaim]) -> list[dict[str, str]]:
    """Return the rows of the scoreboard on one topic."""
    rows = [
        {
            "Claim": f"{one.claim.title} ({one.claim.key})",
            "Result": Markup(verdict_text(one)),
            "Key figure": _key_figure(one.key_evidence),
        }
        for one in found
        if one.claim.topic == topic
    ]
    return [{"Claim": Bold(topic), "Result": "", "Key figure": ""}, *rows]


def verdict_text(one: AssessedClaim) -> str:
    """Return `**Inconclusive** (CAT-CE untrained: median radius ...)`: the word first, then why."""
    reason = f" ({plain(one.reason)})" if one.reason else ""
    word = verdict_word(one)
    if one.result in _NO_VERDICT or one.suite is None:
        return word
    size = (
        "" if one.suite.full else f" at size {one.suite.suite.size} on {plain(one.suite.dataset)}"
    )
    return f"**{word}**{size}{reason}"


def verdict_word(one: AssessedClaim) -> str:
    """Return `Inconclusive`; at a size below the paper's `Agrees` for `Supported`."""
    reduced = one.suite is not None and not one.suite.full
    return (_REDUCED.get(one.result, one.result) if reduced else one.result).capitalize()


def _key_figure(e: Evidence | None) -> str:
    if e is None:
        return MISSING
    unit = e.unit if e.unit != "images" else "points of images"
    return f"{_value(e)} {unit} ({', '.join(filter(None, (e.title, e.detail)))})"


def _counts(one: AssessedClaim) -> str:
    if one.result is ClaimResult.RAN or not one.deciding:
        return ""
    return f"{len(one.deciding)}: {tally(one.deciding)}"


def _section(one: AssessedClaim, code: Sequence[str]) -> dict[str, object]:
    """Return what the template shows of one claim."""
    notes = [*one.notes, *([one.claim.note] if one.suite and one.claim.note else [])]
    if untrained := "; ".join(model.untrained for model in one.models if model.untrained):
        notes.append(f"Trainings that do not count: {untrained}.")
    notes += [*_masking(one.models, one.checkpoint), *code]
    counts = _counts(one) if len(one.deciding) > 1 else ""
    verdict = f"{verdict_text(one)}{counts and '. Comparisons: '}{counts}"
    if one.result is ClaimResult.MISSING:
        verdict += f": run `{one.command}`"
    elif one.missing:
        missing = "; ".join(map(shown_name, one.missing))
        notes.append(f"Missing, and so not in the verdict: {missing}. Run `{one.command}`.")
    shown: Sequence[Evidence] = one.evidence
    if len(shown) > _SHOWN:
        notes.insert(0, f"The {_SHOWN} least favourable of {len(shown)} rows; claims.csv has all.")
        shown = sorted(shown, key=lambda e: (not e.decides, e.favour))[:_SHOWN]
    return {
        "claim": one.claim,
        "caption": one.suite.caption if one.suite else "",
        "table": Markup(markdown(_table([_row(e, one) for e in shown]))) if shown else "",
        "verdict": Markup(f"{verdict}."),
        "notes": Markup(bullets(notes)),
    }


def _code(one: AssessedClaim) -> list[str]:
    """Return which code made the values of a claim; empty for a claim without values."""
    if one.suite is None or not one.evidence:
        return []
    rows = [(model.label, model.runs) for model in one.models]
    # a claim that names no models is about the trainings of its suite
    rows = rows or [item for part in one.suite.studies for item in part.runs.items()]
    # only accuracies come from evaluations
    attacked = any(e.unit == "points" for e in one.evidence)
    return code_facts(rows, (lambda _: True) if attacked else None)


def _masking(models: Sequence[TrainedModel], checkpoint: str) -> list[str]:
    """Return the sentence on the checks for masked gradients, if the claim names models.

    AutoAttack's own checks alone do not make a model checked, unless they raise an alarm.
    """
    groups: dict[str, list[str]] = {"alarms on ": [], "no alarm on ": [], "not checked: ": []}
    for model in models:
        found, name = model.masking(checkpoint), shown_name(model.label)
        few = f"{len(found.made)} of {N_CHECKS} run" if len(found.made) < N_CHECKS else ""
        facts = "; ".join(filter(None, (", ".join(found.names), few)))
        if not (found.made or found.alarms):
            groups["not checked: "].append(name)
        else:
            group = groups["alarms on " if found.alarms else "no alarm on "]
            group.append(f"{name} ({facts})" if facts else name)
    parts = [f"{head}{', '.join(labels)}" for head, labels in groups.items() if labels]
    return [f"Masking checks: {'; '.join(parts)}."] if parts else []


def _table(rows: list[dict[str, str]]) -> Table:
    text = pd.DataFrame(rows)
    empty = [name for name in text if set(text[name]) <= {"", MISSING}]
    return Table(text=text.drop(columns=empty))


def _row(e: Evidence, one: AssessedClaim) -> dict[str, str]:
    labels = (shown_name(m) + ALARM * (m in one.alarmed) for m in e.labels)
    plain_unit = e.unit if e.unit == "points" else "epochs"
    values = (_number(e.first, plain_unit), _number(e.second, plain_unit), _value(e))
    p = MISSING if e.p is None else "< 0.0001" if e.p < 1e-4 else f"{e.p:.2g}"
    judged = e.decides and one.result is not ClaimResult.RAN
    return {
        "Comparison": VERSUS.join(labels),
        "Which": e.detail,
        **dict(zip(one.claim.columns, values, strict=True)),
        "p (Holm)": p,
        "Can show": _number(e.detectable, e.unit),
        "n": MISSING if e.n is None else str(e.n),
        "Seeds": "/".join(str(n) for n in dict.fromkeys(e.seeds)),
        "Verdict": ": ".join(filter(None, (e.result, e.reason))) if judged else MISSING,
    }


def _value(e: Evidence) -> str:
    """Return the value with its interval."""
    ends = ", ".join(_number(end, e.unit) for end in e.interval or ())
    return f"{_number(e.value, e.unit)} [{ends}]" if ends else _number(e.value, e.unit)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return MISSING
    if unit in ("points", "images"):
        return percent(value)
    if unit == "times" and value > 300:  # more than a float holds
        return "\u221e"
    return f"{10**value if unit == 'times' else value:.3g}".replace("-", MINUS)
