"""`bench evaluate` and `bench verify-adversarials`: existing models and their saved images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands import options as shared
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.jobs.workspace import Machines


@click.command(short_help="Attack existing runs or a model of your own.")
@click.argument("runs", nargs=-1, metavar="[RUN_ID]...")
@click.option(
    "--model",
    help="Model from outside: FILE.py:FACTORY, robustbench:NAME, torchvision:NAME, timm:NAME.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Weights for --model: safetensors, or a state dict that loads without running code; "
    "FILE:KEY for a file with several.  [the factory's or package's]",
)
@shared.mean
@shared.std
@click.option(
    "--attacks",
    callback=shared.comma_list,
    default="clean,pgd-20,cw,autoattack",
    show_default=True,
    help="Attacks to run; pgd-20@4/255 overrides eps for one.",
)
@click.option(
    "--checkpoints",
    callback=shared.comma_list,
    default="best",
    show_default=True,
    help="Checkpoints of a run to attack: best,last.",
)
@click.option(
    "--dataset",
    help="Data set to test on; a run evaluated on other data gets a separate record.  [the run's; "
    "required with --model]",
)
@shared.data_root
@click.option(
    "--eps",
    callback=shared.radius,
    help="Radius of the attacks: 8/255 or 0.03.  [the run's; 8/255 with --model]",
)
@click.option("--test-size", type=int, help="Use only the first N test images.")
@click.option("--checks", is_flag=True, help="Test for gradient masking: checks C1 to C14.")
@click.option(
    "--check-size",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Number of test images that the checks use.",
)
@click.option(
    "--surrogate",
    metavar="RUN_ID",
    help="With --model: a naturally trained run, the surrogate of transfer and C1, C2, C12.",
)
@click.option("--save-adversarials", is_flag=True, help="Also save the adversarial images.")
@shared.machines
@shared.results
@shared.quiet
def evaluate(
    runs: tuple[str, ...],
    model: str | None,
    weights: Path | None,
    mean: str | None,
    std: str | None,
    results: Path,
    machines: Machines,
    quiet: bool,
    **options: Any,
) -> None:
    """Attack existing runs (by RUN_ID) or a model of your own (--model).

    \b
    bench evaluate cat-ce-cnn-digits-s0-0123456789 --attacks autoattack --checks
    bench evaluate --model mine.py:make --weights mine.safetensors --dataset cifar10
    bench evaluate --model robustbench:Wong2020Fast --dataset cifar10

    Run the same command again to resume; finished evaluations are skipped.
    """
    if bool(runs) == bool(model):
        raise ConfigError("name runs by their ids (bench report lists them), or one --model")
    if runs and (weights or mean or std):
        raise ConfigError("--weights, --mean and --std go with --model; a run has its own")
    from bench.jobs.workspace import workspace

    with workspace(results, machines, quiet) as where:
        from bench.evaluate_model import EvaluateOptions, evaluate_external, evaluate_runs
        from bench.external import Named

        if model:
            named = Named(model=model, weights=weights, mean=mean, std=std)
            evaluate_external(named, EvaluateOptions(**options), where)
        else:
            evaluate_runs(runs, EvaluateOptions(**options), where)
    if where.reporter.failures:
        raise click.exceptions.Exit(where.reporter.exit_code)


@click.command("verify-adversarials", short_help="Verify saved adversarial images.")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option("--model", help="Run id, or model as in bench evaluate.  [the run in the file]")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights for --model.")
@shared.mean
@shared.std
@click.option("--dataset", help="Data set with the original images.  [the run's]")
@shared.data_root
@shared.device
@shared.results
def verify_adversarials(files: tuple[Path, ...], device: str, **options: Any) -> None:
    """Verify images saved by bench evaluate --save-adversarials.

    Each must lie within eps of its original and in [0, 1], have its label, and be classified
    correctly or not as recorded. Exit code 1 if anything differs, 2 if a file cannot be used.
    """
    from bench.machine import choose_device, tune_process
    from bench.verify_adversarials import VerificationTarget, verify_files

    tune_process()
    codes = [0]
    for line, code in verify_files(files, VerificationTarget(**options), choose_device(device)):
        click.echo(f"error: {line}" if code == 2 else line, err=code == 2)
        codes.append(code)
    if max(codes):
        raise click.exceptions.Exit(max(codes))
