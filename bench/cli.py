"""The command line. Every import that is slow waits for the command that needs it."""

from __future__ import annotations

import os
from typing import Any

import click

from bench.commands.doctor import doctor
from bench.commands.evaluate import evaluate, verify_adversarials
from bench.commands.listing import list_command
from bench.commands.report import compare, report
from bench.commands.run import run
from bench.commands.speed import speed
from bench.commands.verify import verify
from bench.errors import BenchError

GO_ON = ("run", "evaluate")
"""Commands that take up what they were stopped at."""
SPINS = "2000"
"""Turns that a thread waits awake for the next piece of work, some microseconds; then it sleeps."""

# Before torch is loaded. A small network has thousands of pieces a second: where threads slept
# between them, waking would be most of the time; where they waited awake without end, anything else
# that runs on the machine would make it a hundred times slower.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


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
            goes_on = ctx.invoked_subcommand in GO_ON
            then = "goes on where this one was" if goes_on else "begins anew"
            click.echo(f"stopped; the same command {then}", err=True)
            ctx.exit(130)


@click.group(cls=BenchGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atbench", prog_name="bench")
def main() -> None:
    """Train adversarial training methods under one protocol, attack them, report.

    \b
    bench run                                    the digits suite: minutes on a CPU
    bench run --methods cat-ce,trades --arch wrn CIFAR-10 at 8/255, common recipe
    bench report                                 Table 3 from the records
    bench compare cat-ce trades                  the difference on the same images
    bench list methods                           what there is
    bench doctor                                 what this machine is, lacks, and can do

    Run the same command again and it does only what is missing.
    """


for command in (
    run,
    evaluate,
    report,
    compare,
    verify,
    verify_adversarials,
    doctor,
    speed,
    list_command,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
