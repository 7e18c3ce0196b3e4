"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from bench.errors import ConfigError


def comma_list(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Return the parts of a comma-separated list, and none where the option is not given.

    Raises ConfigError for a list without parts: as an empty tuple it would be taken for no list.
    """
    if text is None:
        return ()
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise ConfigError(
            f"{parameter.opts[0]} '{text}' names nothing; "
            "give one or several, separated by commas, or leave the option out"
        )
    return parts


results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of the records.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the work; a GPU each, or a share of the cores.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
data_root_option = click.option(
    "--data-root", help="Folder of downloaded data sets.  [default: data]"
)
