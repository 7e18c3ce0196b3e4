"""The leaderboard of one setting: its rows, the interval of each rank, and the page's sentences."""

from collections import Counter
from dataclasses import dataclass

from bench.records import RunRecord
from bench.report.accuracy import AccuracyEstimate, error_limits
from bench.report.columns import number
from bench.report.cost import group_costs
from bench.report.formatting import MISSING, percent
from bench.report.published import method_order, published_papers
from bench.report.rows import Section, TableRow, by_robustness
from bench.report.table3 import states
from bench.report.tables.pairwise import worst_case_pairs

UNDEFENDED = 0.05
"""A worst case below it is that of a model without a defence."""


@dataclass(frozen=True, kw_only=True)
class AccuracyCell:
    """An accuracy as the page shows it."""

    text: str = MISSING
    error: str = ""
    """`± 1.5` over seeds, `[66.2, 75.6]` of one network."""
    value: str = ""
    """As in table3.csv, to sort by; empty where there is none."""
    low: float = 0.0
    high: float = 0.0
    """Ends of the bar, in percent."""


def cell(estimate: AccuracyEstimate | None) -> AccuracyCell:
    """Return an accuracy with its interval, or with its standard deviation over seeds."""
    if estimate is None:
        return AccuracyCell()
    e, (low, high) = estimate, error_limits(estimate)
    error = f"\u00b1 {percent(e.std)}" if e.std is not None else ""
    if e.low is not None and e.high is not None:
        error = f"[{percent(e.low)}, {percent(e.high)}]"
    return AccuracyCell(
        text=percent(e.value),
        error=error,
        value=number(e.value, "%.6f"),
        low=max(0.0, 100 * low),
        high=min(100.0, 100 * high),
    )


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One row of the leaderboard."""

    row: TableRow
    name: str
    rank: tuple[int, int] | None
    """Between which places its worst case may be; None where it was not compared."""
    cost: str
    papers: bool
    """Whether a paper's table has the method."""
    state: str
    """What kept its runs from their end."""

    @property
    def cells(self) -> dict[str, AccuracyCell]:
        """The accuracies, by their column in table3.csv."""
        row = self.row
        return {
            "clean": cell(row.clean),
            "worst_case": cell(row.worst),
            "autoattack": cell(row.attacks.get("autoattack")),
            "pgd20_minus_autoattack": cell(row.gap),
        }

    @property
    def masking(self) -> tuple[str, str]:
        """State of the masking checks and a few words on them."""
        found = self.row.masking
        if not found.findings:
            return "none", "not checked"
        if found.codes:
            return "alarm", f"alarm {', '.join(found.codes)}"
        if found.watched:
            return "watch", f"watch {', '.join(dict.fromkeys(f.code for f in found.watched))}"
        return "pass", f"{len(found.made)} passed" if found.made else "AutoAttack's own passed"

    @property
    def n(self) -> str:
        return str(len(self.row.index)) if self.row.clean else MISSING

    @property
    def undefended(self) -> bool:
        worst = self.row.worst
        return worst is not None and worst.value < UNDEFENDED


def shown_names(section: Section) -> dict[str, str]:
    """Return by label how the page calls each method: its title, where no other has the same."""
    titles = Counter(group.title for group in section.groups)
    return {
        g.label: g.title if titles[g.title] == 1 else f"{g.title} ({g.label})"
        for g in section.groups
    }


def seed_name(run: RunRecord) -> str:
    return MISSING if run.seed is None else str(run.seed)


def entries(section: Section) -> list[LeaderboardRow]:
    """Return the leaderboard, the most robust method first; methods without a number last."""
    place = {label: i for i, label in enumerate(by_robustness(section))}
    main = sorted(section.main_rows, key=lambda row: place[row.group.label])
    found, names = ranks(section), shown_names(section)
    costs = group_costs(section)["passes_relative"].dropna().to_dict()
    papers = {name for table in published_papers() for name in table.table3}
    return [
        LeaderboardRow(
            row=row,
            name=names[row.group.label],
            rank=found.get(row.group.label),
            cost=f"{value:.2f}" if (value := costs.get(row.group.label)) is not None else "",
            papers=row.group.method in papers,
            state="; ".join(states(row.group)),
        )
        for row in [*main, *(row for row in section.rows if not row.evaluated)]
    ]


def ranks(section: Section) -> dict[str, tuple[int, int]]:
    """Return between which places the worst case of each compared method may be.

    Only methods that are significantly more robust (comparisons.csv) are surely above it, and only
    significantly less robust ones below.
    """
    above, below = Counter[str](), Counter[str]()
    pairs = worst_case_pairs(section)
    for pair, comparison in pairs.items():
        if comparison.significant:
            better, worse = pair if comparison.numbers.difference > 0 else pair[::-1]
            above[worse] += 1
            below[better] += 1
    n = sum(row.worst is not None for row in section.main_rows)
    return {label: (1 + above[label], n - below[label]) for pair in pairs for label in pair}


def other_rows(section: Section) -> list[TableRow]:
    """Return the evaluated rows of both checkpoints, for the table of all attacks."""
    rows = [row for row in section.rows if row.evaluated]
    return sorted(rows, key=lambda row: method_order(row.group.method))
