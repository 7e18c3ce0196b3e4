"""What a paper adds to the report: artefacts, each a table, a figure or a page.

An artefact returns DataFrames, figures and text; the report writes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bench.records import Records
from bench.report.export import (
    Table,
    csv_text,
    figure_files,
    latex,
    latex_document,
    markdown,
    plain,
)
from bench.report.suite_runs import SuiteRuns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class ClaimSummary:
    """A claim of a paper and what the records say about it, for the scoreboard of index.html."""

    key: str
    title: str
    topic: str
    """Heading that it stands under."""
    result: str
    """The verdict in a word or two."""
    tone: Literal["for", "against", "open", "none"]
    """open: examined, but the records cannot tell. none: no records, or not tested."""
    reason: str = ""
    says: str = ""
    source: str = ""
    measured: str = ""
    rule: str = ""
    command: str = ""
    """Makes the missing records."""
    what: str = ""
    """The key comparison, `cat-ce vs madry`."""
    effect: tuple[float, float | None, float | None] | None = None
    """Its value and 95% interval; accuracies as fractions."""
    effect_text: str = ""
    is_fraction: bool = True
    """Whether the effect is a difference of accuracies, which the forest plot draws."""
    n: int | None = None
    seeds: str = ""
    comparisons: Sequence[Mapping[str, str]] = ()
    """A row of text per comparison, all with the same keys."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What an artefact made of the records of its suite."""

    tables: Mapping[str, Table] = field(default_factory=dict)
    """File name without suffix -> a table for readers, written as .md and .tex."""
    numbers: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """File name without suffix -> its numbers, written as .csv."""
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    """File name without suffix -> what draws it, written as .png, .pdf and .svg."""
    pages: Mapping[str, str] = field(default_factory=dict)
    """File name without suffix -> markdown, written as .md."""
    latex: Mapping[str, str] = field(default_factory=dict)
    """File name without suffix -> LaTeX, written as .tex."""
    claims: Sequence[ClaimSummary] = ()
    """For index.html."""
    below: Sequence[str] = ()
    """Sentences under the tables."""
    note: str = ""
    """Sentences that every file carries after its origin and size."""
    lacks: tuple[str, ...] = ()
    """What has no record, in words."""
    remark: str = ""
    """What index.md says next to the links."""
    summary: str = ""
    """Markdown that index.md shows of it."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One table or figure of a paper."""

    name: str
    title: str
    suite: str = ""
    """The suite whose records it is made of; empty for all records."""
    make: Callable[[SuiteRuns], Output] | None = None
    make_of_all: Callable[[Records], Output] | None = None
    """In place of `make`, where it is made of all records."""
    whole: Callable[[SuiteRuns], Output] | None = None
    """In place of `make` if `bench report --suite` names the artefact; None where equal."""


def output_files(
    output: Output, note: str, *, title: str = "", caption: str = ""
) -> dict[str, bytes]:
    """Return the files of an output by name; nothing else makes files of one.

    note: where its numbers come from. title and caption: what its tables are, and of which size.
    """
    origin = " ".join(filter(None, [note, caption, output.note]))
    files: dict[str, str | bytes] = {}
    for name, table in output.tables.items():
        blocks = [plain(note), f"# {title}", plain(caption), markdown(table, output.below)]
        files[f"{name}.md"] = "\n\n".join(filter(None, blocks)) + "\n"
        heading = f"{title}. {caption}".strip()
        text = latex_document([latex(table, heading, name, output.below)])
        files[f"{name}.tex"] = f"% {note}\n{text}\n"
    files |= {f"{name}.csv": csv_text(frame, origin) for name, frame in output.numbers.items()}
    files |= {f"{name}.md": f"{plain(note)}\n\n{page}" for name, page in output.pages.items()}
    files |= {f"{name}.tex": f"% {origin}\n{text}\n" for name, text in output.latex.items()}
    for name, draw in output.figures.items():
        pictures = figure_files(draw, origin, name)
        files |= {f"{name}{suffix}": content for suffix, content in pictures.items()}
    return {n: text.encode() if isinstance(text, str) else text for n, text in files.items()}
