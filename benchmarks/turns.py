"""Time pieces of work in alternating turns, and keep the results as JSON rows."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import click
import torch
from torch.utils.benchmark import timer

from bench.machine import choose_device, describe_machine, machine_text, tune_process
from bench.storage import check_writable, write_json
from benchmarks.pages import speed_table

Work = Callable[[], object]
Command = TypeVar("Command", bound=Callable[..., Any])


def seconds(work: Work) -> float:
    """Return the seconds of `work`, on a GPU until it has finished."""
    since = timer()
    work()
    elapsed: float = timer() - since
    return elapsed


def in_turns(sides: Sequence[Work], rounds: int, *, warm_up: bool = True) -> list[list[float]]:
    """Return the seconds of each side in each round; a busy machine slows all of them alike.

    The first to go alternates. `warm_up` runs each once before.
    """
    found: list[list[float]] = [[] for _ in sides]
    if warm_up:
        for work in sides:
            work()
    for number in range(rounds):
        order = range(len(sides))
        for side in reversed(order) if number % 2 else order:
            found[side].append(seconds(sides[side]))
    return found


def compared(what: str, ours: Sequence[float], theirs: Sequence[float], n: int) -> dict[str, Any]:
    """Return the part of a row that two sides' seconds over n images give; `theirs` may be empty.

    ratio: how many times faster ours is, the median of the rounds' ratios.
    """
    ratios = [b / a for a, b in zip(ours, theirs, strict=False)]
    return {
        "what": what,
        "n_images": n,
        "n_rounds": len(ours),
        "ours_images_per_second": n / median(ours),
        "reference_images_per_second": n / median(theirs) if theirs else None,
        "ratio": median(ratios) if ratios else None,
        "ratios": ratios,
    }


def options(command: Command) -> Command:
    """Add --device and --rounds."""
    command = click.option("--rounds", default=5, show_default=True, help="Turns of each.")(command)
    about = "cpu, cuda, cuda:1."
    return click.option("--device", default="auto", show_default=True, help=about)(command)


def network_options(command: Command) -> Command:
    """Add --arch and --image-size."""
    about = "Pixels a side."
    command = click.option("--image-size", default=32, show_default=True, help=about)(command)
    arch = click.option("--arch", default="cnn,resnet-18", show_default=True, callback=names)
    return arch(command)


def step_options(command: Command) -> Command:
    """Add the options that choose training steps; `workloads.specs` takes them."""
    for option in (
        click.option("--batch-size", type=int, help="Images of a step.  [cnn 128, others 32]"),
        click.option("--precision", callback=names, help="[fp32; also bf16 if the device has it]"),
        click.option("--methods", callback=names, help="trades,madry.  [those with a plain loop]"),
    ):
        command = option(command)
    return network_options(command)


def out_option(about: str) -> Callable[[Command], Command]:
    return click.option("--out", type=click.Path(path_type=Path), help=about)


def names(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Split a comma-separated option."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def begin(device: str, out: Path | None = None) -> torch.device:
    """Set up threads as `bench` does and return the device; check that `out` can be written."""
    tune_process()
    if out is not None:
        check_writable(out)
    return choose_device(device)


def command_line() -> str:
    """Return the command that runs, as a person would type it."""
    name = Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])


def keep(out: Path | None, rows: Sequence[Mapping[str, Any]], device: torch.device) -> None:
    """Write the rows, each with its machine and command; after each row, so that none is lost."""
    if out is not None:
        machine = describe_machine(device)
        about = {"threads": machine["threads"], "machine": machine, "command": command_line()}
        write_json(out, [{**row, **about} for row in rows])


def show(rows: Sequence[Mapping[str, Any]], device: torch.device) -> None:
    """Print the rows as a table."""
    click.echo(speed_table(rows))
    click.echo(f"Medians of alternating turns on {machine_text(describe_machine(device))}.")
