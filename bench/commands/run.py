"""`bench run`: train, attack and measure, and do only what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands import options as shared
from bench.errors import BenchError, ConfigError

if TYPE_CHECKING:
    from bench.data import Dataset
    from bench.experiments.plan import Plan, RunStatus
    from bench.experiments.study import Study
    from bench.experiments.suite import Suite
    from bench.jobs.devices import Devices
    from bench.jobs.workspace import Machines, Workspace

ONE_STUDY = ("methods", "arch", "eps", "attacks", "params")
"""Options that can change a suite of one study, but not a suite of several."""


@click.command(short_help="Train methods and attack them.")
@click.option(
    "--methods",
    callback=shared.comma_list,
    help="Methods to train, by name or file: cat-ce,trades,./mine.py.  [the suite's]",
)
@click.option(
    "--against",
    callback=shared.comma_list,
    help="Baselines: train these too, then compare each of --methods with each of them.",
)
@click.option("--arch", help="Network, such as wrn or vgg.  [the suite's]")
@click.option("--dataset", help="Data set: digits, cifar10, npz:PATH, ...  [the suite's]")
@shared.data_root
@click.option(
    "--suite",
    help="Experiment to start from; the other options change it.  [digits; cifar10 with --arch or "
    "another --dataset]",
)
@click.option("--size", help="Size of a suite: full, small, tiny, ...  [the largest]")
@click.option("--seeds", callback=shared.comma_list, help="Training seeds: 0,1,2.  [the suite's]")
@click.option("--epochs", type=int, help="Passes over the training images.  [the recipe's]")
@click.option("--batch-size", type=int, help="Training images per step.  [the recipe's]")
@click.option(
    "--micro-batch",
    type=int,
    help="Images per forward pass: sum the gradients of a step over parts of its batch, for a GPU "
    "with little memory. BatchNorm normalises each part by itself.  [the whole batch]",
)
@click.option(
    "--eps",
    callback=shared.radius,
    help="Radius of training and attacks, in pixels of [0, 1]: 8/255 or 0.03.  [the suite's]",
)
@click.option("--train-size", type=int, help="Use only the first N training images.")
@click.option("--test-size", type=int, help="Use only the first N test images.")
@click.option(
    "--attacks",
    callback=shared.comma_list,
    help="Attacks: pgd-20,cw,autoattack; pgd-20@4/255 overrides eps for one.  [the suite's]",
)
@click.option(
    "--checks/--no-checks",
    default=None,
    help="Test for gradient masking.  [the suite's; no with --attacks]",
)
@click.option("--recipe", help="Training recipe; see bench list recipes.  [the suite's]")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="METHOD.NAME=VALUE",
    help="Override a hyper-parameter of a method; repeat for several.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "auto"]),
    help="Precision of training; auto takes bf16 if the device is fast in it and it costs no "
    "accuracy.  [the suite's, else fp32]",
)
@click.option(
    "--gpus-per-training",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="K",
    help="Train each network on K GPUs of one machine, or by K processes on a CPU. BatchNorm and "
    "random draws span the whole batch, so results are those of one GPU up to rounding. With "
    "--workers, a training takes the GPUs of K workers. Not on a Ray cluster.",
)
@shared.machines
@shared.results
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write the histories of the trainings there, as TensorBoard scalars.",
)
@click.option("--dry-run", is_flag=True, help="Print the planned runs and an estimate, then stop.")
@click.option(
    "--devices",
    metavar="NxNAME",
    help="With --dry-run: plan for these instead: 8xA100, 64xH100, 4xcpu. Times are those of the "
    "records of such devices in --results, else an estimate; 8xNAME:200 gives the speed of another "
    "device in TFLOP/s. Needs no data set.",
)
@shared.quiet
def run(
    dry_run: bool,
    quiet: bool,
    results: Path,
    machines: Machines,
    gpus_per_training: int,
    devices: str | None,
    against: tuple[str, ...],
    tensorboard: Path | None,
    **options: Any,
) -> None:
    """Train methods and attack them, skipping what is already done.

    \b
    bench run --methods madry,trades --seeds 0,1,2
    bench run --methods ./mine.py --against madry
    bench run --methods cat-ce --arch wrn --dry-run
    bench run --suite paper --size tiny

    Without --arch, --dataset or --suite this runs the digits suite. Records go to --results;
    'bench report' makes tables and figures of them.
    """
    suite, studies = _studies(options)  # report a mistake in the options before loading torch
    from bench.jobs.devices import Devices
    from bench.jobs.workspace import workspace
    from bench.tensorboard import HistoryScalars

    if machines.cluster not in ("", "slurm") and gpus_per_training > 1:
        raise ConfigError(
            "--gpus-per-training is for this machine and --cluster slurm: on Ray a training has "
            "one GPU; leave it out"
        )
    others = Devices.parse(devices) if devices else None
    if others and not dry_run:
        raise ConfigError("--devices plans for other machines: add --dry-run")
    is_auto = any(study.precision == "auto" for study in studies)
    if (machines.cluster or others) and is_auto:
        raise ConfigError(
            "--precision auto looks at this machine's device: with --cluster or --devices, choose "
            "fp32 or bf16"
        )
    own = studies[0].methods
    scalars = None if tensorboard is None or dry_run else HistoryScalars(tensorboard)
    if against:
        suite.only()
    elsewhere = bool(machines.cluster)
    if dry_run:
        machines = replace(machines, workers=None, cluster="", slurm=())
    with workspace(results, machines, quiet) as where:
        from bench.estimate import describe_plan
        from bench.experiments.plan import make_plans, suite_manifests
        from bench.jobs.driver import run_plans
        from bench.records.manifest import add_to_manifests

        reporter = where.reporter
        if against:
            studies = [_with_baselines(studies[0], against)]
        if others:
            click.echo(_elsewhere(suite.title, studies, where, others, gpus_per_training))
            return
        if not machines.cluster:
            studies = _with_precision(studies, where)
        plans = make_plans(suite.title, studies)
        where = _with_gpus(where, plans, gpus_per_training, elsewhere)
        for line in dict.fromkeys(line for p in plans for line in p.dataset.lines(trains=True)):
            reporter.say(line)
        for line in dict.fromkeys(run.warning for plan in plans for run in plan.runs):
            if line:
                reporter.say(line)
        if dry_run:
            texts = [describe_plan(plan, results, where.device, reporter) for plan in plans]
            if gpus_per_training > 1:
                texts.append(
                    "Training times are those of one GPU; --gpus-per-training "
                    f"{gpus_per_training} divides them by {gpus_per_training} at most."
                )
            click.echo("\n\n".join(texts))
            return
        add_to_manifests(results, [found for plan in plans for found in suite_manifests(plan)])
        before = [status for plan in plans for status in plan.statuses(results)]
        where = replace(where, scalars=scalars)
        run_plans(plans, where, {"suite": suite.name})
    after = [status for plan in plans for status in plan.statuses(results)]
    if not quiet:
        click.echo(_done(before, after, results, len(reporter.failures)))
        if against:
            click.echo(_verdicts(plans[0], results, own, against))
    if any(status.failed for status in after):
        raise click.exceptions.Exit(1)
    if reporter.failures:
        raise click.exceptions.Exit(reporter.exit_code)


def _elsewhere(
    title: str, studies: list[Study], where: Workspace, devices: Devices, gpus_per_training: int
) -> str:
    """Return the page of --devices; raises a BenchError."""
    from bench.experiments.plan import make_plans
    from bench.experiments.stand_in import here_or_stand_in
    from bench.jobs.rehearsal import describe_devices

    if gpus_per_training > devices.n:
        raise ConfigError(f"--gpus-per-training {gpus_per_training}: --devices has {devices.n}")

    def load(study: Study) -> Dataset:
        sizes = study.train_size, study.test_size
        return here_or_stand_in(study.dataset, study.data_root, *sizes)

    plans = make_plans(title, studies, load)
    _refuse_ranks(plans, gpus_per_training)
    return describe_devices(plans, replace(where, gpus_per_training=gpus_per_training), devices)


def _with_gpus(where: Workspace, plans: Sequence[Plan], n: int, elsewhere: bool) -> Workspace:
    """Return where to compute with n GPUs per training; raises ConfigError if that cannot be.

    elsewhere: whether they are those of a cluster, not of this machine.
    """
    from bench.machine import several_devices

    if n > 1 and where.device.index is not None:
        raise ConfigError(
            f"--gpus-per-training {n}: --device {where.device} is one GPU; use --device cuda"
        )
    if not elsewhere:
        several_devices(where.device, n)
    _refuse_ranks(plans, n)
    return replace(where, gpus_per_training=n)


def _refuse_ranks(plans: Sequence[Plan], n: int) -> None:
    from bench.training.batching import refuse_ranks

    for spec in [run.train_spec for plan in plans for run in plan.runs]:
        refuse_ranks(spec.recipe, spec.n_train, n)


def _with_precision(studies: list[Study], where: Workspace) -> list[Study]:
    from bench.machine import has_fast_bf16
    from bench.precision import automatic, evidence

    fast = has_fast_bf16(where.device)
    asked = {study.precision for study in studies}
    if "bf16" in asked and not fast:
        where.reporter.say(
            "--precision bf16: this device has none in hardware; expect it to be slow"
        )
    if "auto" not in asked:
        return studies
    precision, why = automatic(fast, evidence())
    where.reporter.say(f"--precision auto: {precision}, since {why}")
    chosen = {"auto": precision}
    return [replace(s, precision=chosen.get(s.precision, s.precision)) for s in studies]


def _with_baselines(study: Study, against: Sequence[str]) -> Study:
    """Add the methods of `against` to the study, each once, however it is named."""
    from bench.registry import method_name

    if not _pairs(study.methods, against):
        raise ConfigError(f"--against {','.join(against)}: name another method than --methods does")
    by_name = {method_name(name): name for name in reversed((*study.methods, *against))}
    return replace(study, methods=tuple(reversed(by_name.values())))


def _verdicts(plan: Plan, results: Path, methods: Sequence[str], against: Sequence[str]) -> str:
    """Compare each of `methods` with each of `against`, one line per pair, corrected for all.

    Only runs of the plan are compared, whatever else the folder holds.
    """
    from bench.records import load_records
    from bench.report.compare import compare, corrected, sentence

    ids = {run.run_id for run in plan.runs}
    runs = [run for run in load_records(results) if run.run_id in ids]
    compared, missing = [], []
    for first, second in _pairs(methods, against):
        try:
            compared.append(compare(runs, first, second))
        except BenchError as error:
            missing.append(f"{first} and {second} were not compared: {error}")
    return "\n".join([*(sentence(pair) for pair in corrected(compared)), *missing])


def _pairs(methods: Sequence[str], against: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of registered names, each pair once, even if both are on both sides."""
    from bench.registry import method_name

    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for first, second in product(map(method_name, methods), map(method_name, against)):
        if first != second:
            pairs.setdefault(frozenset((first, second)), (first, second))
    return list(pairs.values())


def _done(
    before: Sequence[RunStatus], after: Sequence[RunStatus], results: Path, n_failures: int
) -> str:
    pairs = [pair for pair in zip(before, after, strict=True) if not pair[1].failed]
    n_trained = sum(not old.trained and new.trained for old, new in pairs)
    n_made = sum(old.n_missing - new.n_missing for old, new in pairs)
    n_failed = sum(new.failed is not None for new in after) + n_failures
    named = "" if results == Path("results") else f" --results {results}"
    return (
        f"{len(after)} runs in {results}: {n_trained} trained, {n_made} evaluations and checks "
        f"made, {n_failed} failed. Next: bench report{named}"
    )


def _studies(options: dict[str, Any]) -> tuple[Suite, list[Study]]:
    from bench.experiments.study import changed
    from bench.experiments.suite import load_suite

    on_digits = options["arch"] is None and options["dataset"] in (None, "digits")
    name = options.pop("suite") or ("digits" if on_digits else "cifar10")
    suite = load_suite(name, options.pop("size"))
    if any(options[name] not in (None, ()) for name in ONE_STUDY):
        suite.only()
    return suite, [changed(study, **options) for study in suite.studies]
