"""The masking checks of one setting: a row per check, a column per model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.formatting import MISSING
from bench.report.html.leaderboard import LeaderboardRow
from bench.report.masking import Finding

GROUPS = (
    (
        "Can an attack without gradients do better?",
        {
            1: "Do black-box attacks break images that survive gradients?",
            2: "Do images made on another network break survivors?",
            6: "Does random search find what gradients miss?",
        },
    ),
    (
        "Does more effort help?",
        {
            4: "Do many more steps break more images?",
            10: "Do more random starts break more images?",
            11: "Has the attack converged where it failed?",
        },
    ),
    (
        "Does another loss do better?",
        {
            7: "Do different losses agree on the accuracy?",
            8: "Does rescaling the logits break more images?",
            14: "Do soft or targeted labels break more images?",
        },
    ),
    (
        "Is the measurement sound?",
        {
            3: "Does an attack with a huge radius break every image?",
            5: "Does accuracy fall as the radius grows?",
            9: "Are there gradients at all?",
            12: "Does the attack break an undefended network?",
            13: "Is the output the same in every call?",
        },
    ),
    ("What does AutoAttack's own code say?", {0: "Do AutoAttack's own checks raise an alarm?"}),
)
"""Question of each check by its number, in groups; 0: AutoAttack's own."""
WORST_FIRST = ("alarm", "watch", "pass")
MARKS = {"alarm": "\u2717", "watch": "!", "pass": "\u2713"}


@dataclass(frozen=True, kw_only=True)
class CheckCell:
    """What one check found on one model, over its seeds."""

    state: str = ""
    """Empty where it was not made."""
    mark: str = MISSING
    text: str = ""
    """`0.071 > 0.05, 2 of 5 seeds` where it did not pass."""


def check_cell(findings: Sequence[Finding]) -> CheckCell:
    """Return the state of the worst finding, with its value where it did not pass."""
    if not findings:
        return CheckCell()
    state = next(s for s in WORST_FIRST if any(f.state == s for f in findings))
    if state == "pass":
        return CheckCell(state=state, mark=MARKS[state])
    own = [f for f in findings if f.state == state]
    worst = max(own, key=lambda f: math.inf if f.value is None else f.value - f.threshold)
    value = "not a number"
    if worst.value is not None:
        value = f"{worst.value:.3g} > {worst.threshold:.3g}"
    seeds = {f.seed for f in findings}
    several = f", {len({f.seed for f in own})} of {len(seeds)} seeds" if len(seeds) > 1 else ""
    return CheckCell(state=state, mark=MARKS[state], text=f"{value}{several}")


def check_groups(found: Sequence[LeaderboardRow]) -> list[tuple[str, list[dict[str, object]]]]:
    """Return the questions in groups, each with a cell per checked model; empty without any."""
    checked = [entry.row for entry in found if entry.row.masking.findings]
    if not checked:
        return []
    return [
        (
            title,
            [
                {
                    "code": f"C{n}" if n else "AA",
                    "question": question,
                    "cells": [
                        check_cell([f for f in row.masking.findings if f.number == n])
                        for row in checked
                    ],
                }
                for n, question in questions.items()
            ],
        )
        for title, questions in GROUPS
    ]
