"""`bench report` and `bench compare`: from records alone, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands.options import results_option


@click.command()
@results_option
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder of the tables and figures.",
)
@click.option("--suite", help="Only what one suite or artefact is for: table1, figure2.  [all]")
@click.option("--size", help="Of the paper's artefacts: full, small, tiny.  [the most complete]")
def report(results: Path, reports: Path, suite: str | None, size: str | None) -> None:
    """Make tables and figures from the records, and print Table 3.

    index.md in the reports folder links everything, and says what lacks records.
    """
    from bench.records import load_records
    from bench.report import write_report

    made = write_report(
        load_records(results),
        reports,
        command=_report_command(results, reports, suite, size),
        results=results,
        suite=suite,
        size=size,
    )
    click.echo(made.text)


def _report_command(results: Path, reports: Path, suite: str | None, size: str | None) -> str:
    """As it was given, for the files to name as their origin."""
    named = {"--results": results, "--reports": reports, "--suite": suite, "--size": size}
    given = [f"{name} {value}" for name, value in named.items() if value and str(value) != name[2:]]
    return " ".join(["bench report", *given])


@click.command()
@click.argument("first")
@click.argument("second")
@results_option
@click.option("--attack", help="Under this one alone, or 'clean'.  [all that both have]")
@click.option("--checkpoint", default="best", show_default=True, help="best or last.")
@click.option("--dataset", help="Where both have records on several data sets.")
@click.option("--arch", help="Where both have records of several networks.")
@click.option("--recipe", help="Where both have records of several recipes.")
@click.option("--eps", help="Where both have records at several radii: 8/255 or 0.03.")
def compare(
    first: str, second: str, results: Path, attack: str | None, checkpoint: str, **choice: Any
) -> None:
    """Is FIRST more robust than SECOND on the same images, and is it more than chance?

    FIRST and SECOND are methods, or run ids. An image counts where it survives every attack that
    both have.

    \b
    bench compare cat-ce trades
    bench compare cat-ce trades --attack pgd-20 --checkpoint last
    """
    from bench.eps import parse_eps
    from bench.records import load_records
    from bench.report.choice import Choice
    from bench.report.comparison import compare as compared
    from bench.report.facts import require
    from bench.report.verdict import block

    choice["eps"] = None if choice["eps"] is None else parse_eps(choice["eps"])
    records = load_records(results)
    require(records, results)
    picked = Choice(**choice)
    found = compared(records, first, second, attack=attack, checkpoint=checkpoint, choice=picked)
    click.echo(block(found))
