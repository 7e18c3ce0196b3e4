"""Options that several commands share."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from bench.eps import parse_eps
from bench.errors import ConfigError


def comma_list(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Return the parts of a comma-separated list; empty if the option is absent.

    Raises ConfigError for a list without parts.
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


def n_workers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Return the number, or 0 for auto; raises click's error for any other text."""
    if text in (None, "auto"):
        return None if text is None else 0
    return int(click.IntRange(min=1)(text, parameter, ctx))


def radius(ctx: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """Return eps as a float in [0, 1]; raises ConfigError for any other text."""
    return None if text is None else parse_eps(text)


results = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of the records.",
)
device = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
quiet = click.option("--quiet", is_flag=True, help="Print errors only.")
data_root = click.option("--data-root", help="Folder of downloaded data sets.  [default: data]")
mean = click.option(
    "--mean", help="With --model: normalise its input by this mean per channel: 0.49,0.48,0.45."
)
std = click.option(
    "--std", help="With --mean: and by this standard deviation per channel: 0.25,0.24,0.26."
)

MACHINES = (
    click.option(
        "--workers",
        callback=n_workers,
        metavar="N|auto",
        help="Number of worker processes: one per GPU, or a share of the CPU cores. auto: use "
        "every GPU. With --cluster: the most jobs at once.  [1; with Ray, all that fit]",
    ),
    click.option(
        "--per-gpu",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Number of workers that share a GPU; several help where networks are small.",
    ),
    click.option(
        "--cluster",
        default="",
        metavar="ray|HOST:PORT|slurm",
        help="Work on a Ray cluster: the one that was started here, or at HOST:PORT or "
        "ray://HOST:PORT; or by jobs of Slurm.  [this machine]",
    ),
    click.option(
        "--slurm",
        callback=comma_list,
        metavar="KEY=VALUE,...",
        help="Options of sbatch for --cluster slurm: partition=gpu,time=24:00:00,account=me.",
    ),
    device,
)


def machines(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what to compute on; the command gets them as `machines`."""

    @wraps(command)
    def wrapped(*args: Any, **given: Any) -> Any:
        from bench.jobs.workspace import Machines

        names = [field.name for field in fields(Machines)]
        chosen = Machines(**{name: given.pop(name) for name in names})
        return command(*args, machines=chosen, **given)

    for option in reversed(MACHINES):
        wrapped = option(wrapped)
    return wrapped
