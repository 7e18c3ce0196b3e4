"""Table 4: accuracy under images that were crafted on other networks, beside the white-box attack.

An image from elsewhere that breaks a model which its own gradients do not break is a symptom of
masked gradients (Athalye et al., arXiv 1802.00420).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.report.aggregate import PGD
from bench.report.artefacts.artefact import Made
from bench.report.artefacts.parts import Part, lacks, parts
from bench.report.artefacts.written import (
    NUMBERS,
    PERCENT,
    alarm_notes,
    csv_bytes,
    fraction,
    limits,
    not_comparable,
    numbers,
    remark,
    table_files,
)
from bench.report.groups import same_eps
from bench.report.joins import Cell, Flags, difference, over_seeds
from bench.report.layout import Line, Notes, Table, Text, cell_text
from bench.report.published import CAT, TABLE_4
from bench.report.suite_runs import SuiteRuns
from bench.report.units import MISSING, eps_text, percent, span
from bench.study import AskedAttack

TITLE = "Table 4: transferred attacks, beside the white-box attack at the same radius"
_TRANSFER = "transfer"
_VARIANT = (
    "The paper's row is CAT; it does not say which variant, nor on which network, by which attack "
    "and in how many steps its images were crafted. It scores all images."
)
_BELOW = (
    "Below the white-box accuracy on the same images, which is a symptom of masked gradients: the "
    "difference is {points} points {interval}{verdict}."
)
_HEAD = ("arch", "method", "label", "attack", "source", "eps", "paper_eps", "scoring")
_ROBUST, _ALL = "robust", "all images"
"""Of all images those that are right without and under the attack; or right under the attack."""
_DIFFERENCE = ("minus_white_box", "minus_white_box_low", "minus_white_box_high")


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """One method under one transferred attack."""

    source: str
    asked: AskedAttack
    robust: Cell | None
    """Right without and under the attack."""
    everything: Cell | None
    """Right under the attack, whatever before."""
    over_white_box: Cell | None
    """`robust` minus the white-box accuracy, on the images that they share."""

    @property
    def below(self) -> bool:
        """Whether the transferred images do more harm than the white-box attack."""
        return self.over_white_box is not None and (self.over_white_box.value or 0.0) < 0


def make_table4(chosen: SuiteRuns, note: str) -> Made:
    """table4.md, .csv and .tex; no files where nothing was attacked."""
    rows = [row for part in parts(chosen) for row in _rows(part)]
    if not rows:
        return Made(files={}, lacks=lacks(chosen))
    head = (*_HEAD, *NUMBERS, *_DIFFERENCE, *(f"paper_{arch}" for arch, _ in TABLE_4))
    table = table4(chosen)
    below = [_legend(chosen), *alarm_notes(line.head[1].main for line in table.lines)]
    files = table_files("table4", TITLE, table, below, chosen, note)
    files["table4.csv"] = csv_bytes(head, rows, remark(chosen, note))
    return Made(files=files, lacks=lacks(chosen))


def table4(chosen: SuiteRuns) -> Table:
    """A block of lines for each network."""
    notes, found = Notes(), parts(chosen)
    sources = [_source(asked) for asked in _asked(found[0])]
    lines = [_line(part, method, notes) for part in found for method in part.study.methods]
    return Table(
        headings=(
            *("Network", "Method", f"White-box {_names(found[0])}"),
            *(f"From {source}" for source in sources),
            *(f"From {source}, all images" for source in sources),
            *("n", "Seeds", f"Paper, all images{not_comparable(chosen)}"),
        ),
        lines=tuple(lines),
        notes=tuple(notes.texts),
    )


def transferred(part: Part, method: str) -> list[Transferred]:
    """The method under each transferred attack of the study."""
    found = []
    for asked in _asked(part):
        white = _white_box(part, asked)
        pairs = [
            (a, b)
            for run in part.runs(method)
            if (a := part.flags(run, asked)) and white and (b := part.flags(run, white))
        ]
        found.append(
            Transferred(
                source=_source(asked),
                asked=asked,
                robust=part.cell(method, asked),
                everything=part.after(method, asked),
                over_white_box=_difference(pairs),
            )
        )
    return found


def _difference(pairs: list[tuple[Flags, Flags]]) -> Cell | None:
    if not pairs:
        return None
    n_expected = max(min(a.n_expected, b.n_expected) for a, b in pairs)
    return over_seeds([difference(a, b) for a, b in pairs], n_expected)


def _asked(part: Part) -> list[AskedAttack]:
    """The transferred attacks, in the study's order."""
    return [a for a in part.study.attacks if a.name.partition(":")[0] == _TRANSFER]


def _white_box(part: Part, asked: AskedAttack) -> AskedAttack | None:
    """The attack on the model itself at the same radius."""
    same = [a for a in part.attacks(PGD) if same_eps(part.eps(a), part.eps(asked))]
    return same[0] if same else None


def _source(asked: AskedAttack) -> str:
    """`natural+madry`; the attack without a source takes natural networks."""
    return asked.name.partition(":")[2] or "natural"


def _names(part: Part) -> str:
    """`PGD-20 at 0.03`."""
    asked = _asked(part)[0]
    eps, paper = part.eps(asked), part.paper_eps(part.eps(asked))
    stands = "" if same_eps(eps, paper) else f" (the paper's {eps_text(paper)})"
    return f"PGD-20 at {eps_text(eps)}{stands}"


def _line(part: Part, method: str, notes: Notes) -> Line:
    first = method == part.study.methods[0]
    head = (Text(main=part.study.arch if first else ""), Text(main=part.label(method)))
    runs = part.runs(method)
    if not runs:
        return Line(head=head, cells=(), status="no training")
    found = transferred(part, method)
    white = _white_box(part, _asked(part)[0])
    direct = part.cell(method, white) if white else None
    everywhere = [direct, *(f.robust for f in found), *(f.everything for f in found)]
    n = next((cell.n for cell in everywhere if cell), None)
    return Line(
        head=head,
        cells=(
            cell_text(direct, len(runs), n),
            *(_robust_text(f, len(runs), n, notes) for f in found),
            *(cell_text(f.everything, len(runs), n) for f in found),
            Text(main=span(n) if n else MISSING),
            Text(main=str(len(runs))),
            _paper_text(part, method, notes),
        ),
    )


def _robust_text(found: Transferred, n_seeds: int, n: tuple[int, ...] | None, notes: Notes) -> Text:
    """In bold, with a note, where it is below the white-box accuracy."""
    text = cell_text(found.robust, n_seeds, n)
    if not found.below:
        return text
    assert found.over_white_box is not None
    return replace(text, strong=True, marks=(*text.marks, notes.mark(_below(found.over_white_box))))


def _below(cell: Cell) -> str:
    low, high = limits(cell)
    if cell.std is not None:
        interval, verdict = f"\u00b1 {percent(cell.std)} over seeds", ""
    else:
        interval = f"[{percent(low)}, {percent(high)}]"
        verdict = ", which holds 0" if high >= 0 else ""
    return _BELOW.format(points=percent(cell.value or 0.0), interval=interval, verdict=verdict)


def _paper_text(part: Part, method: str, notes: Notes) -> Text:
    """Of each network that this one stands for."""
    stated = _stated(part, method)
    if not stated:
        return Text(main=MISSING)
    several = len(part.originals) > 1
    words = (f"{percent(v, 2)} ({arch})" if several else percent(v, 2) for arch, v in stated)
    marks = (notes.mark(_VARIANT),) if method in CAT else ()
    return Text(main=", ".join(words), marks=marks)


def _stated(part: Part, method: str) -> list[tuple[str, float]]:
    """The paper's accuracy by its networks."""
    name, published = "CAT" if method in CAT else method, dict(TABLE_4)
    archs = [original.arch for original in part.originals]
    return [(arch, published[arch][name]) for arch in archs if name in published.get(arch, {})]


def _legend(chosen: SuiteRuns) -> str:
    found = [
        e.spec.params
        for part in parts(chosen)
        for method in part.study.methods
        for run in part.runs(method)
        for e in run.evaluations
        if e.spec.attack.partition(":")[0] == _TRANSFER
    ]
    crafted = sorted({", then ".join(params.get("crafted_with", ())) for params in found})
    by = f" by {' or '.join(crafted)}" if any(crafted) else ""
    return (
        f"{PERCENT} Of n test images those that are right without and under the attack; all "
        "images: right under the attack, whether or not right without it. From: images crafted on "
        f"networks of that method, of several on the mean of their logits,{by}; the network is of "
        "the target's kind, and of another seed where it is of the target's method. In bold: "
        f"below the white-box accuracy. Best checkpoints. {MISSING}: not on record."
    )


def _rows(part: Part) -> Iterator[list[str]]:
    for method in part.study.methods:
        head = (part.study.arch, method, part.label(method))
        white = _white_box(part, _asked(part)[0])
        direct = part.cell(method, white) if white else None
        unstated = [""] * len(TABLE_4)
        if white and direct:
            gap = [""] * len(_DIFFERENCE)
            yield [*head, PGD, "", *_radii(part, white), _ROBUST, *numbers(direct), *gap, *unstated]
        known = dict(_stated(part, method))
        stated = [fraction(known.get(arch)) for arch, _ in TABLE_4]
        for found in transferred(part, method):
            start = [*head, found.asked.name, found.source, *_radii(part, found.asked)]
            cell = found.over_white_box
            gap = [fraction(v) for v in ((cell.value, cell.low, cell.high) if cell else [None] * 3)]
            if found.robust:
                yield [*start, _ROBUST, *numbers(found.robust), *gap, *unstated]
            if found.everything:
                yield [*start, _ALL, *numbers(found.everything), "", "", "", *stated]


def _radii(part: Part, asked: AskedAttack) -> list[str]:
    eps = part.eps(asked)
    return [f"{eps:.9g}", f"{part.paper_eps(eps):.9g}"]
