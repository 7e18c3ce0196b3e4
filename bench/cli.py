"""The command line. Every import that is slow waits for the command that needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.errors import BenchError

if TYPE_CHECKING:
    import torch

    from bench.plan import CellStatus
    from bench.progress import Reporter
    from bench.study import Study
    from bench.suite import Suite

# Before torch is loaded: threads that spin while they wait for each other make a small network
# a hundred times slower as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ONE_STUDY = ("methods", "arch", "eps", "recipe", "attacks", "params")
"""Options of `bench run` that change a suite of one study, and no suite of several."""
LISTED = ("methods", "archs", "datasets", "attacks", "suites", "recipes")


class BenchGroup(click.Group):
    """A user's mistake is one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BenchError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("stopped; the same command goes on where this one was", err=True)
            ctx.exit(130)


@click.group(cls=BenchGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atbench")
def main() -> None:
    """Train adversarial training methods under one protocol, attack them, report.

    \b
    bench run                                    the digits suite: minutes on a CPU
    bench run --methods cat-ce,trades --arch wrn CIFAR-10 at 8/255, common recipe
    bench report                                 Table 3 from the records
    bench compare cat-ce trades                  the difference on the same images
    bench list methods                           what there is

    Run the same command again and it does only what is missing.
    """


def _split(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of the records.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the work; a GPU each, or a share of the cores.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
data_root_option = click.option(
    "--data-root", help="Folder of downloaded data sets.  [default: data]"
)


@main.command()
@click.option(
    "--methods", callback=_split, help="Names or files: cat-ce,trades,./mine.py.  [suite's]"
)
@click.option(
    "--against",
    callback=_split,
    help="Methods that run as well; at the end each of --methods is compared with each of them.",
)
@click.option("--arch", help="Network, such as wrn or vgg.  [suite's]")
@click.option("--dataset", help="digits, cifar10, npz:PATH, ...  [suite's]")
@data_root_option
@click.option(
    "--suite",
    help="Study to start from.  [digits; cifar10 with --arch or another --dataset]",
)
@click.option("--size", help="Of a suite with several: full, small, tiny.  [full]")
@click.option("--seeds", callback=_split, help="Training seeds: 0,1,2.  [suite's]")
@click.option("--epochs", type=int, help="Passes over the training images.  [recipe's]")
@click.option("--batch-size", type=int, help="Training images a step.  [recipe's]")
@click.option("--eps", help="Radius in pixels of [0, 1]: 8/255 or 0.03.  [suite's]")
@click.option("--train-size", type=int, help="Only the first so many training images.")
@click.option("--test-size", type=int, help="Only the first so many test images.")
@click.option(
    "--attacks", callback=_split, help="pgd-20,cw,autoattack; pgd-20@4/255 for an eps.  [suite's]"
)
@click.option(
    "--checks/--no-checks",
    default=None,
    help="Look for masked gradients.  [suite's; no with --attacks]",
)
@click.option("--recipe", help="How to train: see bench list recipes.  [suite's]")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="METHOD.NAME=VALUE",
    help="A method's parameter; may be repeated.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the training; attacks are evaluated in fp32.",
)
@workers_option
@device_option
@results_option
@click.option("--dry-run", is_flag=True, help="Print the cells and an estimate; do nothing.")
@quiet_option
def run(
    dry_run: bool,
    quiet: bool,
    device: str,
    results: Path,
    workers: int,
    against: tuple[str, ...],
    **options: Any,
) -> None:
    """Train methods and attack them; do only what is missing.

    Without --arch, --dataset or --suite this is the digits suite. The records go to --results;
    'bench report' makes tables of them.
    """
    suite, studies = _studies(options)
    from bench.against import verdicts, with_rivals
    from bench.machine import choose_device, use_threads
    from bench.plan import make_plans
    from bench.progress import Reporter

    use_threads()
    chosen = choose_device(device)
    if against:
        suite.only()
        studies = [with_rivals(studies[0], against)]
    plans = make_plans(suite.title, studies)
    if dry_run:
        from bench.dryrun import describe_plan

        with Reporter(quiet=quiet) as reporter:
            texts = [describe_plan(plan, results, chosen, reporter) for plan in plans]
        click.echo("\n\n".join(texts))
        return
    from bench.cluster.local import HELPER, die_with_parent, helpers
    from bench.runner import Runner

    die_with_parent()
    command = os.environ.get(HELPER) or "bench " + " ".join(sys.argv[1:])
    before = [status for plan in plans for status in plan.statuses(results)]
    with (
        Reporter(quiet=quiet) as reporter,
        helpers(workers - 1, sys.argv[1:], chosen, reporter),
    ):
        for plan in plans:
            provenance = {"command": command, "dataset_source": plan.source, "suite": suite.name}
            Runner(plan, results, chosen, reporter, provenance).run()
    after = [status for plan in plans for status in plan.statuses(results)]
    if not quiet:
        click.echo(_done(before, after, results))
        if against:
            click.echo(verdicts(plans[0], results, options["methods"] or (), against))
    if any(status.failed for status in after):
        raise click.exceptions.Exit(1)


def _done(before: Sequence[CellStatus], after: Sequence[CellStatus], results: Path) -> str:
    """What the command did, and what to do next."""
    pairs = [pair for pair in zip(before, after, strict=True) if not pair[1].failed]
    n_trained = sum(not old.trained and new.trained for old, new in pairs)
    n_made = sum(old.n_missing - new.n_missing for old, new in pairs)
    n_failed = sum(new.failed is not None for new in after)
    named = "" if results == Path("results") else f" --results {results}"
    return (
        f"{len(after)} cells in {results}: {n_trained} trained, {n_made} evaluations and checks "
        f"made, {n_failed} failed. Next: bench report{named}"
    )


def _studies(options: dict[str, Any]) -> tuple[Suite, list[Study]]:
    """The suite that the options start from, and its studies with what they change."""
    from bench.study import changed
    from bench.suite import load_suite

    on_digits = options["arch"] is None and options["dataset"] in (None, "digits")
    name = options.pop("suite") or ("digits" if on_digits else "cifar10")
    suite = load_suite(name, options.pop("size"))
    if any(options[name] for name in ONE_STUDY):
        suite.only()
    return suite, [changed(study, **options) for study in suite.studies]


@main.command()
@click.argument("runs", nargs=-1, metavar="[RUN_ID]...")
@click.option(
    "--model",
    help="A model that was not trained here: FILE.py:FACTORY, robustbench:NAME, torchvision:NAME, "
    "timm:NAME.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Its weights: safetensors, or a state dict that opens without running code.  "
    "[the factory's or the package's own]",
)
@click.option("--mean", help="With --model: normalise in front of it, by 0.49,0.48,0.45 a channel.")
@click.option("--std", help="With --mean: by this standard deviation, 0.25,0.24,0.26.")
@click.option(
    "--attacks",
    callback=_split,
    default="clean,pgd-20,cw,autoattack",
    show_default=True,
    help="pgd-20@4/255 for an eps of its own.",
)
@click.option(
    "--checkpoints", callback=_split, default="best", show_default=True, help="Of runs: best,last."
)
@click.option("--dataset", help="Test images.  [the run's own; needed with --model]")
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
    from bench.attack_given import Where, evaluate_external, evaluate_runs
    from bench.errors import ConfigError
    from bench.external import Named
    from bench.plan_runs import Request

    if bool(runs) == bool(model):
        raise ConfigError("name runs by their ids (bench report lists them), or one --model")
    if runs and (weights or mean or std):
        raise ConfigError("--weights, --mean and --std go with --model; a run has its own")
    request = Request(**options)
    with _at_work(device, workers, quiet) as (chosen, reporter, command, others):
        where = Where(results, chosen, reporter, command, others)
        if model:
            named = Named(model=model, weights=weights, mean=mean, std=std)
            evaluate_external(named, request, where)
        else:
            evaluate_runs(runs, request, where)


@contextmanager
def _at_work(
    device: str, workers: int, quiet: bool
) -> Iterator[tuple[torch.device, Reporter, str, AbstractContextManager[None]]]:
    """The device, the progress display, the command for the records, and helpers to be started."""
    from bench.cluster.local import HELPER, die_with_parent, helpers
    from bench.machine import choose_device, use_threads
    from bench.progress import Reporter

    use_threads()
    chosen = choose_device(device)
    die_with_parent()
    command = os.environ.get(HELPER) or "bench " + " ".join(sys.argv[1:])
    with Reporter(quiet=quiet) as reporter:
        yield chosen, reporter, command, helpers(workers - 1, sys.argv[1:], chosen, reporter)


@main.command("verify-adversarials")
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
    from bench.machine import choose_device, use_threads
    from bench.rechecking import Against, verify_files

    use_threads()
    verdicts = []
    for verdict in verify_files(files, Against(**options), choose_device(device)):
        said = verdict.line if verdict.usable else f"error: {verdict.line}"
        click.echo(said, err=not verdict.usable)
        verdicts.append(verdict)
    if not all(verdict.usable for verdict in verdicts):
        raise click.exceptions.Exit(2)
    if not all(verdict.holds for verdict in verdicts):
        raise click.exceptions.Exit(1)


@main.command()
@results_option
@click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default=Path("reports"),
    show_default=True,
    help="Folder of the tables and figures.",
)
@click.option("--suite", help="Only what one suite or artefact is for: table1, figure2.  [all]")
@click.option("--size", help="Of the paper's artefacts: full, small, tiny.  [the most complete]")
def report(results: Path, reports: Path, suite: str | None, size: str | None) -> None:
    """Make tables and figures from the records, and print Table 3.

    index.md in the reports folder links everything, and says what lacks records.
    """
    from bench.records import load_records
    from bench.report import write_report

    made = write_report(
        load_records(results),
        reports,
        command=_report_command(results, reports),
        results=results,
        suite=suite,
        size=size,
    )
    click.echo(made.text)


@main.command()
@click.argument("first")
@click.argument("second")
@results_option
@click.option("--attack", help="Under this one alone, or 'clean'.  [all that both have]")
@click.option("--checkpoint", default="best", show_default=True, help="best or last.")
@click.option("--dataset", help="Where both have records on several data sets.")
@click.option("--arch", help="Where both have records of several networks.")
@click.option("--recipe", help="Where both have records of several recipes.")
@click.option("--eps", help="Where both have records at several radii: 8/255 or 0.03.")
def compare(
    first: str, second: str, results: Path, attack: str | None, checkpoint: str, **choice: Any
) -> None:
    """Is FIRST more robust than SECOND on the same images, and is it more than chance?

    FIRST and SECOND are methods, or run ids. An image counts where it survives every attack that
    both have.

    \b
    bench compare cat-ce trades
    bench compare cat-ce trades --attack pgd-20 --checkpoint last
    """
    from bench.eps import parse_eps
    from bench.records import load_records
    from bench.report.choice import Choice
    from bench.report.comparison import compare as compared
    from bench.report.facts import require
    from bench.report.verdict import block

    choice["eps"] = None if choice["eps"] is None else parse_eps(choice["eps"])
    records = load_records(results)
    require(records, results)
    picked = Choice(**choice)
    found = compared(records, first, second, attack=attack, checkpoint=checkpoint, choice=picked)
    click.echo(block(found))


@main.command()
@click.option("--only", callback=_split, help="Methods and attacks: trades,pgd-20.  [all]")
@click.option(
    "--pin", is_flag=True, help="Write what is now, after a change that is meant to move."
)
@click.option(
    "--pins",
    type=click.Path(path_type=Path),
    default=Path("results/pinned"),
    show_default=True,
    help="Folder of the pins.",
)
@quiet_option
def verify(only: tuple[str, ...], pin: bool, pins: Path, quiet: bool) -> None:
    """Check that methods and attacks do what they did: short runs against pinned facts.

    Prints a line for each that moved, and what moved. Exit code 1 if any did.
    """
    from bench.progress import Reporter
    from bench.verify import verify as compare_with_pins

    with Reporter(quiet=quiet) as reporter:
        verdict = compare_with_pins(pins, only, reporter, pin=pin)
    for line in verdict.lines:
        click.echo(line)
    if verdict.moved or not quiet:
        click.echo(verdict.summary)
    if verdict.moved:
        raise click.exceptions.Exit(1)


def _report_command(results: Path, reports: Path) -> str:
    named = {"--results": results, "--reports": reports}
    given = [f"{name} {path}" for name, path in named.items() if str(path) != name[2:]]
    return " ".join(["bench report", *given])


@main.command("list")
@click.argument("kind", type=click.Choice(LISTED), default="methods")
def list_command(kind: str) -> None:
    """Print the names of methods, archs, datasets, attacks, suites or recipes."""
    from bench.listing import listing

    click.echo(listing(kind))


if __name__ == "__main__":
    main()
