"""`bench report` and `bench compare`: read records only, without torch."""

from pathlib import Path
from typing import Any

import click

from bench.commands import options as shared
from bench.errors import ConfigError


@click.command(short_help="Make a page, tables and figures.")
@shared.results
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder to write tables and figures to.",
)
@click.option("--suite", help="Make only this suite's tables and figures: table1, figure2.  [all]")
@click.option("--size", help="Suite size to report: full, small, tiny.  [the most complete]")
@click.option("--open", "open_page", is_flag=True, help="Open index.html in the browser.")
def report(
    results: Path, reports: Path, suite: str | None, size: str | None, open_page: bool
) -> None:
    """Make a page, tables and figures from the records, and print the main table.

    index.html in the reports folder shows everything on one page, offline. index.md links to all
    tables and figures and lists what still lacks records.
    """
    from bench.records import load_records
    from bench.report import write_report
    from bench.report.page import PAGE

    if open_page and suite is not None:
        raise ConfigError("--open needs the whole report: leave out --suite")
    made = write_report(
        load_records(results),
        reports,
        command=_report_command(results, reports, suite, size),
        results=results,
        suite=suite,
        size=size,
    )
    click.echo(made.text)
    if open_page and click.launch(str((reports / PAGE).resolve())):
        click.echo("No browser could be started: open the page by hand.", err=True)


def _report_command(results: Path, reports: Path, suite: str | None, size: str | None) -> str:
    named = {"--results": results, "--reports": reports, "--suite": suite, "--size": size}
    given = [f"{name} {value}" for name, value in named.items() if value and str(value) != name[2:]]
    return " ".join(["bench report", *given])


@click.command(short_help="Test a difference between two methods.")
@click.argument("first")
@click.argument("second")
@shared.results
@click.option("--attack", help="Compare under this attack only, or 'clean'.  [all shared attacks]")
@click.option("--checkpoint", default="best", show_default=True, help="best or last.")
@click.option("--dataset", help="Data set, if both have records on several.")
@click.option("--arch", help="Network, if both have records of several.")
@click.option("--recipe", help="Recipe, if both have records of several.")
@click.option("--eps", callback=shared.radius, help="Radius, if both have several: 8/255 or 0.03.")
def compare(
    first: str, second: str, results: Path, attack: str | None, checkpoint: str, **choice: Any
) -> None:
    """Test whether FIRST is more robust than SECOND on the same images.

    FIRST and SECOND are methods or run ids. An image counts as robust if it survives every attack
    that both have in their records.

    \b
    bench compare cat-ce trades
    bench compare cat-ce trades --attack pgd-20 --checkpoint last
    """
    from bench.records import load_records
    from bench.report.compare import block
    from bench.report.compare import compare as compared
    from bench.report.table3 import require

    records = load_records(results)
    require(records, results)
    found = compared(records, first, second, attack=attack, checkpoint=checkpoint, **choice)
    click.echo(block(found))
