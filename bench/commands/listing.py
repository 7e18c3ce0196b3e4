"""`bench list`: the names in each registry."""

from __future__ import annotations

import click

LISTED = ("methods", "archs", "datasets", "attacks", "suites", "recipes")


@click.command("list")
@click.argument("kind", type=click.Choice(LISTED), default="methods")
def list_command(kind: str) -> None:
    """Print the names of methods, archs, datasets, attacks, suites or recipes."""
    from bench.listing import listing

    click.echo(listing(kind))
