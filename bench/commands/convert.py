"""`bench convert`: bring a results folder of an earlier version to today's files. Without torch."""

from pathlib import Path

import click


@click.command(short_help="Merge the many files of old records.")
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--dry-run", is_flag=True, help="Only say what would be converted.")
def convert(results: Path, dry_run: bool) -> None:
    """Merge the many files of each run in RESULTS into one per checkpoint.

    Folders of earlier versions hold two files per chunk of images and one per check. They can be
    read and added to as they are; converted, they are faster to read and to copy. No number
    changes. What is unfinished stays as it is; a damaged file is kept with the ending .damaged.
    After an interruption, run it again.
    """
    from bench.records.run_folder import RunFolder

    counts, busy = [], []
    for head in sorted(results.glob("*/spec.json")):
        folder = RunFolder(results, head.parent.name)
        n = sum(len(entries) for entries in folder.unmerged().values())
        if not dry_run:
            with folder.claimed() as alone:
                n = 0 if alone is False else folder.merge()
            if alone is False:
                busy.append(f"{folder.run_id}: another command works on it; convert it later")
        counts.append(n)
    n_runs, done = sum(n > 0 for n in counts), "would be" if dry_run else "were"
    click.echo(f"{results}: {sum(counts)} evaluations and measures of {n_runs} runs {done} merged")
    if busy:
        click.echo("\n".join(busy), err=True)
        raise click.exceptions.Exit(1)
