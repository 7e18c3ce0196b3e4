"""`bench list`, `bench doctor` and `bench verify`."""

import sys
from pathlib import Path

import click

from bench.commands import options as shared
from bench.errors import ConfigError

LISTED = ("methods", "archs", "datasets", "attacks", "suites", "recipes")


@click.command("list", short_help="List methods, attacks, data, suites, ...")
@click.argument("kind", type=click.Choice(LISTED), default="methods")
@click.option("--long", is_flag=True, help="Of methods: their formulas, state and cost per step.")
def list_command(kind: str, long: bool) -> None:
    """Print the names of methods, archs, datasets, attacks, suites or recipes."""
    from bench.listing import listing

    click.echo(listing(kind, long))


@click.command(short_help="Show this machine and what is missing.")
@click.option("--suite", help="Also estimate the time of this suite.")
@click.option("--size", help="Size of the suite: full, small, tiny.  [full]")
@shared.device
@shared.data_root
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=25.0,
    show_default=True,
    help="About how long to measure speeds; 0 measures none.",
)
@click.option(
    "--cluster",
    metavar="ray|HOST:PORT|slurm",
    help="Show this cluster instead, as `bench run --cluster` names it.",
)
def doctor(
    suite: str | None,
    size: str | None,
    device: str,
    data_root: str | None,
    seconds: float,
    cluster: str | None,
) -> None:
    """Show this machine, what is missing and how to fix it, and the training speed.

    \b
    bench doctor
    bench doctor --suite table3 --size full      also the time of that suite on this machine
    bench doctor --cluster 10.0.0.5:6379         nodes, GPUs, versions, time of an empty job
    """
    if cluster:
        from bench.doctor import describe_cluster

        click.echo(describe_cluster(cluster))
        return
    from bench.experiments.suite import load_suite

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


@click.command(short_help="Compare short runs with pinned results.")
@click.option(
    "--only", callback=shared.comma_list, help="Methods and attacks: trades,pgd-20.  [all]"
)
@click.option("--pin", is_flag=True, help="Write new baselines after an intended change.")
@click.option(
    "--pins",
    type=click.Path(path_type=Path),
    default=Path("results/pinned"),
    show_default=True,
    help="Folder of the baselines.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Compute there, from random numbers of the CPU. cuda: a few minutes test a GPU.",
)
@shared.quiet
def verify(only: tuple[str, ...], pin: bool, pins: Path, device: str, quiet: bool) -> None:
    """Compare short runs of methods and attacks with their pinned baselines.

    Prints a line for each that differs, and what differs. Exit code 1 if any does.
    """
    from bench.machine import choose_device
    from bench.progress import Reporter
    from bench.verify import verify as compare_with_pins

    where = choose_device(device)
    if pin and where.type != "cpu":
        raise ConfigError("--pin writes what a CPU computes: leave --device out")
    with Reporter(quiet=quiet) as reporter:
        verdict = compare_with_pins(pins, only, reporter, pin=pin, device=where)
    for line in verdict.lines:
        click.echo(line)
    if verdict.moved or not quiet:
        click.echo(verdict.summary)
    if verdict.moved:
        raise click.exceptions.Exit(1)
