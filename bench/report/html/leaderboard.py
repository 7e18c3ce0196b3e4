"""The leaderboard of one setting: its rows, the interval of each rank, and the page's sentences."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report.accuracy import AccuracyEstimate, error_limits
from bench.report.columns import number
from bench.report.cost import group_costs
from bench.report.formatting import ALARM, MISSING, counted, listed, percent, span
from bench.report.groups import Group
from bench.report.published import method_order, published_papers
from bench.report.rows import MASKING_GAP, Section, TableRow, by_robustness, status
from bench.report.tables.pairwise import PairMatrix, pair_matrix
from bench.report.titles import attack_title

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


def entries(section: Section) -> list[LeaderboardRow]:
    """Return the leaderboard, the most robust method first; methods without a number last."""
    place = {label: i for i, label in enumerate(by_robustness(section))}
    last = [row for row in section.rows if not row.evaluated]
    main = sorted(section.main_rows, key=lambda row: place[row.group.label])
    only_last = {row.group.label for row in main}
    last += [
        row
        for row in section.rows
        if row.evaluated and row.checkpoint == "last" and row.group.label not in only_last
    ]
    found, names = ranks(pair_matrix(section)), shown_names(section)
    costs = group_costs(section)["passes_relative"].dropna().to_dict()
    papers = {name for table in published_papers() for name in table.table3}
    return [
        LeaderboardRow(
            row=row,
            name=names[row.group.label],
            rank=found.get(row.group.label) or ((1, 1) if len(main) == 1 and row.worst else None),
            cost=f"{value:.2f}" if (value := costs.get(row.group.label)) is not None else "",
            papers=row.group.method in papers,
            state=_state(row.group),
        )
        for row in [*main, *last]
    ]


def _state(group: Group) -> str:
    """Return what kept the runs from their end, each with its seed if there are several."""
    found = ((run.seed, status(run)) for run in group.runs)
    several = len(group.runs) > 1
    return "; ".join(f"seed {seed}: {text}" if several else text for seed, text in found if text)


def ranks(matrix: PairMatrix | None) -> dict[str, tuple[int, int]]:
    """Return between which places each method may be.

    Only methods that are significantly more robust (comparisons.csv) are surely above it, and only
    significantly less robust ones below.
    """
    if matrix is None:
        return {}
    above, below = Counter[str](), Counter[str]()
    for pair, comparison in matrix.pairs.items():
        if comparison.significant:
            better, worse = pair if comparison.numbers.difference > 0 else pair[::-1]
            above[worse] += 1
            below[better] += 1
    n = matrix.n_methods
    return {label: (1 + above[label], n - below[label]) for label in matrix.labels}


def sentences(section: Section, found: Sequence[LeaderboardRow]) -> list[str]:
    """Return what the section shows: the best method, the masking checks, what to keep in mind."""
    return [_best(section, found), _masked(found), " ".join(_limits(section, found))]


def _best(section: Section, found: Sequence[LeaderboardRow]) -> str:
    scored = [entry for entry in found if entry.row.worst]
    if not scored:
        attacked = "attacked by all of these" if section.worst_over else "attacked at this radius"
        return f"No model here was {attacked}, so none has a worst case."
    best = scored[0]
    worst, n_seeds = cell(best.row.worst), best.row.n_seeds
    over = listed([attack_title(attack) for attack in section.worst_over])
    error = f"({worst.error} over {n_seeds} seeds)" if n_seeds > 1 else worst.error
    head = f"{best.name} has the highest worst-case accuracy, {worst.text}% {error}"
    head += f" under {over} together"
    matrix = pair_matrix(section)
    if matrix is None or best.row.group.label not in matrix.labels:
        return f"{head}; nothing was compared with it."
    tied = [
        entry.name
        for entry in scored[1:]
        for pair, comparison in matrix.pairs.items()
        if set(pair) == {best.row.group.label, entry.row.group.label} and not comparison.significant
    ]
    if not tied:
        return f"{head}, significantly above every method compared with it."
    verb = "is" if len(tied) == 1 else "are"
    return f"{head}; {_several(tied)} {verb} not distinguishable from it."


def _several(names: Sequence[str], most: int = 4) -> str:
    """Return `A, B and C`; of many names the first ones and the number of the others."""
    if len(names) <= most + 1:
        return listed(names)
    return f"{', '.join(names[:most])} and {len(names) - most} others"


def _masked(found: Sequence[LeaderboardRow]) -> str:
    states = [(entry.name, *entry.masking) for entry in found if entry.row.evaluated]
    checked = [state for _, state, _ in states if state != "none"]
    if not checked:
        return "No masking check was made, so no robust accuracy here is confirmed."
    alarmed = [
        f"{name.removesuffix(ALARM)} ({text})" for name, state, text in states if state == "alarm"
    ]
    n_watched = checked.count("watch")
    watched = f"; {n_watched} of them have values to watch" if n_watched > 1 else ""
    watched = watched or ("; 1 of them has a value to watch" if n_watched else "")
    models = "the only model" if len(checked) == 1 else f"any of the {len(checked)} models"
    if not alarmed:
        return f"No masking check raises an alarm on {models}{watched}."
    return (
        f"Masking checks raise alarms on {listed(alarmed)}: read their robust accuracy as an upper "
        f"bound{watched}."
    )


def _limits(section: Section, found: Sequence[LeaderboardRow]) -> Iterator[str]:
    evaluated = [entry for entry in found if entry.row.evaluated]
    if not evaluated:
        yield "Nothing here was attacked yet."
        return
    seeds = span(section.n_seeds) if section.n_seeds else ""
    each = f"{seeds} seed{'s' * (seeds != '1')} per method, on " if seeds else ""
    yield f"{each}{counted(len(section.index), 'test image')}.".capitalize()
    if 1 in section.n_seeds and len(section.n_seeds) > 1:
        yield "One seed does not rank methods: another may differ by more than the interval."
    if doubtful := [entry.name for entry in evaluated if entry.row.suspicious]:
        yield (
            f"PGD-20 is more than {percent(MASKING_GAP, 0)} points above AutoAttack for "
            f"{_several(doubtful)}: read the worst case, not PGD-20."
        )


def other_rows(section: Section) -> list[TableRow]:
    """Return the evaluated rows of both checkpoints, for the table of all attacks."""
    rows = [row for row in section.rows if row.evaluated]
    return sorted(rows, key=lambda row: method_order(row.group.method))
