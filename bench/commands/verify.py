"""`bench verify`: short runs against pinned facts."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import comma_list, quiet_option


@click.command()
@click.option("--only", callback=comma_list, help="Methods and attacks: trades,pgd-20.  [all]")
@click.option(
    "--pin", is_flag=True, help="Write what is now, after a change that is meant to move."
)
@click.option(
    "--pins",
    type=click.Path(path_type=Path),
    default=Path("results/pinned"),
    show_default=True,
    help="Folder of the pins.",
)
@quiet_option
def verify(only: tuple[str, ...], pin: bool, pins: Path, quiet: bool) -> None:
    """Check that methods and attacks do what they did: short runs against pinned facts.

    Prints a line for each that moved, and what moved. Exit code 1 if any did.
    """
    from bench.progress import Reporter
    from bench.verify import verify as compare_with_pins

    with Reporter(quiet=quiet) as reporter:
        verdict = compare_with_pins(pins, only, reporter, pin=pin)
    for line in verdict.lines:
        click.echo(line)
    if verdict.moved or not quiet:
        click.echo(verdict.summary)
    if verdict.moved:
        raise click.exceptions.Exit(1)
