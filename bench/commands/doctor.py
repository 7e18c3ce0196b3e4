"""`bench doctor`: what this machine is, what is missing, and how fast it is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.commands.options import data_root_option, device_option


@click.command()
@click.option("--suite", help="Also estimate the time of this suite.")
@click.option("--size", help="Size of the suite: full, small, tiny.  [full]")
@device_option
@data_root_option
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=25.0,
    show_default=True,
    help="About how long to measure speeds; 0 measures none.",
)
def doctor(
    suite: str | None, size: str | None, device: str, data_root: str | None, seconds: float
) -> None:
    """Show this machine, what is missing and how to fix it, and the training speed.

    \b
    bench doctor
    bench doctor --suite table3 --size full      also the time of that suite on this machine
    """
    from bench.errors import ConfigError
    from bench.suite import load_suite

    if size and not suite:
        raise ConfigError(f"--size {size} is that of a suite; name it with --suite")
    loaded = load_suite(suite, size) if suite else None
    from bench.doctor import diagnosis
    from bench.machine import choose_device, tune_process
    from bench.progress import Reporter

    tune_process()
    with Reporter(quiet=not sys.stderr.isatty()) as reporter:
        root = Path(data_root or "data")
        text = diagnosis(choose_device(device), seconds, root, loaded, reporter)
    click.echo(text)
