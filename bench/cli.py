"""The command line. Slow imports are inside the commands."""

import os
from typing import Any

import click

from bench.commands.convert import convert
from bench.commands.evaluate import evaluate, verify_adversarials
from bench.commands.inspect import doctor, list_command, verify
from bench.commands.report import compare, report
from bench.commands.run import run
from bench.errors import BenchError

RESUMABLE = ("run", "evaluate")

# Set before torch loads. Small networks launch thousands of parallel regions per second. Spin for
# some microseconds, then sleep: sleeping at once is slow, spinning forever starves other processes.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

MOVED = {
    "speed": "python -m benchmarks.steps (attacks, memory, profile, scaling, layers) in a checkout"
}
"""Commands of earlier versions -> what to type instead."""


class BenchGroup(click.Group):
    """Commands whose BenchError is one line on stderr and exit code 2."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in MOVED:
            raise click.UsageError(f"'bench {args[0]}' is now {MOVED[args[0]]}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BenchError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            then = "resume" if ctx.invoked_subcommand in RESUMABLE else "start over"
            click.echo(f"Interrupted. Run the same command again to {then}.", err=True)
            ctx.exit(130)


@click.group(cls=BenchGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atbench", prog_name="bench")
def main() -> None:
    """Train adversarial training methods under one protocol, attack them, and report.

    \b
    bench run --seeds 0 --no-checks        seven methods on digits, in minutes
    bench run --arch wrn --methods cat-ce  CIFAR-10 at 8/255, common recipe
    bench report                           page, tables and figures of the records
    bench compare cat-ce trades            test a difference on the same images
    bench list attacks                     attacks and their definitions
    bench doctor                           this machine, and what is missing

    Interrupted commands resume: run the same command again and it does only what is missing.
    """


COMMANDS = (
    *(run, evaluate, report, compare, verify, verify_adversarials, convert, doctor, list_command),
)
for command in COMMANDS:
    main.add_command(command)


if __name__ == "__main__":
    main()
