"""The papers' claims on the page: a scoreboard, and a forest plot with a line per claim."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from bench.report.artefact import ClaimSummary

WIDTH = 100.0
"""Of the forest plot, in its own units; the middle is 0."""


@dataclass(frozen=True, kw_only=True)
class ForestLine:
    """The dot and whisker of one claim, from 0 to WIDTH."""

    at: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ClaimBoard:
    """The claims of one paper."""

    paper: str
    topics: Mapping[str, Sequence[tuple[ClaimSummary, ForestLine | None]]]
    counts: Mapping[str, int]
    """By result, as the scoreboard shows them."""
    limit: int
    """Points at the ends of the forest plot's axis."""
    examined: bool
    """Whether any claim has records."""
    commands: Sequence[str]


def claim_boards(claims: Mapping[str, Sequence[ClaimSummary]]) -> list[ClaimBoard]:
    """Return the boards of the papers that state claims."""
    return [_board(paper, found) for paper, found in claims.items() if found]


def _board(paper: str, found: Sequence[ClaimSummary]) -> ClaimBoard:
    ends = [abs(end) for c in found if c.is_fraction and c.effect for end in c.effect if end]
    limit = max(0.1, ceil(10 * max(ends, default=0.1)) / 10)
    topics: dict[str, list[tuple[ClaimSummary, ForestLine | None]]] = {}
    for claim in found:
        topics.setdefault(claim.topic, []).append((claim, _line(claim, limit)))
    return ClaimBoard(
        paper=paper,
        topics=topics,
        counts=Counter(claim.result for claim in found),
        limit=round(100 * limit),
        examined=any(claim.tone != "none" for claim in found),
        commands=list(dict.fromkeys(claim.command for claim in found if claim.command)),
    )


def _line(claim: ClaimSummary, limit: float) -> ForestLine | None:
    if claim.effect is None or not claim.is_fraction:
        return None
    value, low, high = claim.effect
    ends = (value, value if low is None else low, value if high is None else high)
    at, left, right = (WIDTH / 2 * (1 + max(-1.0, min(1.0, end / limit))) for end in ends)
    return ForestLine(at=round(at, 2), low=round(left, 2), high=round(right, 2))
