"""`bench speed`: how fast the same work is done here and elsewhere, on this machine, now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands.options import comma_list, device_option, quiet_option
from bench.commands.work import at_work


@click.command()
@click.option(
    "--only",
    callback=comma_list,
    help="step-trades,pgd-20,autoattack: the step of a method, or an attack.  [all]",
)
@click.option(
    "--arch", callback=comma_list, default="cnn,resnet-18", show_default=True, help="Networks."
)
@click.option(
    "--precision",
    callback=comma_list,
    help="Of our steps: fp32,bf16.  [fp32; also bf16 where the device multiplies it]",
)
@click.option(
    "--rounds", type=int, default=5, show_default=True, help="In which both sides take turns."
)
@click.option("--batch-size", type=int, help="Images of a step.  [cnn 128, others 32]")
@click.option("--images", type=int, help="Images of a PGD evaluation.  [cnn 1024, others 16]")
@click.option("--autoattack-images", type=int, help="Images of AutoAttack.  [cnn 64, others 4]")
@click.option("--effort", type=float, help="Share of AutoAttack's iterations.  [cnn 1, others 0.1]")
@click.option("--image-size", type=int, default=32, show_default=True, help="Pixels a side.")
@click.option(
    "--memory/--no-memory", default=True, help="Also the peak memory of a step, in a process each."
)
@click.option(
    "--peak/--no-peak",
    default=True,
    help="Also a step's shares of the convolution peak and of the matrix peak.",
)
@click.option(
    "--compile", "compiles", is_flag=True, help="Compile what our steps attack, as bench run does."
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the rows as JSON.")
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Instead: where the time of a step goes, ours and the plain loop's, into FOLDER.",
)
@click.option(
    "--roofline",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Instead: each layer beside what the machine can; a table and a figure into FOLDER.",
)
@click.option(
    "--scaling",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Instead: how a step scales with batch, network, attack and image size, into FOLDER.",
)
@device_option
@quiet_option
def speed(
    only: tuple[str, ...],
    arch: tuple[str, ...],
    precision: tuple[str, ...],
    out: Path | None,
    profile: Path | None,
    roofline: Path | None,
    scaling: Path | None,
    device: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure training steps and attacks beside plain loops and other packages.

    Each pair does the same work on the same images and takes turns in one process; the table gives
    medians. Without --only this takes hours on a CPU. The plain loops are in benchmarks/ of a
    checkout; pip install 'atbench[peers]' brings the other packages.

    \b
    bench speed --only step-trades,step-mart --arch cnn
    bench speed --only pgd-20,autoattack --out speed.json
    bench speed --profile profile --only step-madry --arch resnet-18
    bench speed --scaling results/speed          minutes; `make docs` makes docs/scaling.md of it
    """
    is_page = any(folder is not None for folder in (profile, roofline, scaling))
    for option, given in (("--compile", options["compiles"]), ("--out", out is not None)):
        if given and is_page:
            none = "none of --profile, --roofline and --scaling"
            raise click.UsageError(f"{option} goes with {none}")
    with at_work(device, 1, quiet) as (chosen, reporter, command, _):
        from bench.machine import describe_machine
        from bench.speed.pages import profile_into, roofline_into, scaling_into
        from bench.speed.plan import make_jobs, rows_of
        from bench.speed.row import Row, table, write_rows
        from bench.speed.setting import settings
        from bench.storage import check_writable

        asked = settings(arch, precision, chosen, **options)
        made: list[str] = []
        if profile is not None:
            made.append(profile_into(profile, only, asked, reporter, command))
        if roofline is not None:
            sizes = {name: options[name] for name in ("batch_size", "image_size")}
            made.append(roofline_into(roofline, arch, chosen, reporter, command, **sizes))
        if scaling is not None:
            made.append(scaling_into(scaling, precision, chosen, reporter, command))
        jobs = [] if is_page else make_jobs(only, asked)
        if jobs and out is not None:
            check_writable(out)
        machine = describe_machine(chosen)
        rows: list[Row] = []
        for row in rows_of(jobs, reporter):
            rows.append(row)
            if out is not None:  # after each, so that what was measured is kept
                write_rows(out, rows, machine, command)
        if not is_page:
            made.append(table(rows, machine))
    if not quiet:
        click.echo("\n\n".join(made))
