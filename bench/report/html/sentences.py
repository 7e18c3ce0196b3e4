"""The three sentences on a setting: the best method, the masking checks, what to keep in mind."""

from collections.abc import Iterator, Sequence

from bench.report.formatting import ALARM, counted, listed, percent, span
from bench.report.html.leaderboard import LeaderboardRow, cell
from bench.report.rows import MASKING_GAP, Section
from bench.report.tables.pairwise import pair_matrix
from bench.report.titles import attack_title


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
