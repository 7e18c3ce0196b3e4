"""Wall time of `bench run` with one and two workers, next to an older checkout, in turns.

Every command starts in an empty results folder. With the same number of workers, and so of
threads, both must make the same records.
"""

import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click

from bench.listing import aligned
from bench.records import load_records
from benchmarks.turns import in_turns

HERE = Path(__file__).parent.parent
DEMO = "--seeds 0 --no-checks"


def outcomes(results: Path) -> tuple[tuple[str, str, int], ...]:
    records = load_records(results)
    return tuple((r.run_id, e.eval_id, e.n_correct) for r in records for e in r.evaluations)


@click.command()
@click.argument("older", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--workers", default="1,2", show_default=True, help="Numbers of worker processes.")
@click.option("--rounds", default=3, show_default=True, help="Turns of each.")
@click.option(
    "--options", default=DEMO, show_default=True, help="Other options of `bench run`, in one text."
)
def main(older: Path, workers: str, rounds: int, options: str) -> None:
    """Compare this checkout with OLDER, another checkout of the project."""
    rows = [("workers", "seconds here", "seconds older", "older / here, each round")]
    with TemporaryDirectory() as folder:
        n_runs = 0

        def run(checkout: Path, n: str) -> None:
            nonlocal n_runs
            n_runs += 1
            results = Path(folder, f"{n}-{n_runs}")
            place = ["--results", str(results), "--workers", n, "--quiet"]
            command = [sys.executable, "-m", "bench", "run", *options.split(), *place]
            subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL)

        for n in workers.split(","):
            ours, theirs = in_turns(
                [lambda n=n: run(HERE, n), lambda n=n: run(older.resolve(), n)],  # type: ignore[misc]
                rounds,
                warm_up=False,
            )
            ratios = ", ".join(f"{b / a:.2f}" for a, b in zip(ours, theirs, strict=True))
            rows.append((n, f"{median(ours):.1f}", f"{median(theirs):.1f}", ratios))
        made = {(path.name.split("-")[0], outcomes(path)) for path in Path(folder).iterdir()}
    click.echo(aligned(rows))
    if len(made) != len(workers.split(",")):
        raise click.ClickException("the commands made different records")


if __name__ == "__main__":
    main()
