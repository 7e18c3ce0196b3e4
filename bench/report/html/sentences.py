"""The three sentences on a setting: the best method, the masking checks, what to keep in mind."""

from collections.abc import Iterator, Sequence

from bench.report.formatting import ALARM, counted, listed, percent, span
from bench.report.html.leaderboard import LeaderboardRow, cell
from bench.report.rows import MASKING_GAP, Section
from bench.report.tables.pairwise import worst_case_pairs
from bench.report.titles import attack_title


def sentences(section: Section, found: Sequence[LeaderboardRow]) -> list[str]:
    """Return what the section shows: the best method, the masking checks, what to keep in mind."""
    return [_best(section, found), _masked(found), " ".join(_limits(section, found))]


def _best(section: Section, found: Sequence[LeaderboardRow]) -> str:
    over = listed([attack_title(attack) for attack in section.worst_over])
    scored = [entry for entry in found if entry.row.worst]
    if not scored:
        attacked = f"attacked by {over}" if over else "attacked at this radius"
        return f"No best checkpoint here was {attacked}, so none has a worst case."
    best, *others = scored
    worst, n_seeds = cell(best.row.worst), len(best.row.worst.n if best.row.worst else ())
    value = f"{worst.text}% ({worst.error} over {n_seeds} seeds)"
    if n_seeds == 1:
        value = f"{worst.text}% {worst.error}"
    value += f" under {over}{' together' * (len(section.worst_over) > 1)}"
    label, pairs = best.row.group.label, worst_case_pairs(section)
    compared = [
        (entry.name, pair)
        for entry in others
        if (pair := pairs.get((label, entry.row.group.label)))
    ]
    if not compared:
        alone = "no other method here was attacked alike on the same images"
        return f"The worst-case accuracy of {best.name} is {value}; {alone}."
    head = f"{best.name} has the highest worst-case accuracy, {value}"
    tied = [name for name, pair in compared if not pair.significant]
    above = [name for name, pair in compared if pair.significant and pair.numbers.difference < 0]
    said = [f"{_several(tied)} {_are(tied)} not distinguishable from it"] if tied else []
    if above:
        said.append(f"{_several(above)} {_are(above)} significantly above it under more attacks")
    if said:
        return f"{head}; {' and '.join(said)}."
    return f"{head}, significantly above every method compared with it."


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _several(names: Sequence[str], most: int = 4) -> str:
    """Return `A, B and C`; of many names the first ones and the number of the others."""
    if len(names) <= most + 1:
        return listed(names)
    return f"{', '.join(names[:most])} and {len(names) - most} others"


def _masked(found: Sequence[LeaderboardRow]) -> str:
    entries = [entry for entry in found if entry.row.seeds]
    checked = [entry for entry in entries if entry.row.masking.made or entry.row.masking.codes]
    if not checked:
        return "No masking check was made, so no robust accuracy here is confirmed."
    alarmed = [
        f"{entry.name.removesuffix(ALARM)} ({', '.join(codes)})"
        for entry in checked
        if (codes := entry.row.masking.codes)
    ]
    watched = [entry.name for entry in checked if entry.masking[0] == "watch"]
    more = f"; values to watch on {_several(watched)}" if watched else ""
    if alarmed:
        return (
            f"Masking checks raise alarms on {_several(alarmed)}: read their robust accuracy as an "
            f"upper bound{more}."
        )
    models = "the only model" if len(entries) == 1 else f"any of the {len(entries)} models"
    if len(checked) < len(entries):
        models = f"the {len(checked)} of {counted(len(entries), 'model')} that were checked"
    return f"No masking check raises an alarm on {models}{more}."


def _limits(section: Section, found: Sequence[LeaderboardRow]) -> Iterator[str]:
    if not len(section.index):
        yield "Nothing here was attacked yet."
        return
    seeds = span(section.n_seeds) if section.n_seeds else ""
    each = f"{seeds} seed{'s' * (seeds != '1')} per method, on " if seeds else ""
    yield f"{each}{counted(len(section.index), 'test image')}."
    if 1 in section.n_seeds and len(section.n_seeds) > 1:
        yield "One seed does not rank methods: another may differ by more than the interval."
    if doubtful := [entry.name for entry in found if entry.row.suspicious]:
        yield (
            f"PGD-20 is more than {percent(MASKING_GAP, 0)} points above AutoAttack for "
            f"{_several(doubtful)}: read the worst case, not PGD-20."
        )
