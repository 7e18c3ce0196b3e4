"""`bench evaluate` and `bench verify-adversarials`: models that are there, and images of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands.options import (
    comma_list,
    data_root_option,
    device_option,
    quiet_option,
    results_option,
    workers_option,
)
from bench.commands.work import at_work


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN_ID]...")
@click.option(
    "--model",
    help="A model that was not trained here: FILE.py:FACTORY, robustbench:NAME, torchvision:NAME, "
    "timm:NAME.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Its weights: safetensors, or a state dict that opens without running code; FILE:KEY of "
    "a file with several.  [the factory's or the package's own]",
)
@click.option("--mean", help="With --model: normalise in front of it, by 0.49,0.48,0.45 a channel.")
@click.option("--std", help="With --mean: by this standard deviation, 0.25,0.24,0.26.")
@click.option(
    "--attacks",
    callback=comma_list,
    default="clean,pgd-20,cw,autoattack",
    show_default=True,
    help="pgd-20@4/255 for an eps of its own.",
)
@click.option(
    "--checkpoints",
    callback=comma_list,
    default="best",
    show_default=True,
    help="Of runs: best,last.",
)
@click.option(
    "--dataset",
    help="Test images; on data other than its own a run gets a separate record.  [the run's own; "
    "needed with --model]",
)
@data_root_option
@click.option("--eps", help="Radius: 8/255 or 0.03.  [the run's own; 8/255 with --model]")
@click.option("--test-size", type=int, help="Only the first so many test images.")
@click.option("--checks", is_flag=True, help="Look for masked gradients: checks C1 to C14.")
@click.option(
    "--check-size",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="The checks look at the first so many test images.",
)
@click.option(
    "--surrogate",
    metavar="RUN_ID",
    help="With --model: a naturally trained run, for transfer and checks C1, C2, C12.",
)
@click.option("--save-adversarials", is_flag=True, help="Also write the adversarial images.")
@workers_option
@device_option
@results_option
@quiet_option
def evaluate(
    runs: tuple[str, ...],
    model: str | None,
    weights: Path | None,
    mean: str | None,
    std: str | None,
    device: str,
    results: Path,
    workers: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Attack runs that are there (by RUN_ID), or a model of your own (--model).

    \b
    bench evaluate cat-ce-cnn-digits-s0-0123456789 --attacks autoattack --checks
    bench evaluate --model mine.py:make --weights mine.safetensors --dataset cifar10
    bench evaluate --model robustbench:Wong2020Fast --dataset cifar10

    Run the same command again and it does only what is missing.
    """
    from bench.attack_given import Workspace, evaluate_external, evaluate_runs
    from bench.errors import ConfigError
    from bench.external import Named
    from bench.plan_runs import EvaluateOptions

    if bool(runs) == bool(model):
        raise ConfigError("name runs by their ids (bench report lists them), or one --model")
    if runs and (weights or mean or std):
        raise ConfigError("--weights, --mean and --std go with --model; a run has its own")
    request = EvaluateOptions(**options)
    with at_work(device, workers, quiet) as (chosen, reporter, command, others):
        where = Workspace(results, chosen, reporter, command, others)
        if model:
            named = Named(model=model, weights=weights, mean=mean, std=std)
            evaluate_external(named, request, where)
        else:
            evaluate_runs(runs, request, where)
    if reporter.failures:
        raise click.exceptions.Exit(reporter.exit_code)


@click.command("verify-adversarials")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option("--model", help="A run id, or a model as for bench evaluate.  [the file's own run]")
@click.option("--weights", type=click.Path(path_type=Path), help="Of a model from outside.")
@click.option("--mean", help="With --model: normalise in front of it, by 0.49,0.48,0.45 a channel.")
@click.option("--std", help="With --mean: by this standard deviation, 0.25,0.24,0.26.")
@click.option("--dataset", help="The images before the attack.  [the run's own]")
@data_root_option
@device_option
@results_option
def verify_adversarials(files: tuple[Path, ...], device: str, **options: Any) -> None:
    """Check images again that bench evaluate --save-adversarials wrote.

    Each must be within eps of its image and in [0, 1], have its label, and be predicted right or
    wrong as the file says. Exit code 1 if anything differs, 2 if a file is of no use.
    """
    from bench.machine import choose_device, tune_process
    from bench.rechecking import VerificationTarget, verify_files

    tune_process()
    verdicts = []
    for verdict in verify_files(files, VerificationTarget(**options), choose_device(device)):
        said = verdict.line if verdict.usable else f"error: {verdict.line}"
        click.echo(said, err=not verdict.usable)
        verdicts.append(verdict)
    if not all(verdict.usable for verdict in verdicts):
        raise click.exceptions.Exit(2)
    if not all(verdict.holds for verdict in verdicts):
        raise click.exceptions.Exit(1)
