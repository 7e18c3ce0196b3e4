"""Options that several commands share."""

from collections.abc import Callable
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
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Number of worker processes: one per GPU, or a share of the CPU cores.",
    ),
    click.option(
        "--per-gpu",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Number of workers that share a GPU; several help where networks are small.",
    ),
    device,
)


def machines(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what to compute on; the command gets them as `machines`."""

    @wraps(command)
    def wrapped(*args: Any, device: str, workers: int, per_gpu: int, **others: Any) -> Any:
        from bench.jobs.workspace import Machines

        chosen = Machines(device=device, workers=workers, per_gpu=per_gpu)
        return command(*args, machines=chosen, **others)

    for option in reversed(MACHINES):
        wrapped = option(wrapped)
    return wrapped
