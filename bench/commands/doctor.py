"""`bench doctor`: what this machine is, what it lacks, and how fast it is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.commands.options import data_root_option, device_option, results_option


@click.command()
@click.option("--suite", help="Also say what this suite takes.")
@click.option("--size", help="Of a suite with several: full, small, tiny.  [full]")
@device_option
@data_root_option
@results_option
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=25.0,
    show_default=True,
    help="Time to measure speeds in, about; 0 measures none.",
)
def doctor(
    suite: str | None,
    size: str | None,
    device: str,
    data_root: str | None,
    results: Path,
    seconds: float,
) -> None:
    """Say what this machine is, what is missing, and what training speed to expect.

    \b
    bench doctor
    bench doctor --suite table3 --size full      what that suite would take, here and on record
    """
    from bench.errors import ConfigError
    from bench.suite import load_suite

    if size and not suite:
        raise ConfigError(f"--size {size} is that of a suite; name it with --suite")
    asked_suite = load_suite(suite, size) if suite else None
    from bench.doctor.page import Asked, diagnosis
    from bench.machine import choose_device, tune_process
    from bench.progress import Reporter

    tune_process()
    with Reporter(quiet=not sys.stderr.isatty()) as reporter:
        asked = Asked(
            device=choose_device(device),
            seconds=seconds,
            data_root=Path(data_root or "data"),
            results=results,
            suite=asked_suite,
        )
        text = diagnosis(asked, reporter)
    click.echo(text)
